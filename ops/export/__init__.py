"""`fleet export`: what the database holds of a span of time, as CSV or Parquet."""
