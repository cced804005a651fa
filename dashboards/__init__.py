"""Grafana dashboards as code, the JSON made of it, and what Grafana is provisioned with.

The modules here and `boards/` write: `build` turns them into `json/` and the alert rules. `reading/` turns that JSON
back into the SQL that Grafana would send, for the tests, `fleet bench queries` and `preview/`.
"""
