"""`fleet audit`: where every reading is. Exit code 1 when one is missing, differs, or was sent by nobody."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console

from infra.settings import load
from ops.audit import sequence, truth, view
from ops.audit.cross_check import cross_check
from ops.audit.record import record
from ops.audit.sheet import Sheet
from ops.audit.staging import stage
from ops.audit.truth import Window
from ops.audit.waiting import Sources, sources, waiting_lines
from ops.aws import session_for
from ops.errors import UserError
from ops.figures import write_figures
from ops.options import AsJson, Env
from ops.target import using_database
from ops.terminal import print_json, printable
from ops.times import parse_time
from simulator.oracle import read

_console = Console()
_progress = Console(stderr=True)
_DAY = timedelta(days=1)
_AROUND = timedelta(hours=1)
_LATE = timedelta(hours=2)
"""How long after a run its messages may still be taken in."""
_MOST = timedelta(days=31)
TIMEOUT = "30min"
"""Of each of its statements."""
_LOCK_TIMEOUT = "1min"
"""For whoever changes the schema; readers and writers never wait for each other."""

Say = Callable[[str], None]


def audit(
    oracle: Annotated[
        Path | None,
        typer.Option("--oracle", metavar="FILE", help="What fleet simulate --oracle wrote: value by value."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Readings from then on; without an oracle 24h unless given."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Readings before that; now unless given.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="Only this device.")] = None,
    as_json: AsJson = False,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", metavar="FILE", help="Write all that was found to this file.")
    ] = None,
    env: Env = "local",
) -> None:
    """Draw up the balance: of what was sent, what is a row, refused, on its way, or missing (exit code 1)."""
    now = datetime.now(UTC)
    begin = None if since is None else parse_time(since, "--from", now)
    end = None if until is None else parse_time(until, "--to", now)
    if begin is not None and (end or now) <= begin:
        raise UserError(f"--from {since}: it must be before --to {until or 'now'}")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json-file {json_file}: the folder does not exist")
    with using_database(env, application_name="fleet audit") as database:
        database.execute(f"SET statement_timeout = '{TIMEOUT}'; SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        at = sources(env)
        with _progress.status("looking for what is on its way") as status:
            say: Say = status.update
            if oracle is not None:
                sheet, window = by_oracle(database, at, oracle, since=begin, until=end, device=device, say=say)
            else:
                window = Window(begin or now - _DAY, end or now)
                sheet = by_sequence(database, at, window, device, say)
            say("asking AWS for its own counts")
            sheet.cross_check = cross_check(session_for(env).client("cloudwatch"), load(env).names, *window)
            if oracle is None or (begin is None and end is None):  # else a part of an hour would be taken for the whole
                record(database, sheet)
    _show(sheet, as_json=as_json, json_file=json_file)
    if not sheet.accounted_for:
        raise typer.Exit(1)


def by_oracle(
    database: psycopg.Connection,
    at: Sources,
    path: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    device: str | None = None,
    say: Say = lambda _: None,
) -> tuple[Sheet, Window]:
    """The sheet of a run, and from when to when it was. Raises UserError for a file that is none, and psycopg.Error."""
    with read(path) as truths:
        facts = truths.facts
        say("reading the ground truth")
        staged = stage(database, truths.batches(), since=since, until=until, device=device, say=say)
    now = datetime.now(UTC)
    run = Window(facts.started_at, facts.ended_at or now)
    rule_errors = at.rule_errors()
    lines = waiting_lines(
        at,
        database,
        run.started_at - _AROUND,
        min(now, run.ended_at + _LATE),
        lambda number: say(f"reading what is not loaded yet: {number:,} objects"),
    )
    truth.collect_waiting(database, staged, lines)
    sheet = truth.look_up(
        database,
        staged,
        run,
        young_since=at.young_since(now, rule_errors),
        rule_refuses=at.rule_refuses,
        say=say,
    )
    _complete(database, sheet, rule_errors, run.started_at)
    return sheet, run


def by_sequence(database: psycopg.Connection, at: Sources, window: Window, device: str | None, say: Say) -> Sheet:
    """The sheet of some hours, of any fleet. Raises UserError and psycopg.Error."""
    since, until = window
    if until - since > _MOST:
        raise UserError(
            f"--from {since:%Y-%m-%dT%H:%MZ}: at most {_MOST.days} days at a time; ingest.balance has them all"
        )
    rule_errors = at.rule_errors()
    lines = waiting_lines(
        at,
        database,
        since - _AROUND,
        datetime.now(UTC),
        lambda number: say(f"reading what is not loaded yet: {number:,} objects"),
    )
    waiting = sequence.waiting_by_hour(lines, device)
    sheet = sequence.look_up(database, since, until, device, waiting, say)
    _complete(database, sheet, rule_errors, since)
    return sheet


def _complete(database: psycopg.Connection, sheet: Sheet, rule_errors: int, since: datetime) -> None:
    sheet.rule_errors = rule_errors
    row = database.execute(
        "SELECT count(*) FROM ingest.refusals WHERE kind = 'object' AND resolution IS NULL AND at >= %s", (since,)
    ).fetchone()
    sheet.rejected_objects = row[0] if row else 0


def _show(sheet: Sheet, *, as_json: bool, json_file: Path | None) -> None:
    if json_file is not None:
        write_figures("--json-file", json_file, sheet.as_json())
    if as_json:
        print_json(sheet.as_json())
        return
    _console.print(view.table(sheet))
    for line in [*view.notes(sheet), *view.cross_check_lines(sheet)]:
        _console.print(printable(line), highlight=False, soft_wrap=True)
    style = "bold green" if sheet.accounted_for else "bold red"
    _console.print(view.verdict(sheet), style=style, highlight=False, soft_wrap=True, markup=False)
