"""`fleet export`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from ops.errors import UserError
from ops.export.destination import check, opened
from ops.export.order import Format, Order, parse_format, parse_order
from ops.export.run import Exported, Progress
from ops.export.run import export as run
from ops.export.tables import TABLES
from ops.options import Env
from ops.target import using_database

_BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE ended."""


def export(
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="ISO 8601 (UTC unless it has an offset), or relative: -2h, -3d. Included.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[str, typer.Option("--to", help="The same; not included.")] = "now",
    device: Annotated[list[str] | None, typer.Option("--device", help="Only this one; can be given again.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Only devices at this site.")] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only this one; can be given again.")] = None,
    table: Annotated[str, typer.Option(help=f"One of {', '.join(TABLES)}.")] = "telemetry",
    form: Annotated[
        str | None, typer.Option("--format", help="csv or parquet. (default: by the name of the output, else csv)")
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="A file, or - for standard output.")] = "-",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    env: Env = "local",
) -> None:
    """Write readings, rollups, anomalies or data quality of a span of time to a CSV or Parquet file.

    Rows come in no particular order, as of one moment. A file is there whole or not at all.
    """
    order = parse_order(
        table=table, start=start, end=end, devices=device or (), site=site, metrics=metric or (), now=datetime.now(UTC)
    )
    chosen = parse_format(form, output)
    _check_output(output, chosen, force=force)
    console = Console(stderr=True, highlight=False)
    try:
        done = _export(console, order, chosen, output, env, force=force)
    except BrokenPipeError:
        # Whoever read has had enough. What is still buffered goes nowhere, and not into a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_BROKEN_PIPE) from None
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    console.print(_summary(order, done, output), soft_wrap=True, markup=False)


def _check_output(output: str, chosen: Format, *, force: bool) -> None:
    if output != "-":
        check(Path(output), force=force)
    elif chosen == "parquet" and sys.stdout.isatty():
        raise UserError("Parquet is not for a terminal: give --output FILE, or send it through a pipe")


def _export(console: Console, order: Order, chosen: Format, output: str, env: str, *, force: bool) -> Exported:
    with (
        using_database(env, application_name="fleet export") as connection,
        opened(output, force=force) as sink,
        _progress(console) as progress,
    ):
        return run(connection, order, chosen, sink, env, progress)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Shows how far it is, on a terminal; how much there will be, nobody knows before the end."""
    if not console.is_terminal:
        yield lambda rows, size: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("asking the database")
        yield lambda rows, size: bar.update(task, description=f"{rows:,} rows, {size / 1e6:,.1f} MB")


def _summary(order: Order, done: Exported, output: str) -> str:
    start = f"{order.start:%Y-%m-%dT%H:%M:%SZ}" if order.start else "the first"
    rate = f" ({done.rows / done.seconds:,.0f} rows/s)" if done.seconds >= 1 else ""
    where = "" if output == "-" else f" to {output}"
    return (
        f"{order.table.name} from {start} to {order.end:%Y-%m-%dT%H:%M:%SZ}: {done.rows:,} rows, "
        f"{done.bytes_written:,} bytes in {done.seconds:.1f} s{rate}{where}"
    )
