"""What an environment costs: usage read from its template and settings, priced from a dated file."""
