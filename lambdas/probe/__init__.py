"""iot-telemetry-probe: connects to AWS IoT Core every minute, as far as one comes without a device's certificate."""
