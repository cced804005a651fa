"""The form in which a dashboard's JSON is committed, whoever wrote it: this repository or Grafana."""

import json
from typing import Any

_GRAFANAS_OWN = ("id", "version", "iteration")
"""What differs from one Grafana to the next, and with every save."""


def canonical(dashboard: dict[str, Any]) -> str:
    """Its JSON without what only the Grafana that holds it gives a meaning to; members in the order of their names."""
    kept = {name: _plain(value) for name, value in dashboard.items() if name not in _GRAFANAS_OWN}
    return json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Whole numbers without a point: Grafana writes them so, whichever way it got them."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
