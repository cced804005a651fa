"""Where things lie in this checkout."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCAL = Path(os.environ.get("FLEET_LOCAL_FOLDER") or ROOT / ".local").resolve()
"""Everything that the local environment writes; git-ignored. A second environment beside it takes another folder."""


def identity_store(environment: str) -> Path:
    """The folder of issued device identities: the local environment's is disposable, the others' are not."""
    return LOCAL / "certs" if environment == "local" else ROOT / ".certs" / environment
