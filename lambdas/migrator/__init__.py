"""iot-telemetry-migrator: brings the schema up to date, each migration once, in order, under a lock."""
