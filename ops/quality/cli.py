"""`fleet quality`: the scores of a fleet, the worst first, or the days of one device, with reasons and trends."""

from datetime import UTC, datetime
from typing import Annotated

import psycopg
import typer
from rich.console import Console

from ops.devices.registry import has_site
from ops.errors import UserError
from ops.options import AsJson, Env
from ops.quality import scores, view
from ops.quality.scores import Choice, Days
from ops.target import using_database
from ops.terminal import print_json

_console = Console()
_WORST = 20


def quality(
    device: Annotated[str | None, typer.Option("--device", help="Days, reasons and trends of this one.")] = None,
    site: Annotated[str | None, typer.Option("--site", help="Only devices of this site.")] = None,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="DAY", help="First day (UTC), such as 2026-11-30 or 30d; a week of days."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last day; today unless given.")] = None,
    worst: Annotated[
        int | None, typer.Option("--worst", min=1, help=f"At most so many devices; {_WORST}, or all with --json.")
    ] = None,
    below: Annotated[
        float | None, typer.Option("--below", min=0, max=100, help="Only devices whose mean score is below that.")
    ] = None,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Show how good the data are: a score from 0 to 100 per device, the worst first, and what cost it points."""
    days = scores.parse_days(since, until, datetime.now(UTC))
    if device is not None and not (site is None and worst is None and below is None):
        raise UserError("--device shows one device: leave --site, --worst and --below away")
    with using_database(env, application_name="fleet quality") as connection:
        if device is not None:
            _show_device(connection, env, days, device, as_json=as_json)
        else:
            limit = worst if worst is not None or as_json else _WORST
            _show_fleet(connection, days, Choice(site, below, limit), as_json=as_json)


def _show_fleet(connection: psycopg.Connection, days: Days, chosen: Choice, *, as_json: bool) -> None:
    if chosen.site_id is not None and not has_site(connection, chosen.site_id):
        raise UserError(f"--site {chosen.site_id}: there is no such site; fleet devices sites lists them")
    rows = scores.of_fleet(connection, days, chosen)
    if as_json:
        print_json([{name: value for name, value in row.items() if name != "matching"} for row in rows])
        return
    if not rows:
        below = "" if chosen.below is None else f" below {chosen.below:g}"
        _console.print(f"no device{below} from {days.first} to {days.last}", highlight=False)
        return
    _console.print(view.fleet_table(rows))
    matching = rows[0]["matching"]
    more = f"{len(rows):,} of {matching:,} devices, the worst; --worst shows more" if matching > len(rows) else None
    _console.print(f"{more or f'{matching:,} devices'}; {days.first} to {days.last} (UTC)", highlight=False)


def _show_device(connection: psycopg.Connection, env: str, days: Days, device: str, *, as_json: bool) -> None:
    if not scores.has_device(connection, device):
        raise UserError(f"there is no device {device} in {env}: fleet devices list shows those that there are")
    rows = scores.of_device(connection, days, device)
    before = scores.mean_score(connection, days.before, device)
    trends = scores.trends(connection, days, device)
    mean = sum(row["score"] for row in rows) / len(rows) if rows else None
    if as_json:
        print_json(
            {"device_id": device, "score": mean, "score_before": before, "days": rows, "trends": trends}
            | {"from": days.first, "to": days.last}
        )
        return
    if mean is None:
        _console.print(f"{device} was not in service from {days.first} to {days.last}", highlight=False)
        return
    _console.print(view.day_table(rows))
    earlier = "" if before is None else f"; {before:.1f} in as many days before"
    _console.print(f"mean score {mean:.1f}{earlier}", highlight=False)
    if trends:
        _console.print(view.trend_table(trends))
