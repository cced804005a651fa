"""iot-telemetry-maintenance: brings the rollups up to date every minute, and drops what is past its retention."""
