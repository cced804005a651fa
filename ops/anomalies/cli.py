"""`fleet anomalies`: list, show and resolve what was found wrong with readings."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from lambdas.shared.anomalies import KINDS, SEVERITIES
from ops.anomalies import episodes, view
from ops.anomalies.episodes import METRIC_NAMES, Filter
from ops.errors import UserError
from ops.operator import operator
from ops.options import AsJson, Env
from ops.target import using_database
from ops.terminal import print_json, printable
from ops.times import parse_time

app = typer.Typer(help="What was found wrong with readings: list, show, resolve.", no_args_is_help=True)
_console = Console()

Several = list[str] | None


@app.command("list")
def list_anomalies(
    only_open: Annotated[
        bool, typer.Option("--open/--all", help="Only those that go on, or also what is resolved.")
    ] = True,
    device: Annotated[str | None, typer.Option(help="Thing name of the device.")] = None,
    kinds: Annotated[Several, typer.Option("--kind", help=f"{', '.join(KINDS)}; can be given several times.")] = None,
    metrics: Annotated[Several, typer.Option("--metric", help="Only of this one; can be given again.")] = None,
    severities: Annotated[
        Several, typer.Option("--severity", help="critical, warning or info; can be given again.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Open, or found since then: ISO 8601 (UTC), or how long ago, such as 6h or 2d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """List anomalies: the newest first, and only those that are open unless --all is given."""
    chosen = Filter(
        only_open=only_open,
        device_id=device,
        kinds=_among(kinds, "--kind", KINDS),
        metrics=_among(metrics, "--metric", METRIC_NAMES),
        severities=_among(severities, "--severity", SEVERITIES),
        since=parse_time(since, "--since", datetime.now(UTC)) if since else None,
    )
    with using_database(env, application_name="fleet anomalies") as connection:
        rows, total = episodes.listed(connection, chosen, limit)
        if not rows and device is not None and not episodes.has_device(connection, device):
            raise UserError(
                f"--device {device}: there is no such device in {env}: fleet devices list shows those that there are"
            )
    if as_json:
        print_json([view.as_json(row, "site_id") for row in rows])
    elif rows:
        _print_table(rows, total, resolutions=not only_open)
    else:
        _console.print(_nothing(chosen), highlight=False, soft_wrap=True)


def _print_table(rows: list[episodes.Row], total: int, *, resolutions: bool) -> None:
    # What is read by a program has lines as long as they are.
    width = _console.width if _console.is_terminal else None
    table, left_out = view.table(rows, resolutions=resolutions, width=width)
    Console(width=width or view.natural_width(rows)).print(table)
    more = f"{len(rows):,} of {total:,} shown; --limit shows more" if total > len(rows) else f"{total:,} anomalies"
    without = f"; no room for {', '.join(left_out)}" if left_out else ""
    _console.print(f"{more if total != 1 else '1 anomaly'}{without}", highlight=False)


def _among(given: Several, option: str, known: tuple[str, ...]) -> tuple[str, ...]:
    for value in given or ():
        if value not in known:
            raise UserError(f"{option} {value}: use one of {', '.join(known)}")
    return tuple(given or ())


def _nothing(chosen: Filter) -> str:
    narrowed = chosen != Filter(only_open=chosen.only_open)
    tries = ["--all shows what is resolved, too"] if chosen.only_open else []
    tries += ["leave out an option, or choose another value"] if narrowed else []
    what = f"no {'open ' if chosen.only_open else ''}anomalies{' match' if narrowed else ''}"
    return f"{what}: {'; '.join(tries)}" if tries else f"{what}: none was ever found"


@app.command()
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="An id as list prints it.")],
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Show everything known of one, with the readings before, within and after it."""
    anomaly_id = _id(identifier)
    with using_database(env, application_name="fleet anomalies") as connection:
        row = episodes.one(connection, anomaly_id)
        if row is None:
            raise UserError(
                f"there is no anomaly {anomaly_id} in {env}: fleet anomalies list --all shows those that there are"
            )
        readings = episodes.around(connection, row)
    if as_json:
        further = ("device_name", "site_id", "site_name", "customer", "unit", "low", "high")
        print_json(view.as_json(row, *further) | {"around": [view.reading_as_json(each) for each in readings]})
        return
    _console.print(printable(f"{row['anomaly_id']} {row['kind']}"), style="bold")
    for name, value in view.facts(row):
        _console.print(printable(f"{name + ':':<12}{value}"), soft_wrap=True)
    if readings:
        _console.print(view.readings_table(row, readings))
    else:
        _console.print("no readings of that time are left", highlight=False)


@app.command()
def resolve(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as list prints them.")],
    note: Annotated[str, typer.Option(help="Why, for whoever looks later.")],
    by: Annotated[str | None, typer.Option(help="Who resolves it; whoever is logged in here, unless given.")] = None,
    false_positive: Annotated[
        bool, typer.Option("--false-positive", help="Nothing was wrong: it counts against the detection.")
    ] = False,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Resolve anomalies. Safe to repeat: what is resolved stays so, and may still be marked as a false positive."""
    chosen = [_id(text) for text in ids]
    if not note.strip():
        raise UserError("--note is empty: say in a few words why it is resolved")
    with using_database(env, application_name="fleet anomalies") as connection, connection.transaction():
        if missing := episodes.unknown(connection, chosen):
            numbers = ", ".join(map(str, missing))
            raise UserError(f"there is no anomaly {numbers} in {env}: nothing was resolved")
        who = (by or "").strip() or operator()
        done = episodes.resolve(connection, chosen, by=who, note=note.strip(), false_positive=false_positive)
    if as_json:
        print_json([{"became": became, **view.as_json(row)} for became, row in done])
        return
    for became, row in done:
        _console.print(printable(view.outcome(became, row)), soft_wrap=True)


def _id(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**63:
        raise UserError(f"{text} is no id of an anomaly: it is a number, as fleet anomalies list prints it")
    return int(text)
