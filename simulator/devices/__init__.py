"""What a device is and does: sensors, misbehaviour, envelopes, buffer, management. No I/O."""
