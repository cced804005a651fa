"""`fleet bench queries`: how long each panel of each dashboard takes, on a database of 30 days of readings."""

import math
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bench.queries_data import DAYS, Fleet, fill
from bench.server import benchmark_server
from dashboards.reading.macros import TimeRange
from dashboards.reading.queries import Dashboard, Query, expand, expand_annotation, load_all, resolve, values
from local.timescaledb.edition import is_community

RANGES = {"1 hour": timedelta(hours=1), "24 hours": timedelta(hours=24), f"{DAYS} days": timedelta(days=DAYS)}
DEVICES = 1000
_RUNS = 10
_TARGET_SECONDS = 0.2
_LIMIT_SECONDS = 2.0


@dataclass(frozen=True)
class Timing:
    """One panel at one range: what `seconds` each run took, all rows fetched."""

    dashboard: str
    panel: str
    range: str
    rows: int
    seconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        """Half of the runs were quicker."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """One run of twenty was slower."""
        return percentile(list(self.seconds), 0.95)


def percentile(found: list[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(found)
    return ordered[math.ceil(len(ordered) * share) - 1]


def run(rows: int, console: Console) -> dict[str, Any]:
    """Makes the data, times every panel, prints the table, the worst first, and returns the figures."""
    fleet = Fleet(rows, DEVICES, datetime.now(UTC).replace(microsecond=0))
    dashboards = load_all()
    with benchmark_server(console) as (dsn, _), psycopg.connect(dsn, autocommit=True) as connection:
        console.print(f"[dim]making {rows:,} readings of {DEVICES:,} devices")
        made = fill(connection, fleet, lambda text: console.print(f"[dim]{text}"))
        edition = "community" if is_community(connection) else "apache"
        timings = measure(connection, dashboards, fleet.end, console)
    return report(timings, made, edition, console)


def measure(
    connection: psycopg.Connection, dashboards: list[Dashboard], end: datetime, console: Console
) -> list[Timing]:
    """Every panel and annotation at every range, each some times after one run to warm up."""
    # Grafana's queries are planned each time; psycopg would prepare one after five runs, and leave that out.
    connection.prepare_threshold = None
    timings: list[Timing] = []
    for dashboard in dashboards:
        console.print(f"[dim]timing {dashboard.uid}")
        for name, length in RANGES.items():
            time_range = TimeRange.last(length, end)
            variables = values(resolve(dashboard, connection, time_range))
            for panel in dashboard.panels:
                queries = expand(dashboard, panel, time_range, variables)
                timings += _time(connection, dashboard.uid, panel.title, name, queries)
            for annotation in dashboard.annotations:
                query = expand_annotation(dashboard, annotation, time_range, variables)
                timings += _time(connection, dashboard.uid, f"({annotation.name})", name, [query])
    return timings


def _time(connection: psycopg.Connection, dashboard: str, panel: str, name: str, queries: list[Query]) -> list[Timing]:
    """A panel's queries one after the other, as one timing; none for a panel without queries."""
    if not queries:
        return []
    seconds, rows = list[float](), 0
    for _ in range(_RUNS + 1):
        started = time.perf_counter()
        rows = sum(len(connection.execute(query.sql.encode()).fetchall()) for query in queries)
        seconds.append(time.perf_counter() - started)
    return [Timing(dashboard, panel, name, rows, tuple(seconds[1:]))]


def report(timings: list[Timing], rows: int, edition: str, console: Console) -> dict[str, Any]:
    """Prints the table and the sum, and returns both as figures. `p95_seconds` is of all runs of all panels and ranges."""
    table = Table("panel", "range", "p50 ms", "p95 ms", "max ms", "rows")
    ordered = sorted(timings, key=lambda timing: max(timing.seconds), reverse=True)
    for each in ordered:
        figures = (f"{seconds * 1000:.1f}" for seconds in (each.p50, each.p95, max(each.seconds)))
        table.add_row(f"{each.dashboard}: {each.panel}", each.range, *figures, f"{each.rows:,}")
    console.print(table)
    every = [seconds for each in timings for seconds in each.seconds]
    p95, slowest = percentile(every, 0.95), max(every)
    missed = p95 > _TARGET_SECONDS or slowest > _LIMIT_SECONDS
    console.print(
        f"{len(timings)} panels and ranges on {rows:,} readings ({edition} edition): p95 {p95 * 1000:.0f} ms, slowest "
        f"{slowest * 1000:.0f} ms; the target is {_TARGET_SECONDS * 1000:.0f} ms and {_LIMIT_SECONDS:.0f} s: "
        + ("[red]missed" if missed else "[green]met")
    )
    return {
        "rows": rows,
        "edition": edition,
        "p95_seconds": p95,
        "max_seconds": slowest,
        "panels": [
            {
                "dashboard": each.dashboard,
                "panel": each.panel,
                "range": each.range,
                "rows": each.rows,
                "p50_seconds": each.p50,
                "p95_seconds": each.p95,
                "max_seconds": max(each.seconds),
            }
            for each in ordered
        ],
    }
