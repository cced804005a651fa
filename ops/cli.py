"""The `fleet` command line."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lambdas.shared.database import DatabaseSecretError
from ops.errors import UserError
from ops.figures import write_figures
from ops.terminal import printable

app = typer.Typer(
    name="fleet",
    help="IoT telemetry on AWS in which every message is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

DatabaseOption = Annotated[
    str,
    typer.Option(help="Where TimescaleDB comes from: auto, debian (its packages, unpacked here) or docker."),
]
DatabaseUrlOption = Annotated[
    str | None,
    typer.Option(
        help="A TimescaleDB of your own (TLS), as postgresql://USER:PASSWORD@HOST:PORT/DBNAME?sslrootcert=FILE.",
        envvar="FLEET_DATABASE_URL",
        show_envvar=True,
    ),
]


def _progress(text: str) -> None:
    console.print(f"  {text}", style="dim", highlight=False)


def _bring_up(
    database: str, database_url: str | None, port: int | None, mqtt_port: int | None, database_port: int | None
) -> None:
    from local import stack

    if database not in {"auto", "debian", "docker"}:
        raise UserError(f"--database {database}: use auto, debian or docker")
    stack.up(
        _progress,
        ports=stack.Ports(emulator=port, mqtt=mqtt_port, database=database_port),
        database=database,  # type: ignore[arg-type]
        database_url=database_url,
    )


@app.command()
def up(
    database: DatabaseOption = "auto",
    database_url: DatabaseUrlOption = None,
    port: Annotated[int | None, typer.Option(help="Port of the AWS emulator; a free one unless given.")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="Port of the MQTT listener.")] = None,
    database_port: Annotated[int | None, typer.Option(help="Port of TimescaleDB.")] = None,
) -> None:
    """Start the local environment, or mend what of it is not running."""
    _bring_up(database, database_url, port, mqtt_port, database_port)
    _show_status()


@app.command()
def status() -> None:
    """Show every part of the local environment; exit code 1 when one is not running."""
    if not _show_status():
        raise typer.Exit(1)


def _show_status() -> bool:
    from local import stack

    parts = stack.status()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("part", "state", "where", "log"):
        table.add_column(heading, overflow="fold")
    for part in parts:
        state = "[green]running[/]" if part.running else "[red]not running[/]"
        table.add_row(part.name, state, part.detail, _relative(part.log))
    console.print(table)
    if not all(part.running for part in parts):
        console.print("fleet up starts or mends what is not running.")
        return False
    return True


def _relative(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if path and Path(path).is_relative_to(here) else path


@app.command()
def down() -> None:
    """Stop the local environment and remove its data; downloads stay."""
    from local import stack

    stack.down(_progress)


@app.command()
def objects(
    environment: Annotated[str, typer.Option("--env", help="Environment: local, dev, staging or prod.")] = "local",
    count: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
) -> None:
    """List the newest raw objects, and what the ledger says of each."""
    from ops.objects import newest

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("key", "bytes", "state", "readings", "rows", "duplicates", "quarantined"):
        table.add_column(heading, overflow="fold", justify="left" if heading in {"key", "state"} else "right")
    for entry in newest(environment, count):
        table.add_row(*(str(value) for value in entry))
    console.print(table)


@app.command()
def demo(
    devices: Annotated[int, typer.Option(help="Simulated devices.", min=1, max=1000)] = 50,
    seconds: Annotated[float, typer.Option(help="How long they publish, in seconds.", min=1, max=3600)] = 20.0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the local environment running.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    database: DatabaseOption = "auto",
    database_url: DatabaseUrlOption = None,
) -> None:
    """Show a fleet's readings arrive in TimescaleDB, and prove that none is missing (exit code 0 only then)."""
    from local import stack
    from ops import demo as demonstration

    if json_file is not None and not os.access(json_file.absolute().parent, os.W_OK):
        raise UserError(f"--json {json_file}: the folder is not writable or does not exist")
    stop = threading.Event()
    try:
        _bring_up(database, database_url, None, None, None)
        signal.signal(signal.SIGINT, _stop_once(stop))
        fleet = demonstration.Fleet(devices=devices, seconds=seconds)
        result = demonstration.drive(fleet, console, stop)
        balance = result.balance
        console.print(demonstration.table(result))
        for line in result.lines():
            console.print(printable(line), highlight=False, soft_wrap=True, markup=False)
        if json_file is not None:
            write_figures("--json", json_file, balance.as_json())
        with console.status("writing the page of dashboards"):
            lines = demonstration.preview_lines()
        for line in [*lines, *demonstration.where_next(stack.read_state(), keep=keep)]:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    finally:
        if not keep:
            stack.down(_progress)
    if not balance.accounted_for or not balance.acknowledged:
        raise typer.Exit(1)


def _stop_once(stop: threading.Event) -> "signal._HANDLER":
    def handle(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    return handle


def _add_rooms() -> None:
    """The commands that live beside the code they are about."""
    from bench.cli import app as bench_app
    from certs.cli import app as certs_app
    from ops.anomalies.cli import app as anomalies_app
    from ops.audit.cli import audit
    from ops.cost.cli import cost
    from ops.dashboards.cli import app as dashboards_app
    from ops.devices.cli import app as devices_app
    from ops.export.cli import export
    from ops.quality.cli import quality
    from ops.quarantine.cli import app as quarantine_app
    from ops.replay.cli import rebuild, replay
    from ops.slo.cli import slo
    from simulator.cli import simulate

    app.add_typer(anomalies_app, name="anomalies", help="What was found wrong with readings: list, show, resolve.")
    app.add_typer(bench_app, name="bench", help="Benchmarks: ours and a reference in one run, with the ratio.")
    app.add_typer(certs_app, name="certs", help="Device identities: issue, register, list, check, unregister.")
    app.add_typer(dashboards_app, name="dashboards", help="Grafana's dashboards: import, export, preview, container.")
    app.add_typer(devices_app, name="devices", help="The registry of devices and sites: import, list, show, update.")
    app.add_typer(quarantine_app, name="quarantine", help="What was refused: list, show, redrive, discard.")
    app.command()(simulate)
    app.command()(audit)
    app.command()(cost)
    app.command()(export)
    app.command()(quality)
    app.command()(replay)
    app.command()(rebuild)
    app.command()(slo)


def main() -> None:
    """Runs the command line; a fault that the user can mend is one line and exit code 2."""
    try:
        _run()
    except KeyboardInterrupt:
        errors.print("fleet: interrupted", highlight=False)
        sys.exit(130)


def _run() -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    from ops.aws import aws_line

    _add_rooms()
    try:
        app()
    except (UserError, DatabaseSecretError) as error:
        errors.print(f"fleet: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2)
    except (BotoCoreError, ClientError) as error:
        errors.print(f"fleet: {aws_line(error)}", style="red", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2)
