"""The alarms of an environment as plain data: what is measured, when it is too much, what it means and what to do.

`catalogue.py` gathers them, one file per stretch of the pipeline; `infra/monitoring.py` makes CloudWatch alarms of them.
Nothing here imports the CDK: the runbook's table and the tests read the same data.
"""
