"""What a run tells of itself: counts, latencies, the report."""
