"""How long the dashboards' queries take, and the refresh of one dashboard in a browser."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import SimpleQueue

import psycopg
from psycopg import errors

from dashboards.reading.macros import TimeRange, parse_interval
from dashboards.reading.model import Dashboard, load_all
from dashboards.reading.queries import Query, expand, fetch, resolve, values

OVERVIEW = "iot-overview"
AT_A_TIME = 6
"""Requests that a browser has under way to one host by HTTP/1.1."""
REFRESHES = 3
BUDGET_SECONDS = 60.0
"""For all queries together: when it is over, what was not asked is left out."""

Connect = Callable[[], psycopg.Connection]


@dataclass(frozen=True)
class Timed:
    """The queries that were asked, what each took, and how many there are."""

    seconds: tuple[float, ...]
    queries: int
    slowest: str
    """Dashboard and panel."""

    @property
    def p95(self) -> float | None:
        """The time that 95 in 100 do not exceed; None: nothing was asked."""
        ordered = sorted(self.seconds)
        return ordered[math.ceil(len(ordered) * 0.95) - 1] if ordered else None


def time_queries(
    connection: psycopg.Connection, span: TimeRange, *, progress: Callable[[str], None] = lambda _: None
) -> Timed:
    """Every query of every dashboard once, over as long as the dashboard shows when it is opened, up to the span's end.

    One that the server gives up has taken that long.
    """
    connection.prepare_threshold = None  # Grafana's are planned each time
    deadline = time.monotonic() + BUDGET_SECONDS
    wanted = [entry for dashboard in load_all() for entry in _queries(connection, dashboard, span)]
    timed: list[tuple[float, str]] = []
    for where, query in wanted:
        if time.monotonic() > deadline:
            break
        progress(where)
        timed.append((_seconds(connection, query), where))
    return Timed(tuple(seconds for seconds, _ in timed), len(wanted), max(timed)[1] if timed else "")


def time_refresh(connect: Connect, span: TimeRange) -> float:
    """Seconds until the overview has all it shows, six queries at a time: the longest of three refreshes."""
    dashboard = next(each for each in load_all() if each.uid == OVERVIEW)
    with ExitStack() as stack, ThreadPoolExecutor(AT_A_TIME) as pool:
        idle: SimpleQueue[psycopg.Connection] = SimpleQueue()
        for connection in [stack.enter_context(connect()) for _ in range(AT_A_TIME)]:
            connection.prepare_threshold = None
            idle.put(connection)

        def ask(query: Query) -> None:
            connection = idle.get()
            try:
                _seconds(connection, query)
            finally:
                idle.put(connection)

        def refresh() -> float:
            began = time.perf_counter()
            first = idle.get()
            queries = [query for _, query in _queries(first, dashboard, span)]
            idle.put(first)
            list(pool.map(ask, queries))
            return time.perf_counter() - began

        return max(refresh() for _ in range(REFRESHES))


def _queries(connection: psycopg.Connection, dashboard: Dashboard, span: TimeRange) -> Sequence[tuple[str, Query]]:
    shown = TimeRange.last(parse_interval(dashboard.raw["time"]["from"].removeprefix("now-")), span.end)
    variables = values(resolve(dashboard, connection, shown))
    return [
        (f"{dashboard.title}: {panel.title}", query)
        for panel in dashboard.panels
        for query in expand(dashboard, panel, shown, variables)
    ]


def _seconds(connection: psycopg.Connection, query: Query) -> float:
    began = time.perf_counter()
    with suppress(errors.QueryCanceled):
        fetch(connection, query.sql)
    return time.perf_counter() - began
