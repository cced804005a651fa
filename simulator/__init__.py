"""The device simulator: devices with an identity, a connection, sensors and an account of what they sent, each its own."""
