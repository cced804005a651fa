"""`fleet quarantine`: list, show, redrive and discard what the pipeline refused or gave up on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops.errors import UserError
from ops.options import AsJson, Env
from ops.quarantine import refusals, view
from ops.quarantine.dead_letters import LOOKING_SECONDS, WORKING_SECONDS, waiting_in
from ops.quarantine.items import KINDS_IN_DATABASE, Filter, Item, parse_filter, parse_id
from ops.quarantine.outcome import Tally
from ops.quarantine.pipeline import Pipeline, deployed_pipeline
from ops.quarantine.select import by_filter, by_ids, matching, open_queues
from ops.quarantine.work import Advance, Queues, Selection, carry_out, discard_steps, redrive_steps
from ops.target import database_faults_named
from ops.terminal import print_json, printable

app = typer.Typer(
    help="What the pipeline refused or gave up on: list it, look at it, redrive it or discard it.",
    no_args_is_help=True,
)
_console = Console()
_errors = Console(stderr=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as list prints them.", show_default=False)]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--kind", help="line, object, event, message or rule-error; can be given several times."),
]
Reason = Annotated[str | None, typer.Option(help="Why it was refused, e.g. timestamp_in_the_future.")]
Device = Annotated[str | None, typer.Option(help="Thing name of the device.")]
From = Annotated[str | None, typer.Option("--from", help="Refused since then: ISO 8601 (UTC), or 6h, 2d ago.")]
To = Annotated[str | None, typer.Option("--to", help="Refused before then.")]
Key = Annotated[str | None, typer.Option("--object", metavar="KEY", help="Key of the S3 object, or s3://BUCKET/KEY.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


@app.command("list")
def list_items(
    kinds: Kinds = None,
    reason: Reason = None,
    device: Device = None,
    since: From = None,
    until: To = None,
    key: Key = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    resolved: Annotated[bool, typer.Option("--all", help="Also what was redriven or discarded.")] = False,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """List what waits for an operator."""
    chosen = _filter(kinds, reason, device, since, until, key, resolved=resolved)
    with _pipeline(env) as pipeline:
        items, total = _in_database(pipeline, chosen, limit)
        with open_queues(pipeline, hold_seconds=LOOKING_SECONDS) as queues:
            for kind, letters in zip(("event", "rule-error"), queues, strict=True):
                found = matching(letters, chosen, limit) if kind in chosen.kinds else []
                items += [letter.item for letter in found]
                total += len(found)
        items = sorted(items, key=lambda item: item.at, reverse=True)[:limit]
        if as_json:
            print_json([item.as_json() for item in items])
            return
        if items:
            _console.print(view.table_of(items, resolutions=resolved))
        more = f" of at least {total:,}; --limit shows more" if total > len(items) else ""
        _console.print(f"{len(items):,} shown{more}" if items else "nothing waits", highlight=False)
        in_work = waiting_in(pipeline.sqs, pipeline.object_queue), waiting_in(pipeline.sqs, pipeline.rule_error_queue)
        if any(in_work):
            _console.print(f"in work, needing nobody: {in_work[0]} events, {in_work[1]} rule errors", highlight=False)


def _in_database(pipeline: Pipeline, chosen: Filter, limit: int) -> tuple[list[Item], int]:
    if not chosen.kinds & KINDS_IN_DATABASE:
        return [], 0
    return refusals.listed(pipeline.database, chosen, limit), refusals.count(pipeline.database, chosen)


@app.command()
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="An id as list prints it.")],
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Show everything known of one thing, and what would make it pass."""
    one = parse_id(identifier)
    with _pipeline(env) as pipeline, open_queues(pipeline, hold_seconds=LOOKING_SECONDS) as queues:
        selection = by_ids(pipeline, queues, [one])
        letter = next(iter(selection.events + selection.rule_errors), None)
        item = letter.item if letter else refusals.with_ids(pipeline.database, [one])[0]
        kept = refusals.kept(pipeline.database, one) if one.kind in {"line", "message"} else None
    if as_json:
        print_json(view.facts_as_json(item, kept, letter))
        return
    _console.print(str(one), style="bold", highlight=False)
    for name, value in view.facts(item, kept, letter):
        shown = f"{name}:\n{value}" if name.startswith("text") else f"{name + ':':<16}{value}"
        _console.print(printable(shown), soft_wrap=True)


