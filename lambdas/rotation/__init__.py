"""iot-database-rotation: changes database passwords when Secrets Manager says so, without downtime."""
