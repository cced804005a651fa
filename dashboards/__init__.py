"""Grafana dashboards as code, the JSON made of it, and what Grafana is provisioned with."""
