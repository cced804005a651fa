"""`fleet bench`: each benchmark measures ours and a reference in one run, and prints the ratio."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ops.errors import UserError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
console = Console()


def _writable(path: Path | None) -> Path | None:
    """Refuses a file at the beginning that could not be written at the end."""
    if path is not None and not os.access(path.absolute().parent, os.W_OK):
        raise UserError(f"--json {path}: the folder is not writable or does not exist")
    return path


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.", callback=_writable)]


@app.callback()
def bench() -> None:
    """Benchmarks: ours and a reference in one run."""


@app.command()
def loader(
    rows: Annotated[int, typer.Option(help="Readings in the comparison.", min=10_000)] = 1_000_000,
    largest: Annotated[int, typer.Option(help="Largest object of the series from 10,000 up.", min=0)] = 10_000_000,
    json_file: JsonFile = None,
) -> None:
    """The loader against psql's \\copy, executemany and a temporary table (about five minutes)."""
    from bench import loader as benchmark

    figures = benchmark.run(rows, largest, console)
    _write(figures, json_file)


@app.command()
def storage(
    rows: Annotated[int, typer.Option(help="Readings to store.", min=10_000)] = 1_000_000, json_file: JsonFile = None
) -> None:
    """Bytes per reading in the database, before and after compression (Community edition; about a minute)."""
    from bench import storage as benchmark

    figures = benchmark.run(rows, console)
    _write(figures, json_file)


@app.command()
def queries(
    rows: Annotated[int, typer.Option(help="Readings in the database.", min=10_000)] = 10_000_000,
    json_file: JsonFile = None,
) -> None:
    """Every panel of the dashboards at 1 hour, 24 hours and 30 days (about ten minutes)."""
    from bench import queries as benchmark

    figures = benchmark.run(rows, console)
    _write(figures, json_file)


@app.command()
def anomalies(
    data: Annotated[Path, typer.Option(help="A checkout of the Numenta Anomaly Benchmark (github.com/numenta/NAB).")],
    json_file: JsonFile = None,
) -> None:
    """The loader's detector beside a plain 3-sigma rule, scored as the Numenta Anomaly Benchmark does."""
    from bench import anomalies as benchmark

    figures = benchmark.run(data, console)
    _write(figures, json_file)


def _write(figures: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n")
