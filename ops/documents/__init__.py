"""What the documents say of the deployed system and is written from its templates: `make docs` writes it."""

from collections.abc import Callable, Mapping

from infra.alarms import table
from ops.cost import document as costs
from ops.documents import security
from simulator import reference

DOCUMENTS: Mapping[str, Callable[[], dict[str, str]]] = {
    "docs/security.md": security.regions,
    "docs/runbook.md": lambda: {"alarms": table.table(), "causes": table.groups()},
    "docs/costs.md": costs.regions,
    "docs/simulator.md": reference.regions,
}
"""What makes the generated regions of each document."""
