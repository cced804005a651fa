"""`fleet slo`: whether the runbook's service levels are kept."""
