"""`fleet devices`: the registry of devices and sites, kept in step with the things of AWS IoT."""
