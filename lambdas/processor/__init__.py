"""iot-telemetry-processor: loads raw objects into TimescaleDB, each exactly once."""
