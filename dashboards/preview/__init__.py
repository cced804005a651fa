"""All dashboards with their data as one HTML page that needs neither Grafana nor a network."""