@app.command()
def redrive(
    ids: Ids = None,
    kinds: Kinds = None,
    reason: Reason = None,
    device: Device = None,
    since: From = None,
    until: To = None,
    key: Key = None,
    limit: Limit = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Try again, by today's rules, what was refused. Safe to repeat, and after an interruption."""
    chosen = _filter(kinds, reason, device, since, until, key)
    with _pipeline(env) as pipeline, open_queues(pipeline, hold_seconds=WORKING_SECONDS) as queues:
        selection = _selection(pipeline, queues, ids, chosen, limit)
        _confirm("redrive", selection, asked=not (yes or dry_run or ids))
        steps = redrive_steps(pipeline, queues, selection, now=datetime.now(UTC), dry_run=dry_run)
        with _bar("redriving", len(selection)) as (stop, advance):
            tally = carry_out(pipeline.database, steps, stop, advance)
    _report(tally, dry_run=dry_run, interrupted=stop.is_set(), as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    kinds: Kinds = None,
    reason: Reason = None,
    device: Device = None,
    since: From = None,
    until: To = None,
    key: Key = None,
    limit: Limit = None,
    note: Annotated[str | None, typer.Option(help="Why, for whoever looks later.")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Give up what was refused: it is marked and kept. Only the event of an object is deleted, after it was shown."""
    chosen = _filter(kinds, reason, device, since, until, key)
    with _pipeline(env) as pipeline, open_queues(pipeline, hold_seconds=WORKING_SECONDS) as queues:
        selection = _selection(pipeline, queues, ids, chosen, limit)
        _show_lost(selection, allowed=yes or dry_run)
        _confirm("discard", selection, asked=not (yes or dry_run or ids))
        steps = discard_steps(pipeline, queues, selection, note=note, dry_run=dry_run)
        with _bar("discarding", len(selection)) as (stop, advance):
            tally = carry_out(pipeline.database, steps, stop, advance)
    _report(tally, dry_run=dry_run, interrupted=stop.is_set(), as_json=as_json)


def _filter(
    kinds: list[str] | None,
    reason: str | None,
    device: str | None,
    since: str | None,
    until: str | None,
    key: str | None,
    *,
    resolved: bool = False,
) -> Filter:
    return parse_filter(
        kinds=kinds,
        reason=reason,
        device=device,
        since=since,
        until=until,
        key=key,
        now=datetime.now(UTC),
        resolved=resolved,
    )


@contextmanager
def _pipeline(environment: str) -> Iterator[Pipeline]:
    """The environment's pipeline; a database without these tables, or one that goes away, is one clear line."""
    pipeline = deployed_pipeline(environment)
    with database_faults_named(environment), pipeline.database:
        yield pipeline


def _selection(
    pipeline: Pipeline, queues: Queues, ids: list[str] | None, chosen: Filter, limit: int | None
) -> Selection:
    if ids and (chosen.chooses or limit):
        raise UserError("ids and a filter: give one or the other")
    if ids:
        return by_ids(pipeline, queues, [parse_id(text) for text in ids])
    if not chosen.chooses:
        raise UserError("nothing chosen: give ids as fleet quarantine list prints them, or a filter such as --reason")
    return by_filter(pipeline, queues, chosen, limit)


def _confirm(verb: str, selection: Selection, *, asked: bool) -> None:
    if not asked or len(selection) <= 1:
        return
    parts = {
        "line": sum(map(len, selection.stored.lines.values())),
        "object": len(selection.stored.objects),
        "message": len(selection.stored.messages),
        "rule error": len(selection.rule_errors),
        "event": len(selection.events),
    }
    what = ", ".join(f"{count:,} {name}{'s' * (count > 1)}" for name, count in parts.items() if count)
    if not sys.stdin.isatty():
        raise UserError(f"the filter matches {what}: add --yes to {verb} them, or --dry-run to see what would happen")
    typer.confirm(f"{verb} {what}?", abort=True, err=True)


def _show_lost(selection: Selection, *, allowed: bool) -> None:
    """Shows which events are to be deleted. Raises UserError when one is the only trace of its object."""
    if not selection.events:
        return
    _errors.print(view.table_of([letter.item for letter in selection.events], resolutions=False))
    only = [letter.item for letter in selection.events if letter.item.reason not in {"loaded", "rejected"}]
    if only and not allowed:
        others = f" (and {len(only) - 1} others)" if len(only) > 1 else ""
        raise UserError(
            f"{only[0].id}{others}: the ledger does not have its object: redrive it, or discard it with --yes"
        )


@contextmanager
def _bar(verb: str, total: int) -> Iterator[tuple[Event, Advance]]:
    """A bar on standard error where that is a terminal. The first Ctrl-C stops between two steps, the second at once."""
    stop = Event()

    def interrupt(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as bar:
            task = bar.add_task(verb, total=total)
            yield stop, lambda items: bar.advance(task, items)
    finally:
        signal.signal(signal.SIGINT, before)


def _report(tally: Tally, *, dry_run: bool, interrupted: bool, as_json: bool) -> None:
    """Prints what became of everything; exit code 1 when something failed that may succeed later, 130 after Ctrl-C."""
    if as_json:
        print_json(view.tally_as_json(tally, dry_run=dry_run, interrupted=interrupted))
    elif tally:
        _console.print(view.tally_table(tally, dry_run=dry_run))
    else:
        _console.print("nothing to do", highlight=False)
    if interrupted:
        _errors.print("fleet: interrupted; repeat the command to go on", highlight=False)
        raise typer.Exit(130)
    if any(outcome.became == "failed" for outcome in tally):
        raise typer.Exit(1)
