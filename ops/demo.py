"""`fleet demo`: a simulated fleet through the whole deployed pipeline, and the audit that proves where each reading is."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dashboards.preview.collect import one_line
from infra.settings import load
from lambdas.maintenance.work import maintain
from local import emulator, timescaledb
from local.state import State
from ops import balance
from ops.audit import view
from ops.audit.cli import TIMEOUT, by_oracle
from ops.audit.record import record
from ops.audit.sheet import Sheet
from ops.audit.waiting import Sources, sources
from ops.balance import Arrived, Balance, Sending
from ops.dashboards.preview import default_path, failure_lines, reader, write_preview
from ops.errors import UserError
from ops.paths import LOCAL
from ops.target import database, ensure_devices, mqtt_endpoint, using_database
from simulator.accounts.report import Progress, RunReport
from simulator.run.engine import run
from simulator.scenario.config import SimulatorConfig

READINGS_PER_SECOND = 1_000
STALLED_SECONDS = 60.0
QUIET_SECONDS = 10.0
"""After which nothing comes any more, when nothing is seen on its way."""
_APPLICATION = "fleet demo"
_MAINTENANCE_SECONDS = 2.0
FLEET = ".venv/bin/fleet"


@dataclass(frozen=True)
class Fleet:
    """The size of the demonstration."""

    devices: int = 50
    seconds: float = 20.0

    @property
    def config(self) -> SimulatorConfig:
        """Devices and interval that make about a thousand readings a second."""
        return SimulatorConfig(
            device_count=self.devices,
            interval_seconds=self.devices / READINGS_PER_SECOND,
            duration_seconds=self.seconds,
            topic=load("local").names.basic_ingest_topic,
        )


@dataclass(frozen=True)
class Result:
    """What a demonstration came to."""

    report: RunReport
    balance: Balance
    sheet: Sheet

    def lines(self) -> list[str]:
        """What stands out, and the verdict."""
        balance = self.balance
        lines = list(view.notes(self.sheet))
        if balance.unproven:
            lines.append(
                f"the devices count {balance.acknowledged:,} acknowledged readings, "
                f"the ground truth {self.sheet.total.expected:,}: one of them is wrong"
            )
        if balance.dealt_with != balance.in_s3 and not balance.in_flight:
            lines.append(
                f"in S3 are {balance.in_s3:,} readings, and {balance.dealt_with:,} were dealt with: see fleet objects"
            )
        if balance.rejected_objects:
            lines.append(f"{balance.rejected_objects:,} objects were refused: fleet quarantine list --kind object")
        return [*lines, view.verdict(self.sheet)]


def oracle_file() -> Path:
    """Where the run's ground truth is kept, until the next demonstration."""
    return LOCAL / "demo.parquet"


def audit_command() -> str:
    """A line that draws up the balance again."""
    return f"{FLEET} audit --oracle {_from_here(oracle_file())}"


def _from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def drive(fleet: Fleet, console: Console, stop: threading.Event) -> Result:
    """Runs the fleet, waits until the pipeline has drained, and audits what arrived.

    `stop` ends the run, or, once that is over, the waiting. Raises UserError.
    """
    config = fleet.config
    with console.status("registering devices") as status:

        def registered(done: int, total: int) -> None:
            status.update(f"registering devices: {done} of {total}")

        identities = ensure_devices("local", config.thing_names(), progress=registered)
        at = sources("local")
        earlier = balance.keys_now(at)
        status.update("connecting")
        host, port = mqtt_endpoint("local")
        report = run(config, identities, host, port, stop=stop, on_progress=_show(status.update), oracle=oracle_file())
        if report.oracle_fault:
            raise UserError(f"nothing can be proven of this run: {report.oracle_fault}")
        sending = Sending(
            devices=frozenset(config.thing_names()),
            since=report.started_at - timedelta(seconds=1),
            published=report.readings_published,
            earlier=earlier,
        )
        try:
            _drain(at, sending, stop, status.update)
            sheet, arrived = _audit(at, sending, status.update)
        except UserError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{reason}: with --keep, fleet up mends what is not running, and {audit_command()} tells where each reading is"
            ) from None
    drawn_up = balance.balance(
        sheet, arrived, published=report.readings_published, acknowledged=report.readings_acknowledged
    )
    return Result(report, drawn_up, sheet)


def _drain(at: Sources, sending: Sending, stop: threading.Event, say: Callable[[str], None]) -> None:
    stopped = stop.is_set()
    say("waiting until the pipeline has drained")
    with suppress(KeyboardInterrupt):  # the second one: what is on its way now is shown as such
        balance.wait_until_drained(
            at,
            lambda: database("local", application_name=_APPLICATION),
            sending,
            stalled_seconds=STALLED_SECONDS,
            quiet_seconds=QUIET_SECONDS,
            enough=lambda: stop.is_set() and not stopped,
            progress=lambda text: say(f"waiting until the pipeline has drained: {text} (Ctrl-C: no longer)"),
        )


