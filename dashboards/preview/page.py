"""The page: template, styles, scripts and data in one file that fetches nothing."""

import base64
import hashlib
import os
from pathlib import Path

import msgspec

from dashboards.preview.data import PreviewData
from ops.errors import UserError
from ops.paths import ROOT

ASSETS = Path(__file__).parent / "assets"
ECHARTS = ROOT / "node_modules" / "echarts" / "dist" / "echarts.min.js"
PARTS = (
    "units.js", "theme.js", "fields.js", "axes.js", "timeseries.js", "charts.js", "panels.js", "grid.js",
)  # fmt: skip
"""What makes models of panels; needs no document, so that tests run it under Node.js."""
_IN_THE_PAGE = ("elements.js", "bodies.js", "page.js")


def render(data: PreviewData) -> str:
    """The whole page. Raises UserError when the chart library is not installed."""
    try:
        library = ECHARTS.read_text()
    except FileNotFoundError:
        raise UserError(f"{ECHARTS.relative_to(ROOT)} is missing: run make setup") from None
    style = (ASSETS / "page.css").read_text()
    scripts = [library, "\n".join((ASSETS / name).read_text() for name in (*PARTS, *_IN_THE_PAGE))]
    filled = {
        "policy": _policy(scripts, style),
        "style": style,
        "data": embedded(msgspec.json.encode(data).decode()),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    page = (ASSETS / "page.html").read_text()
    # Each place once, from a list: what is put in is never looked through for places.
    pieces = []
    for name in ("policy", "style", "data", "scripts"):
        before, page = page.split("{{" + name + "}}", 1)
        pieces += [before, filled[name]]
    return "".join([*pieces, page])


def embedded(text: str) -> str:
    """JSON that cannot end the element it stands in, nor begin a comment: https://html.spec.whatwg.org/#script-data-state."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: list[str], style: str) -> str:
    """Nothing is fetched, nothing runs but the page's own scripts, known by their hashes."""
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write(page: str, path: Path) -> None:
    """Writes the page whole or not at all. Raises UserError when the folder is not writable."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
