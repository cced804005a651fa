"""The generated parts of docs/security.md, for prod: who may do what, who may be whom, and which rules are broken why."""

import tempfile
from pathlib import Path

from infra.settings import load
from ops.documents import permissions, waivers
from ops.synthesis import held_to_rules


def regions() -> dict[str, str]:
    """Content by region, from a synthesis of prod. Slow: some seconds. Raises RuntimeError on a finding of cdk-nag."""
    with tempfile.TemporaryDirectory(prefix="fleetledger-synth-") as name:
        folder = Path(name)
        templates = held_to_rules(load("prod"), folder)
        return {
            "permissions": permissions.table(permissions.permissions(templates)),
            "roles": permissions.trusted(templates),
            "waivers": waivers.table(waivers.waivers(folder)),
        }
