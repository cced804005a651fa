"""What is provisioned: settings per environment, one file per stack, small constructs."""
