"""The figures of a command, in a file that an option names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.errors import UserError


def write_figures(option: str, path: Path, figures: Mapping[str, Any]) -> None:
    """Writes them as JSON. Raises UserError when the file cannot be written."""
    try:
        path.write_text(json.dumps(figures, indent=2, default=str) + "\n")
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}: choose another place") from None
