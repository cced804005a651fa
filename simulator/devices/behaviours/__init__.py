"""What devices do wrong, on purpose and the same for the same seed."""
