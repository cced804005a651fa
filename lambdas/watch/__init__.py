"""iot-telemetry-watch: measures every minute what alarms need to know of devices, readings and the database."""
