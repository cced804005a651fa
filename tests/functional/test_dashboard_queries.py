"""Every query of every dashboard against a real TimescaleDB with a small fleet, expanded as Grafana would.

The same tests run on both editions: FLEET_TEST_DATABASE_URL names a Community server, Debian's packages are the Apache one.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from rich.console import Console

from bench.queries import measure, percentile, report
from bench.queries_data import Fleet as BenchFleet
from bench.queries_data import fill
from dashboards.reading.macros import MacroError, TimeRange, Value
from dashboards.reading.model import JSON_FOLDER, Dashboard, load, load_all, read
from dashboards.reading.queries import ALL, Query, Rows, expand, expand_annotation, fetch, resolve, values
from ops.errors import UserError
from tests.functional.fleet_data import DEVICES, Fleet, fleet_database

RANGES = {"1 hour": timedelta(hours=1), "24 hours": timedelta(hours=24), "30 days": timedelta(days=30)}
SITES = {"all sites": ALL, "one site": "north"}
SMALL = 20_000
"""Readings that a query may look at, of some 85,000 that there are: 30 days are answered by a rollup or an index."""
DASHBOARDS = load_all()

EMPTY: Mapping[str, str] = {
    "iot-capacity: Volume full in": "the size of the volume is not known here: the variable volume_gib is 0",
}
"""What has no rows in this fleet at any range, and why that is right."""
EMPTY_IN_AN_HOUR: Mapping[str, str] = {}
"""The same of the last hour, where there are rows at 24 hours and 30 days."""


@dataclass(frozen=True)
class Case:
    """A panel or an annotation."""

    dashboard: Dashboard
    title: str
    queries: Callable[[TimeRange, Mapping[str, Value]], list[Query]]

    @property
    def name(self) -> str:
        """As in the lists above."""
        return f"{self.dashboard.uid}: {self.title}"


def _cases() -> Iterator[Case]:
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            if panel.targets:
                yield Case(dashboard, panel.title, lambda r, v, d=dashboard, p=panel: expand(d, p, r, v))  # type: ignore[misc]
        for note in dashboard.annotations:
            yield Case(
                dashboard,
                f"({note.name})",
                lambda r, v, d=dashboard, a=note: [expand_annotation(d, a, r, v)],  # type: ignore[misc]
            )


CASES = list(_cases())


@pytest.fixture(scope="module")
def fleet(server_dsn: str, template_database: str) -> Iterator[Fleet]:
    with fleet_database(server_dsn, template_database) as made:
        yield made


@pytest.fixture(scope="module")
def reader(fleet: Fleet) -> Iterator[psycopg.Connection]:
    """As Grafana logs in, which may read and do nothing else."""
    with psycopg.connect(fleet.dsn, autocommit=True) as connection:
        connection.execute("SET ROLE grafana")
        yield connection


class Grafana:
    """Whoever looks at dashboards: a dashboard's variables are asked for when it is opened, once for all its panels."""

    def __init__(self, reader: psycopg.Connection, now: datetime) -> None:
        self._reader = reader
        self._now = now
        self._opened: dict[tuple[str, timedelta, str], Mapping[str, Value]] = {}

    def queries(self, case: Case, length: timedelta, site: str = ALL) -> list[Query]:
        """What a panel would send."""
        time_range = TimeRange.last(length, self._now)
        opened = (case.dashboard.uid, length, site)
        if opened not in self._opened:
            has_sites = any(variable.name == "site" for variable in case.dashboard.variables)
            resolved = resolve(case.dashboard, self._reader, time_range, {"site": [site]} if has_sites else {})
            self._opened[opened] = values(resolved)
        return case.queries(time_range, self._opened[opened])

    def answers(self, case: Case, length: timedelta, site: str) -> list[Rows]:
        """What the database says to it."""
        return [fetch(self._reader, query.sql) for query in self.queries(case, length, site)]


@pytest.fixture(scope="module")
def grafana(reader: psycopg.Connection, fleet: Fleet) -> Grafana:
    return Grafana(reader, fleet.now)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_returns_rows(case: Case, grafana: Grafana) -> None:
    """At every range and with one site and all; a value that is NULL in the only row counts as none."""
    for label, length in RANGES.items():
        for where, site in SITES.items():
            found = grafana.answers(case, length, site)
            empty = not any(value is not None for rows in found for row in rows.rows for value in row)
            rightly = case.name in EMPTY or (label == "1 hour" and case.name in EMPTY_IN_AN_HOUR)
            assert empty <= rightly, f"no rows: {case.name}, {label}, {where}"


def test_what_is_declared_empty_is_there_and_empty(grafana: Grafana) -> None:
    known = {case.name: case for case in CASES}
    for name in {**EMPTY, **EMPTY_IN_AN_HOUR}:
        assert name in known, f"{name} is no panel any more"
        lengths = RANGES.values() if name in EMPTY else [RANGES["1 hour"]]
        assert any(
            not any(rows.rows and rows.rows != [(None,)] for rows in grafana.answers(known[name], length, site))
            for length in lengths
            for site in SITES.values()
        ), f"{name} has rows: take it from the list"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_one_statement_that_reads_little(case: Case, reader: psycopg.Connection, grafana: Grafana) -> None:
    for query in grafana.queries(case, RANGES["30 days"]):
        assert re.match(r"(SELECT|WITH)\b", query.sql.strip()), query.sql[:60]
        assert ";" not in re.sub(r"'[^']*'", "", query.sql), "Grafana sends it as it is"
        read_rows = raw_rows(reader, query.sql)
        assert read_rows <= SMALL, f"{case.name} reads {read_rows:,} readings of the table itself for 30 days"


