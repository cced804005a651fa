"""`fleet demo`: a simulated fleet through the whole deployed pipeline, and the balance that proves where each reading is."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from dashboards.preview.collect import one_line
from infra.settings import load
from lambdas.maintenance.work import maintain
from local import emulator, timescaledb
from local.session import AwsSession, emulator_session
from local.state import State
from ops import balance
from ops.audit.waiting import spooled_readings
from ops.aws import outputs
from ops.balance import Balance, Pipeline
from ops.dashboards.preview import default_path, failure_lines, reader, write_preview
from ops.errors import UserError
from ops.paths import LOCAL
from ops.target import database, ensure_devices, mqtt_endpoint
from simulator.accounts.report import Progress, RunReport
from simulator.run.engine import run
from simulator.scenario.config import SimulatorConfig

READINGS_PER_SECOND = 1_000
STALLED_SECONDS = 60.0
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


def pipeline(aws: AwsSession, state: State) -> Pipeline:
    """The running local pipeline, for the balance. Raises UserError when it is not deployed."""
    names = load("local").names
    deployed = outputs(aws, names.stack("ingest"))
    if state.emulator is None:
        raise UserError("the local environment is not running: start it with fleet up")
    return Pipeline(
        s3=aws.client("s3"),
        sqs=aws.client("sqs"),
        bucket=deployed["BucketName"],
        rule_errors=deployed["RuleErrorQueueUrl"],
        database=database("local", application_name="fleet demo"),
        undelivered=lambda: spooled_readings(LOCAL / "firehose" / "spool"),
    )


def drive(fleet: Fleet, state: State, console: Console, stop: threading.Event) -> tuple[RunReport, Balance]:
    """Runs the fleet, waits until the pipeline has drained, and draws up the balance."""
    if state.emulator is None:
        raise UserError("the local environment is not running: start it with fleet up")
    line = pipeline(emulator_session(state.emulator.port), state)
    with line.database:
        return _drive(fleet, line, console, stop)


def _drive(fleet: Fleet, line: Pipeline, console: Console, stop: threading.Event) -> tuple[RunReport, Balance]:
    config = fleet.config
    with console.status("registering devices") as status:

        def registered(done: int, total: int) -> None:
            status.update(f"registering devices: {done} of {total}")

        identities = ensure_devices("local", config.thing_names(), progress=registered)
        status.update("waiting for what is still on its way")
        start = balance.before(line)
        balance.wait_until_drained(line, start, stalled_seconds=10)
        start = balance.before(line)
        status.update("connecting")
        host, port = mqtt_endpoint("local")
        report = run(config, identities, host, port, stop=stop, on_progress=_show(status.update))
        status.update("waiting until the pipeline has drained")
        balance.wait_until_drained(
            line,
            start,
            stalled_seconds=STALLED_SECONDS,
            progress=lambda left: status.update(
                f"waiting until the pipeline has drained: {left:,} readings on their way"
            ),
        )
        drawn_up = balance.balance(
            line,
            start,
            published=report.readings_published,
            acknowledged=report.acknowledged,
            since=report.started_at - timedelta(seconds=1),
        )
    return report, drawn_up


def _show(update: Callable[[str], None]) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        update(
            f"{progress.connected} of {progress.devices} devices connected, "
            f"{progress.readings_published:,} readings published, {progress.readings_acknowledged:,} acknowledged"
        )

    return show


def table(report: RunReport, result: Balance) -> Table:
    """The balance as a table."""
    drawn = Table(title="Where every reading is", title_justify="left", show_header=False, min_width=58)
    drawn.add_column("what")
    drawn.add_column("readings", justify="right")
    drawn.add_column("how it is known", style="dim")
    drawn.add_row(
        "published", f"{result.published:,}", f"{report.devices} devices, {report.messages_published:,} messages"
    )
    drawn.add_row("acknowledged", f"{result.acknowledged:,}", "PUBACK of the broker (QoS 1)")
    drawn.add_row("in S3", f"{result.in_s3:,}", f"counted in {result.objects:,} objects")
    drawn.add_section()
    drawn.add_row("rows", f"{result.rows:,}", "table telemetry")
    drawn.add_row("duplicates", f"{result.duplicates:,}", "ledger ingest.objects")
    drawn.add_row("quarantined", f"{result.quarantined:,}", "table ingest.quarantine")
    drawn.add_row("in flight", f"{result.in_flight:,}", "Firehose, S3 and queues")
    style = "bold green" if result.missing == 0 else "bold red"
    drawn.add_row("missing", f"{result.missing:,}", "acknowledged, and nowhere", style=style)
    drawn.add_section()
    drawn.add_row("latency p50", _seconds(result.latency_p50_seconds), "device timestamp to row visible")
    drawn.add_row("latency p95", _seconds(result.latency_p95_seconds), "")
    drawn.add_row("latency max", _seconds(result.latency_max_seconds), "")
    return drawn


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def where_next(state: State, *, keep: bool) -> list[str]:
    """Lines to copy: how to look at the rows, the objects and the state of the running environment."""
    if not keep:
        return ["", "fleet demo --keep leaves it running, to look at with psql, fleet objects and fleet status."]
    query = "SELECT * FROM telemetry ORDER BY timestamp DESC LIMIT 5"
    return [
        "",
        "Where to look next:",
        f"  rows     {psql_command(state)} -c '{query}'",
        f"  objects  {FLEET} objects",
        f"           {list_command(state)}",
        f"  status   {FLEET} status",
        f"  stop     {FLEET} down",
    ]


def preview_lines() -> list[str]:
    """Writes the page of dashboards, and says where it is, or in one line why it is not."""
    try:
        with database("local", application_name="fleet demo") as connection:
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
