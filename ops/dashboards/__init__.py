"""`fleet dashboards`: what an operator does with the dashboards."""