def _audit(at: Sources, sending: Sending, say: Callable[[str], None]) -> tuple[Sheet, Arrived]:
    """On a connection of its own, as its temporary tables are."""
    with using_database("local", application_name=_APPLICATION) as database:
        database.execute(f"SET statement_timeout = '{TIMEOUT}'".encode())
        sheet, _ = by_oracle(database, at, oracle_file(), say=say)
        say("counting what is in S3")
        arrived = balance.arrived(at, database, sending)
        record(database, sheet)
    return sheet, arrived


def _show(update: Callable[[str], None]) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        update(
            f"{progress.connected} of {progress.devices} devices connected, "
            f"{progress.readings_published:,} readings published, {progress.readings_acknowledged:,} acknowledged"
        )

    return show


def table(found: Result) -> Table:
    """The balance as a table."""
    report, result = found.report, found.balance
    drawn = Table(title="Where every reading is", title_justify="left", show_header=False, min_width=58)
    drawn.add_column("what")
    drawn.add_column("readings", justify="right")
    drawn.add_column("how it is known", style="dim")
    drawn.add_row(
        "published", f"{result.published:,}", f"{report.devices} devices, {report.messages_published:,} messages"
    )
    drawn.add_row("acknowledged", f"{result.acknowledged:,}", "PUBACK of the broker (QoS 1)")
    if in_doubt := result.published - result.acknowledged:
        drawn.add_row("in doubt", f"{in_doubt:,}", f"never acknowledged; {result.in_doubt_arrived:,} of them arrived")
    drawn.add_row("in S3", f"{result.in_s3:,}", f"counted in {result.objects:,} objects")
    drawn.add_section()
    drawn.add_row("rows", f"{result.rows:,}", "table telemetry, looked up one by one")
    drawn.add_row("duplicates", f"{result.duplicates:,}", "came once more, stored once: the ledger")
    drawn.add_row("quarantined", f"{result.quarantined:,}", "table ingest.quarantine")
    drawn.add_row("in flight", f"{result.in_flight:,}", "Firehose, S3 and queues")
    drawn.add_row("missing", f"{result.missing:,}", "acknowledged, and nowhere", style=_style(result.missing))
    differing = "rows with other values than were sent"
    drawn.add_row("differing", f"{result.differing:,}", differing, style=_style(result.differing))
    drawn.add_section()
    drawn.add_row("latency p50", _seconds(result.latency_p50_seconds), "device timestamp to row visible")
    drawn.add_row("latency p95", _seconds(result.latency_p95_seconds), "")
    drawn.add_row("latency max", _seconds(result.latency_max_seconds), "")
    return drawn


def _style(wrong: int) -> str:
    return "bold red" if wrong else "bold green"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def where_next(state: State, *, keep: bool) -> list[str]:
    """Lines to copy: how to look at the rows, the objects and the state of the running environment."""
    if not keep:
        return [
            "",
            f"What the devices sent is in {_from_here(oracle_file())}. fleet demo --keep leaves the environment running, "
            "to look at with psql, fleet objects, fleet status and fleet audit.",
        ]
    query = "SELECT * FROM telemetry ORDER BY timestamp DESC LIMIT 5"
    return [
        "",
        "Where to look next:",
        f"  rows     {psql_command(state)} -c '{query}'",
        f"  objects  {FLEET} objects",
        f"           {list_command(state)}",
        f"  audit    {audit_command()}",
        f"  status   {FLEET} status",
        f"  stop     {FLEET} down",
    ]


def preview_lines() -> list[str]:
    """Writes the page of dashboards, and says where it is, or in one line why it is not."""
    try:
        with database("local", application_name=_APPLICATION) as connection:
            # The scheduled maintenance would come within the minute; the page is written now.
            until = time.monotonic() + _MAINTENANCE_SECONDS
            maintain(connection, enough=lambda: time.monotonic() > until)
        with reader("local") as connection:
            written = write_preview(connection, "local", default_path("local"))
    except Exception as error:  # whatever is wrong with a page says nothing of the readings, which are what counts here
        return ["", f"The page of all dashboards was not written: {one_line(error)}"]
    return ["", f"All dashboards, to open in a browser: {written.summary()}", *failure_lines(written)]


def psql_command(state: State) -> str:
    """A line that opens the local database, without a password in it."""
    if state.database is not None and state.database.kind == "given":
        return f"psql -h {state.database.host} -p {state.database.port} -d {state.database.dbname}"
    server = timescaledb.status(LOCAL / "timescaledb").server
    if server is None:
        raise UserError("TimescaleDB is not running: fleet up")
    return server.psql_command


def list_command(state: State) -> str:
    """A line that lists the raw objects with AWS's own command line, for those who have it."""
    if state.emulator is None:
        raise UserError("the local environment is not running: start it with fleet up")
    bucket = load("local").names.bucket(emulator.ACCOUNT, emulator.REGION)
    credentials = f"AWS_ACCESS_KEY_ID={emulator.ACCOUNT} AWS_SECRET_ACCESS_KEY=test AWS_REGION={emulator.REGION}"
    endpoint = f"--endpoint-url http://{emulator.HOST}:{state.emulator.port}"
    return f"{credentials} aws {endpoint} s3 ls --recursive s3://{bucket}/"
