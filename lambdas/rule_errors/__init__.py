"""iot-telemetry-rule-errors: messages whose rule action failed become quarantined rows."""
