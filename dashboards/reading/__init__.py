"""From dashboards' JSON, whoever wrote it, to the SQL that Grafana would send for it."""
