"""The connections: the AWS Common Runtime over mutual TLS, and why one cannot be made."""
