"""`fleet dashboards preview`: all dashboards with their data as one HTML page."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from botocore.exceptions import ClientError
from rich.console import Console

from dashboards.preview import page, ranges
from dashboards.preview.collect import Wish, collect
from dashboards.preview.subjects import subjects
from dashboards.reading.model import Dashboard, load_all
from infra.settings import load
from lambdas.shared.database import DatabaseSecretError, connect
from ops.devices.registry import has_site
from ops.errors import UserError
from ops.paths import LOCAL
from ops.target import cannot_connect, database, database_secret

_APPLICATION = "fleet dashboards preview"
_STATEMENT_SECONDS = 15
_FAILURES_NAMED = 5
_ORDER = ("iot-overview", "iot-device", "iot-quality", "iot-pipeline", "iot-operations", "iot-capacity")
_console = Console()
_errors = Console(stderr=True)


@dataclass(frozen=True)
class Written:
    """The page, and one line for each query that failed."""

    path: Path
    size_bytes: int
    seconds: float
    failures: list[str]

    def summary(self) -> str:
        """`.local/preview.html, 1.6 MB, in 2.1 s`, the path as seen from here."""
        here = Path.cwd()
        path = self.path.relative_to(here) if self.path.is_relative_to(here) else self.path
        return f"{path}, {self.size_bytes / 1e6:.1f} MB, in {self.seconds:.1f} s"


def preview(
    environment: Annotated[str, typer.Option("--env", help="Environment: local, dev, staging or prod.")] = "local",
    output: Annotated[
        Path | None, typer.Option(help="The file to write; preview.html (preview-ENV.html) in .local unless given.")
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", help="A range to query, such as 1h or 30d; repeatable. Unless given: 1h, 24h and 30d."),
    ] = None,
    dashboard: Annotated[list[str] | None, typer.Option(help="Only the dashboard with this uid; repeatable.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only devices of this site; repeatable.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="A device to show on its own dashboard; repeatable. Unless given: three.")
    ] = None,
) -> None:
    """Write all dashboards, with the data they show now, into one HTML file that needs no Grafana and no network.

    Exit code 1 when a query failed: its panel says why.
    """
    with _console.status("connecting") as status, reader(environment) as connection:
        written = write_preview(
            connection,
            environment,
            output or default_path(environment),
            range_texts=range_ or (),
            uids=dashboard or (),
            sites=site or (),
            devices=device or (),
            progress=status.update,
        )
    _console.print(written.summary(), highlight=False, soft_wrap=True)
    for line in failure_lines(written):
        _errors.print(line, style="red", highlight=False, soft_wrap=True, markup=False)
    if written.failures:
        raise typer.Exit(1)


def failure_lines(written: Written) -> list[str]:
    """One line for each query that failed, but not for all of many."""
    more = len(written.failures) - _FAILURES_NAMED
    return [*written.failures[:_FAILURES_NAMED], *([f"and {more} more"] if more > 0 else [])]


def default_path(environment: str) -> Path:
    """Where the page is written unless a user says."""
    return LOCAL / ("preview.html" if environment == "local" else f"preview-{environment}.html")


def write_preview(
    connection: psycopg.Connection,
    environment: str,
    path: Path,
    *,
    range_texts: Sequence[str] = (),
    uids: Sequence[str] = (),
    sites: Sequence[str] = (),
    devices: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Written:
    """Queries and writes the page. Raises UserError for what is not there: a dashboard, site, device or folder."""
    began = time.monotonic()
    now = datetime.now(UTC)
    known = load_all()
    missing = [uid for uid in uids if uid not in {each.uid for each in known}]
    if missing:
        raise UserError(f"--dashboard {missing[0]}: it is one of {', '.join(each.uid for each in known)}")
    chosen = sorted((each for each in known if not uids or each.uid in uids), key=_place)
    for site in sites:
        if not has_site(connection, site):
            raise UserError(f"--site {site}: there is no such site; fleet devices sites lists them")
    queried = ranges.given(range_texts) or ranges.worth_showing(connection, now)
    wish = Wish(
        environment=environment,
        now=now,
        ranges=queried,
        fitting=ranges.fitting(connection, queried, now),
        devices=subjects(connection, devices, sites, now),
        sites=sites,
    )
    collected = collect(connection, chosen, wish, lambda what: progress(f"querying {what}"))
    text = page.render(collected.data)
    page.write(text, path)
    return Written(path, path.stat().st_size, time.monotonic() - began, collected.failures)


def _place(dashboard: Dashboard) -> int:
    """As one asks: is the fleet well, which device is not, can its data be trusted, does the pipeline work."""
    return _ORDER.index(dashboard.uid) if dashboard.uid in _ORDER else len(_ORDER)


def reader(environment: str) -> psycopg.Connection:
    """A connection that can change nothing: Grafana's own login, or, where there is none, the operator's made read only.

    Raises UserError when the database cannot be reached.
    """
    connection = _as_grafana(environment) if "grafana" in load(environment).consumers else None
    if connection is None:
        connection = database(environment, application_name=_APPLICATION)
    connection.autocommit = True
    connection.execute("SET default_transaction_read_only = on")
    connection.execute(f"SET statement_timeout = '{_STATEMENT_SECONDS}s'")
    return connection


def _as_grafana(environment: str) -> psycopg.Connection | None:
    """None where that login's secret is not deployed, or not this operator's to read."""
    try:
        secret = database_secret(environment, "grafana")
    except (ClientError, DatabaseSecretError):
        return None
    try:
        return connect(secret, application_name=_APPLICATION, statement_timeout_seconds=_STATEMENT_SECONDS)
    except psycopg.OperationalError as error:
        raise cannot_connect(secret, error) from None