def raw_rows(connection: psycopg.Connection, sql: str) -> int:
    """How many rows of `telemetry` itself a query looked at."""
    hypertable = connection.execute(
        "SELECT chunk_name FROM timescaledb_information.chunks WHERE hypertable_name = 'telemetry'"
    ).fetchall()
    chunks = {name for (name,) in hypertable} | {"telemetry"}

    def count(node: Mapping[str, Any]) -> float:
        own = 0.0
        if node.get("Relation Name") in chunks:
            # What BRIN has looked at again is its own measure, 64 pages, and not that of the query.
            own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        return own + sum(count(child) for child in node.get("Plans", []))

    with connection.transaction(force_rollback=True):
        # These tables are small enough to be read through; what matters is whether an index could do.
        connection.execute("SET LOCAL enable_seqscan = off")
        row = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}".encode()).fetchone()
    assert row
    return round(count(row[0][0]["Plan"]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_time_series_has_its_time_and_is_in_order(case: Case, reader: psycopg.Connection, grafana: Grafana) -> None:
    for query in grafana.queries(case, RANGES["24 hours"]):
        if query.format != "time_series" and not case.title.startswith("("):
            continue
        found = fetch(reader, query.sql)
        assert "time" in found.columns, f"{case.name} answers with {', '.join(found.columns)}"
        if query.format == "time_series":
            times = [row[found.columns.index("time")] for row in found.rows]
            assert times == sorted(times), f"{case.name} is not in the order of time"


def test_a_query_that_reads_every_reading_would_be_found(reader: psycopg.Connection) -> None:
    assert raw_rows(reader, "SELECT avg(temperature) FROM telemetry") > 3 * SMALL


def test_a_query_that_writes_is_refused(reader: psycopg.Connection) -> None:
    with pytest.raises((errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
        fetch(reader, "WITH gone AS (DELETE FROM devices RETURNING 1) SELECT count(*) FROM gone")


def test_a_variable_that_others_are_made_of_comes_first(reader: psycopg.Connection, fleet: Fleet) -> None:
    dashboard = load(JSON_FOLDER / "iot-device.json")
    time_range = TimeRange.last(RANGES["1 hour"], fleet.now)
    some = resolve(dashboard, reader, time_range, {"site": ["north"]})["device"].options
    every = resolve(dashboard, reader, time_range, {"site": [ALL]})["device"].options
    assert [value for _, value in every] == list(DEVICES)
    assert 0 < len(some) < len(every)


def test_faults_name_dashboard_and_panel(reader: psycopg.Connection, fleet: Fleet) -> None:
    time_range = TimeRange.last(RANGES["1 hour"], fleet.now)
    model = {
        "uid": "mine",
        "title": "Mine",
        "panels": [
            {
                "type": "row",
                "title": "Folded",
                "panels": [{"id": 7, "type": "stat", "title": "Odd", "targets": [{"rawSql": "SELECT $__timeFitler(t)"}]}],
            }
        ],
        "templating": {"list": [{"type": "custom", "name": "size", "query": "small, Quite large : large", "multi": True}]},
    }  # fmt: skip
    dashboard = read(model)
    (panel,) = dashboard.panels
    assert (panel.row, panel.id, panel.kind) == ("Folded", 7, "stat")
    with pytest.raises(MacroError, match=r"^mine, panel 'Odd': \$__timeFitler\(\) is no macro"):
        expand(dashboard, panel, time_range, {})
    assert resolve(dashboard, reader, time_range, {"size": ["large"]})["size"].value.values == ("large",)
    with pytest.raises(UserError, match="mine has no variable 'colour'; it has: size"):
        resolve(dashboard, reader, time_range, {"colour": ["red"]})
    with pytest.raises(UserError, match="mine: variable size does not offer 'huge'"):
        resolve(dashboard, reader, time_range, {"size": ["huge"]})


def test_a_file_that_is_no_dashboard(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"title": "no uid"}))
    with pytest.raises(UserError, match=r"a\.json is no dashboard"):
        load_all(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: "):
        load_all(tmp_path)
    (tmp_path / "a.json").unlink()
    with pytest.raises(UserError, match="has no dashboards"):
        load_all(tmp_path)


def test_the_benchmark_times_every_panel(connection: psycopg.Connection) -> None:
    fleet = BenchFleet(5_000, 20, datetime.now(UTC).replace(microsecond=0), object_length=timedelta(hours=24))
    assert fill(connection, fleet, lambda _: None) == 5_000
    stored = connection.execute("SELECT count(*), max(timestamp) < %s FROM telemetry", (fleet.end,)).fetchone()
    assert stored == (5_000, True)
    for view in ("telemetry_1m", "telemetry_hourly", "telemetry_daily", "telemetry_weekly"):
        assert connection.execute(f"SELECT sum(reading_count) FROM {view}".encode()).fetchone() == (5_000,), view
    assert connection.execute("SELECT count(*) FROM rollup.waiting").fetchone() == (0,)
    overview = next(each for each in DASHBOARDS if each.uid == "iot-overview")
    timings = measure(connection, [overview], fleet.end, Console(quiet=True))
    cases = sum(case.dashboard is overview for case in CASES)
    assert len(timings) == cases * len(RANGES)
    figures = report(timings, 5_000, "either", Console(quiet=True))
    assert 0 < figures["p95_seconds"] <= figures["max_seconds"]
    assert len(figures["panels"]) == len(timings)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    found = [float(number) for number in range(20, 0, -1)]
    assert [percentile(found, share) for share in (0.05, 0.5, 0.95, 1)] == [1, 10, 19, 20]
