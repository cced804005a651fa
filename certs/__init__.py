"""Device identity: the device CA, the certificates it issues, and their registration with AWS IoT Core."""
