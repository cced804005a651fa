"""`fleet bench`: each benchmark measures ours and a reference in one run, and prints the ratio."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ops.errors import UserError
from ops.figures import write_figures

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


@app.command()
def pipeline(
    devices: Annotated[int, typer.Option(help="Simulated devices.", min=1)] = 1_000,
    rate: Annotated[
        float | None, typer.Option(help="Readings per second; without it the highest is looked for.", min=1)
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long each rate is held, in seconds.", min=2, max=3600)] = 20.0,
    json_file: JsonFile = None,
) -> None:
    """The whole local stack: the highest rate without one reading missing, and what limits it (about four minutes)."""
    from bench import pipeline as benchmark

    figures = benchmark.run(devices, rate, seconds, console)
    _write(figures, json_file)
    if figures["missing"]:
        raise typer.Exit(1)


@app.command()
def oracle(
    readings: Annotated[int, typer.Option(help="Readings of one run in envelopes.", min=50_000)] = 1_000_000,
    rounds: Annotated[int, typer.Option(help="Runs without and with it, in turn.", min=1, max=99)] = 5,
    json_file: JsonFile = None,
) -> None:
    """What recording the ground truth costs a run, and its bytes per reading (about a minute and a half)."""
    from bench import oracle as benchmark

    figures = benchmark.run(readings, rounds, console)
    _write(figures, json_file)


@app.command()
def simulator(
    devices: Annotated[
        int | None, typer.Option(help="Devices; without it 1, 100, 1,000 and 10,000.", min=1, max=10_000)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """The simulator's rate beside MQTT.js and beside what mosquitto can take (about five minutes)."""
    from bench import simulator as benchmark

    figures = benchmark.run(devices, console)
    _write(figures, json_file)


def _write(figures: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        write_figures("--json", path, figures)
