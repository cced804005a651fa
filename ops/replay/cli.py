"""`fleet replay` and `fleet rebuild`."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated

import psycopg
import typer
from rich.console import Console

from infra.settings import load
from lambdas.shared.database import DatabaseSecret
from local.given_database import parse_dsn
from ops.errors import UserError
from ops.options import Env
from ops.replay.console import (
    advance,
    changes_table,
    days_table,
    loading_bar,
    plan_lines,
    totals_lines,
    verdict_lines,
)
from ops.replay.plan import estimate
from ops.replay.rebuild import begin, clock, compare, finish, open_database
from ops.replay.replay import Order, plan_replay
from ops.replay.run import Totals, load_all, stopping_on_interrupt
from ops.replay.source import source_of
from ops.replay.span import parse_span
from ops.replay.worker import Job
from ops.target import database, database_secret, stamps

ParallelOption = Annotated[
    int | None,
    typer.Option("--parallel", min=1, max=64, help="Worker processes. (default: the processors of this machine)"),
]
_MOST_BY_DEFAULT = 8
_INTERRUPTED = 130


def _workers(parallel: int | None) -> int:
    return parallel or min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))


def _console() -> Console:
    return Console(highlight=False)


def replay(
    start: Annotated[
        str, typer.Option("--from", help="ISO 8601 (UTC unless it has an offset), or relative: -2h, -3d. Whole hours.")
    ],
    end: Annotated[str, typer.Option("--to", help="The same; until then.")] = "now",
    device: Annotated[
        str | None, typer.Option("--device", help="Only objects that hold messages of this device (loaded whole).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Load again what the ledger has, and report what changed by it.")
    ] = False,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Older versions of overwritten objects as well; each is an object.")
    ] = False,
    parallel: ParallelOption = None,
    env: Env = "local",
) -> None:
    """Load the raw objects of a span of time that the ledger does not have. Ctrl-C finishes what is under way.

    Over objects that are loaded already it changes nothing, unless --force is given: then each object's rows, quarantined
    lines and counts are removed and it is loaded again, in one transaction per object.
    """
    console, now = _console(), datetime.now(UTC)
    order = Order(parse_span(start, end, now), device, force, all_versions)
    settings, source, workers = load(env), source_of(env), _workers(parallel)
    s3 = source.client()
    with stopping_on_interrupt(lambda: console.print("Stopping: finishing what is under way.")) as stop:
        with database(env, application_name="fleet replay") as connection, console.status("listing") as status:

            def listing(count: int) -> None:
                status.update(f"listing: {count:,} objects")

            def looking(count: int) -> Callable[[], None]:
                left = iter(range(count - 1, -1, -1))
                return lambda: status.update(f"looking for {device}: {next(left, 0):,} objects to go")

            plan, chosen = plan_replay(connection, s3, source, order, stop, listing=listing, looking=looking)
            expected = estimate(connection, s3, source, plan)
        _print_lines(console, plan_lines(plan, order, source.bucket, chosen, expected, workers))
        if dry_run or not plan.chosen or stop.is_set():
            raise typer.Exit(_INTERRUPTED if stop.is_set() else 0)
        job = Job(
            source,
            database_secret(env, "admin"),
            now,
            settings.retention_days,
            settings.max_future_seconds,
            stamps(env),
            force=force,
        )
        with loading_bar(console, sum(listed.size_bytes for listed in plan.chosen)) as bar:
            totals = load_all(
                job, plan.chosen, workers, stop, lambda done, so_far: advance(bar, done.listed.size_bytes, so_far)
            )
    _print_lines(console, totals_lines(totals, len(plan.chosen)))
    if force:
        console.print(changes_table(totals) if totals.changed else "Nothing changed by loading them again.")
    raise typer.Exit(_exit_code(totals))


def rebuild(
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            envvar="FLEET_REBUILD_TO",
            help="An empty database, as postgresql://USER:PASSWORD@HOST:PORT/DBNAME?sslrootcert=FILE; better given in the "
            "variable, which other users of this machine cannot read. (default: the environment's own, when it is empty)",
        ),
    ] = None,
    compare_with: Annotated[
        str | None,
        typer.Option(
            "--compare-with",
            envvar="FLEET_REBUILD_COMPARE_WITH",
            help="The original, in the same form. (default: the environment's own database, when that is not the one "
            "that is filled and can be reached)",
        ),
    ] = None,
    parallel: ParallelOption = None,
    env: Env = "local",
) -> None:
    """Fill an empty database from S3 alone, and compare it with the original: a checksum per day (chunk).

    Repeat the command after an interruption, and it goes on. Exit code 1 when the databases differ, or an object could not
    be loaded. What counts as equal is written in ops/replay/checksum.py.
    """
    console, now = _console(), datetime.now(UTC)
    settings, source, workers = load(env), source_of(env), _workers(parallel)
    own = database_secret(env, "admin")
    target = parse_dsn(to) if to else own
    with ExitStack() as stack:
        ours = stack.enter_context(open_database(target, "fleet rebuild"))
        original = _original(console, stack, own if _place(own) != _place(target) else None, compare_with)
        listed_at = clock(original) if original else now
        with console.status("listing") as status:
            begun = begin(
                ours, target, source.client(), source.bucket, lambda count: status.update(f"listing: {count:,} objects")
            )
        console.print(
            f"{'Going on with' if begun.resumed else 'Filling'} {target.dbname} at {target.host}:{target.port} "
            f"from {source.bucket}: {len(begun.pending):,} of {len(begun.objects):,} objects to load, {workers} at a time",
            soft_wrap=True,
        )
        job = Job(
            source,
            target,
            now,
            settings.retention_days,
            settings.max_future_seconds,
            stamps(env),
            application_name="fleet rebuild",
        )
        with (
            stopping_on_interrupt(lambda: console.print("Stopping: finishing what is under way.")) as stop,
            loading_bar(console, sum(listed.size_bytes for listed in begun.pending)) as bar,
        ):
            totals = load_all(
                job, begun.pending, workers, stop, lambda done, so_far: advance(bar, done.listed.size_bytes, so_far)
            )
        _print_lines(console, totals_lines(totals, len(begun.pending)))
        if totals.interrupted:
            raise typer.Exit(_INTERRUPTED)
        with console.status("comparing"):
            comparison = compare(
                ours, original, bucket=source.bucket, listed_at=listed_at, retention_days=settings.retention_days
            )
        console.print(days_table(comparison))
        _print_lines(console, verdict_lines(comparison))
        if not totals.failures:
            finish(ours)
    raise typer.Exit(1 if totals.failures or comparison.differences else 0)


def _place(secret: DatabaseSecret) -> tuple[str, int, str]:
    return secret.host, secret.port, secret.dbname


def _original(
    console: Console, stack: ExitStack, own: DatabaseSecret | None, given: str | None
) -> psycopg.Connection | None:
    """The database to compare with. That the environment's own cannot be reached may be why it is rebuilt."""
    if given:
        return stack.enter_context(open_database(parse_dsn(given), "fleet rebuild"))
    if own is None:
        return None
    try:
        return stack.enter_context(open_database(own, "fleet rebuild"))
    except UserError as error:
        console.print(f"There will be nothing to compare with: {error}", soft_wrap=True, markup=False)
        return None


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _exit_code(totals: Totals) -> int:
    if totals.interrupted:
        return _INTERRUPTED
    return 1 if totals.failures else 0
