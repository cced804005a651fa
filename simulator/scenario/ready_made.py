"""The scenarios that come with the project."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ops.errors import UserError
from simulator.scenario.loading import load_config

_FOLDER = Path(__file__).parents[1] / "scenarios"


@dataclass(frozen=True)
class ReadyMade:
    """One of them."""

    name: str
    devices: int
    shows: str
    """The first comment of its file."""


def scenario_file(text: str) -> Path:
    """The file that `--config` means: one of the user's, or else a ready-made scenario's. Raises `UserError`."""
    path = Path(text)
    ready = _FOLDER / f"{text}.yaml"
    if path.is_file() or path.suffix or path.name != text:
        return path
    if ready.is_file():
        return ready
    names = [file.stem for file in _files()]
    close = get_close_matches(text, names, n=1)
    meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    raise UserError(f"--config {text}: is neither a file nor a ready-made scenario: {meant}")


def ready_made() -> list[ReadyMade]:
    """All of them, by name."""
    return [ReadyMade(file.stem, load_config(file).device_count, _first_comment(file)) for file in _files()]


def _files() -> list[Path]:
    return sorted(_FOLDER.glob("*.yaml"))


def _first_comment(file: Path) -> str:
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines)
