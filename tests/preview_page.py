"""What a page of dashboards is, as a browser and as Node.js see it."""

import base64
import hashlib
import json
import re
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dashboards.preview.page import ASSETS, ECHARTS, PARTS

_PANELS = Path(__file__).parent / "preview_panels.cjs"


def panels(page: Path) -> list[dict[str, Any]]:
    """Every panel of every page and range, drawn light and dark under Node.js."""
    done = subprocess.run(
        ["node", _PANELS, page, ECHARTS, *(ASSETS / name for name in PARTS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@dataclass
class Document(HTMLParser):
    """The elements of a page, and the texts of its scripts and styles."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._into: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        texts = {"script": self.scripts, "style": self.styles}.get(tag)
        self._into = texts
        if texts is not None:
            texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._into = None

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into[-1] += data


def parsed(text: str) -> Document:
    """The page's elements."""
    document = Document()
    document.feed(text)
    return document


def assert_is_self_contained(text: str) -> None:
    """No element that fetches, and a policy by which nothing could be, and nothing runs but what is in the page."""
    document = parsed(text)
    names = [tag for tag, _ in document.tags]
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(names)
    for tag, attributes in document.tags:
        assert "src" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert (attributes.get("href") or "#").startswith("#")
    [policy] = [each["content"] for _, each in document.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    data, *code = document.scripts
    assert json.loads(data)
    assert rules["script-src"].split() == [_hash(script) for script in code]
    assert rules["style-src"].split() == [_hash(style) for style in document.styles]
    ours = text.replace(ECHARTS.read_text(), "")
    assert set(re.findall(r"https?://[\w.-]+", ours)) <= {"http://www.w3.org"}
    assert "Licensed to the Apache Software Foundation" in text


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
