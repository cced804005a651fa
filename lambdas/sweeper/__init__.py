"""iot-telemetry-sweeper: finds raw objects that were never loaded, and announces them to the loader again."""
