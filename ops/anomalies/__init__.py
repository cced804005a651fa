"""`fleet anomalies`: what was found wrong with readings, and what became of it."""
