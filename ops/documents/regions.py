"""Regions of a Markdown file that are written by code, between `<!-- NAME: generated ... -->` and `<!-- /NAME -->`."""

import re
from pathlib import Path

from ops.errors import UserError


def replaced(text: str, name: str, content: str) -> str:
    """`text` with the region `name` holding `content`. Raises UserError when there is no such region."""
    region = re.compile(rf"(<!-- {re.escape(name)}: generated[^>]*-->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not region.search(text):
        raise UserError(f"no region {name!r}: put <!-- {name}: generated --> and <!-- /{name} --> where it belongs")
    return region.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def write(path: Path, regions: dict[str, str]) -> bool:
    """Puts each region's content into the file; whether that changed it."""
    before = path.read_text(encoding="utf-8")
    after = before
    for name, content in regions.items():
        after = replaced(after, name, content)
    if after != before:
        path.write_text(after, encoding="utf-8")
    return after != before
