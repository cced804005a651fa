"""What prod's templates were when somebody last looked: `make snapshots` writes them, a test compares.

A change of settings or of code shows in the diff of `tests/infra/snapshots/prod/` exactly as far as it reaches prod.
Hashes of what is uploaded are left out: they change with every line of a Lambda.
"""

import json
import re
import sys
from pathlib import Path

from tests.infra.templates import synthesised

FOLDER = Path(__file__).with_name("snapshots") / "prod"
_UPLOADS = re.compile(r"\b[0-9a-f]{64}\b")
# CDK appends a hash of a function's content to the name of its version.
_VERSIONS = re.compile(r"(CurrentVersion[0-9A-F]{8})[0-9a-f]{32}\b")


def current() -> dict[str, str]:
    """Prod's templates by layer, as they are written to the files."""
    return {
        layer: _VERSIONS.sub(r"\1", _UPLOADS.sub("(uploaded)", json.dumps(template, indent=1, sort_keys=True))) + "\n"
        for layer, template in synthesised("prod").stacks.items()
    }


def recorded() -> dict[str, str]:
    """What was written."""
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}


def write() -> list[str]:
    """Writes the files anew; the layers that changed."""
    before, now = recorded(), current()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for layer in before.keys() - now.keys():
        (FOLDER / f"{layer}.json").unlink()
    for layer, text in now.items():
        (FOLDER / f"{layer}.json").write_text(text, encoding="utf-8")
    return sorted(layer for layer in before.keys() | now.keys() if before.get(layer) != now.get(layer))


if __name__ == "__main__":
    changed = write()
    sys.stdout.write(f"snapshots: {', '.join(changed) or 'nothing'} changed\n")
