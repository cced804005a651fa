"""How commands print what devices and people wrote, without letting it drive the terminal."""

import json
from typing import Any

import typer
from rich.text import Text


def printable(text: str) -> Text:
    """Text that cannot drive the terminal: what does not print is escaped, newlines and tabs stay."""
    return Text("".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text))


def print_json(value: Any) -> None:
    """Prints JSON, in ASCII whatever it holds; dates and times in ISO 8601."""
    typer.echo(json.dumps(value, indent=2, default=lambda at: at.isoformat()))
