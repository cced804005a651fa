"""`fleet slo`."""

from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import psycopg
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from dashboards.reading.macros import TimeRange
from infra.settings import load
from ops.aws import session_for
from ops.dashboards.preview import reader
from ops.errors import UserError
from ops.options import AsJson, Env
from ops.slo.cloudwatch import offered
from ops.slo.levels import Level, Verdict
from ops.slo.measure import Subject, measure, missed
from ops.target import database_faults_named
from ops.terminal import print_json
from ops.times import parse_time

_console = Console()
_COLOURS = {Verdict.MET: "green", Verdict.MISSED: "red", Verdict.NOT_TESTED: "yellow", Verdict.NO_DATA: "yellow"}
_SHORTEST = timedelta(minutes=1)


def slo(
    start: Annotated[
        str, typer.Option("--from", help="ISO 8601 (UTC unless it has an offset), or relative: 1h, 3d.")
    ] = "1h",
    end: Annotated[str, typer.Option("--to", help="The same.")] = "now",
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Measure the service levels of the runbook; exit code 1 when one is missed.

    How fast queries and dashboards are is measured now; everything else over the span.
    """
    now = datetime.now(UTC)
    span = parse_span(start, end, now)
    status = nullcontext(None) if as_json else _console.status("connecting")
    with database_faults_named(env), status as shown:
        told = "" if env == "local" else offered(session_for(env).client("cloudwatch"), load(env).names, span)
        subject = Subject(settings=load(env), span=span, now=now, connect=lambda: _connect(env), offered=told)
        found = list(measure(subject, lambda what: shown.update(what) if shown else None))
    if as_json:
        print_json(
            {
                "environment": env,
                "from": span.begin,
                "to": span.end,
                "missed": missed(found),
                "levels": [asdict(level) for level in found],
            }
        )
    else:
        _console.print(report(found))
        _console.print(f"\n{conclusion(found)}", highlight=False)
        _console.print(f"{env}, {span.begin:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} (UTC)", highlight=False)
    if missed(found):
        raise typer.Exit(1)


def parse_span(start: str, end: str, now: datetime) -> TimeRange:
    """What is looked at. Raises UserError when it is none, or too short to say anything."""
    begin, until = parse_time(start, "--from", now), min(parse_time(end, "--to", now), now)
    if until - begin < _SHORTEST:
        raise UserError(f"--from {start} --to {end}: less than a minute of the past lies between: begin earlier")
    return TimeRange(begin, until)


def _connect(environment: str) -> psycopg.Connection:
    connection = reader(environment)
    connection.execute("SET application_name = 'fleet slo'")
    return connection


def report(found: list[Level]) -> Group:
    """One line per level, and below what each figure is: for a terminal of 80 columns."""
    figures = Table(box=None, padding=(0, 2, 0, 0))
    figures.add_column("service level")
    figures.add_column("target", no_wrap=True)
    figures.add_column("measured", no_wrap=True, justify="right")
    figures.add_column("", no_wrap=True)
    notes = Table.grid(padding=(0, 2, 0, 0))
    notes.add_column(width=20)
    notes.add_column()
    for level in found:
        figures.add_row(level.name, level.target, _figure(level), Text(level.verdict, _COLOURS[level.verdict]))
        notes.add_row(
            level.name, Text.assemble((f"{level.how} ({level.over})", "dim"), level.note and f"\n{level.note}")
        )
    return Group(figures, "", notes)


def conclusion(found: list[Level]) -> str:
    """How many levels stand how: what was not measured is no pass."""
    verdicts = [level.verdict for level in found]
    counted = (f"{verdicts.count(each)} {each}" for each in Verdict if each in verdicts)
    return f"{len(found)} service levels: {', '.join(counted)}"


def _figure(level: Level) -> str:
    return "-" if level.value is None else f"{level.value:,.4g} {level.unit.replace('readings', '')}"
