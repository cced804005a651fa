"""The rollups against a real TimescaleDB: whatever is loaded, replayed or redriven, each equals the raw readings' aggregate.

The same tests run on both editions: FLEET_TEST_DATABASE_URL names a Community server, Debian's packages are the Apache one.
"""

import gzip
import io
import json
import math
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambdas.maintenance.work import maintain
from lambdas.processor.limits import Limits
from lambdas.processor.load import Outcome, load_object
from lambdas.processor.raw_object import ObjectVersion
from local.timescaledb.edition import is_community
from ops.quarantine.lines import redrive_lines
from ops.quarantine.pipeline import Opened, Pipeline, Rules
from ops.replay.replacement import replace_object
from tests.functional.rollups import bring_up_to_date, stop_refreshing
from tests.stamping import STAMP, STAMPS

NOW = datetime.now(UTC).replace(microsecond=0)
TODAY = Rules(retention_days=30, max_future_seconds=3600, stamps=STAMPS)
STRICT = Rules(retention_days=1, max_future_seconds=3600, stamps=STAMPS)
WIDTHS = {
    "telemetry_1m": "1 minute",
    "telemetry_hourly": "1 hour",
    "telemetry_daily": "1 day",
    "telemetry_weekly": "7 days",
}
METRICS = {"temp": "temperature", "humidity": "humidity", "pressure": "pressure", "battery": "battery"}
COUNTS = {
    "reading_count": "count(*)",
    "invalid_count": "sum((quality & 15 <> 0)::int)",
    "out_of_range_count": "sum((quality >> 4 & 15 <> 0)::int)",
    "late_count": "coalesce(sum((received_at - timestamp > interval '300 s')::int), 0)",
    "first_seq": "min(seq)",
    "last_seq": "max(seq)",
}
_keys = count(1)


def line(device: str, readings: list[dict[str, Any]]) -> bytes:
    received_at = int(NOW.timestamp() * 1000)
    members = {"readings": readings, "device_id": device, "received_at": received_at, "stamp": STAMP}
    return json.dumps(members).encode()


def reading(at: datetime, seq: int = 1, **values: Any) -> dict[str, Any]:
    return {"ts": int(at.timestamp() * 1000), "seq": seq, **values}


class Store:
    """Raw objects by key, as S3 would hold them, and the ways in which they reach the database."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.bodies: dict[str, bytes] = {}

    def load(self, *lines: bytes, rules: Rules = TODAY) -> Outcome:
        version = ObjectVersion("bucket", f"year=2026/{next(_keys)}.gz", "v1", 1)
        self.bodies[version.key] = gzip.compress(b"".join(each + b"\n" for each in lines))
        limits = rules.limits(arrived_at=NOW, now=NOW)
        return load_object(self.connection, version, lambda: io.BytesIO(self.bodies[version.key]), limits)

    def replay(self, key: str, limits: Limits) -> None:
        version = ObjectVersion("bucket", key, "v1", 1)
        replace_object(self.connection, version, lambda: io.BytesIO(self.bodies[key]), limits)

    def redrive(self, object_id: int) -> None:
        waiting = self.connection.execute(
            "SELECT quarantine_id FROM ingest.quarantine WHERE object_id = %s AND resolution IS NULL", (object_id,)
        ).fetchall()
        store = self

        class FromMemory(Pipeline):
            def open(self, version: ObjectVersion) -> Opened:
                return Opened(io.BytesIO(store.bodies[version.key]), NOW)

        nothing: Any = None
        pipeline = FromMemory(
            self.connection, nothing, nothing, nothing, "", "", "", "", "", rules=TODAY, operator="alice"
        )
        redrive_lines(pipeline, object_id, [row[0] for row in waiting], now=NOW)


def rollup(connection: psycopg.Connection, view: str) -> dict[tuple[Any, Any], tuple[Any, ...]]:
    columns = ", ".join(f"count_{m}, min_{m}, max_{m}, avg_{m}, stddev_{m}" for m in METRICS)
    rows = connection.execute(
        f"SELECT bucket, device_id, {', '.join(COUNTS)}, {columns} FROM {view}".encode()
    ).fetchall()
    found = {(bucket, device): values for bucket, device, *values in rows}
    assert len(found) == len(rows), f"{view} has a bucket twice"
    return {key: tuple(values) for key, values in found.items()}


def aggregate(connection: psycopg.Connection, view: str) -> dict[tuple[Any, Any], tuple[Any, ...]]:
    """The same from the raw readings."""
    columns = ", ".join(f"count({c}), min({c}), max({c}), avg({c}), stddev_samp({c})" for c in METRICS.values())
    rows = connection.execute(
        f"SELECT time_bucket('{WIDTHS[view]}', timestamp), device_id, {', '.join(COUNTS.values())}, {columns} "
        "FROM telemetry GROUP BY 1, 2".encode()
    )
    return {(bucket, device): tuple(values) for bucket, device, *values in rows}


def assert_exact(connection: psycopg.Connection) -> None:
    """Every rollup is what the readings say: counts and extremes exactly, the rest to 1e-9."""
    for view in WIDTHS:
        found, expected = rollup(connection, view), aggregate(connection, view)
        assert found.keys() == expected.keys(), view
        for key, values in expected.items():
            for position, (ours, theirs) in enumerate(zip(found[key], values, strict=True)):
                inexact = position >= len(COUNTS) and (position - len(COUNTS)) % 5 >= 3 and theirs is not None
                assert math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12) if inexact else ours == theirs, (
                    view,
                    key,
                    position,
                )


@pytest.fixture
def store(connection: psycopg.Connection) -> Store:
    stop_refreshing(connection)
    return Store(connection)


# Within minutes, hours, days and weeks, at their edges, and up to an hour ahead.
TIMES = st.one_of(
    st.integers(-600, 600), st.integers(-4 * 3600, 3000), st.integers(-86_400 * 3, 0), st.integers(-86_400 * 25, 0)
).map(lambda seconds: NOW + timedelta(seconds=seconds))
VALUES = st.one_of(st.none(), st.floats(-40, 80).map(lambda value: round(value, 2)))
READINGS = st.builds(
    lambda at, seq, temperature, humidity, pressure: reading(
        at,
        seq,
        temperature=temperature,
        humidity=humidity,
        pressure=None if pressure is None else 1013 + pressure / 1000,
    ),
    TIMES,
    st.integers(1, 3),
    st.one_of(VALUES, st.just("hot"), st.just(500)),
    st.sampled_from([50.5, 50.5, 101]),
    VALUES,
)
BATCHES = st.lists(
    st.builds(line, st.sampled_from(["a", "b", "c"]), st.lists(READINGS, min_size=1, max_size=6)),
    min_size=1,
    max_size=6,
)
STEPS = st.one_of(
    st.tuples(st.just("load"), BATCHES),
    st.tuples(st.just("strict"), BATCHES),
    st.tuples(st.just("again"), st.integers(0, 20)),
    st.tuples(st.just("replay"), st.integers(0, 20)),
    st.tuples(st.just("forget"), st.integers(0, 20)),
    st.tuples(st.just("redrive"), st.integers(0, 20)),
    st.tuples(st.just("maintain"), st.none()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(steps=st.lists(STEPS, min_size=2, max_size=8))
def test_after_any_mix_of_batches_each_rollup_equals_the_aggregate_of_the_readings(
    store: Store, steps: list[tuple[str, Any]]
) -> None:
    """Each example goes on with the database of the one before."""
    objects: list[tuple[int, str]] = []
    for what, detail in steps:
        if what in ("load", "strict"):
            # What is too old for yesterday's rules is quarantined, and redriven by today's.
            outcome = store.load(*detail, rules=TODAY if what == "load" else STRICT)
            assert outcome.object_id is not None
            objects.append((outcome.object_id, list(store.bodies)[-1]))
        elif what == "maintain":
            bring_up_to_date(store.connection)
        elif objects:
            object_id, key = objects[detail % len(objects)]
            if what == "again":
                store.load(*gzip.decompress(store.bodies[key]).splitlines())
            elif what == "replay":
                store.replay(key, TODAY.limits(arrived_at=NOW, now=NOW))
            elif what == "forget":
                # By stricter rules, so that rows are removed which do not come back.
                store.replay(key, STRICT.limits(arrived_at=NOW, now=NOW))
            else:
                store.redrive(object_id)
    begun = store.connection.execute("SELECT clock_timestamp()").fetchone()
    bring_up_to_date(store.connection)
    assert_exact(store.connection)
    # On the Community edition a bucket may have ripened since.
    left = store.connection.execute("SELECT count(*) FROM rollup.waiting WHERE since <= %s", begun).fetchone()
    assert left == (0,)
    assert is_community(store.connection) or bring_up_to_date(store.connection).buckets_recomputed == 0


HOUR_AGO = NOW.replace(minute=0, second=0) - timedelta(hours=30)
"""Over for long, whatever the time of the day."""


def counted(connection: psycopg.Connection, view: str = "telemetry_hourly") -> int:
    row = connection.execute(f"SELECT coalesce(sum(reading_count), 0)::bigint FROM {view}".encode()).fetchone()
    assert row
    return int(row[0])


def one_value(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row
    return row[0]


def test_both_editions_have_the_same_columns(store: Store) -> None:
    kinds = {"avg": "double precision", "min": "real", "max": "real", "stddev": "double precision", "count": "bigint"}
    metrics = {f"{kind}_{metric}": type_ for metric in METRICS for kind, type_ in kinds.items()}
    expected = {"bucket": "timestamp with time zone", "device_id": "text"} | dict.fromkeys(COUNTS, "bigint") | metrics
    for view in WIDTHS:
        columns = store.connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
            (view,),
        )
        assert dict(columns.fetchall()) == expected


def test_an_average_of_hours_is_the_average_of_their_readings(store: Store) -> None:
    day = HOUR_AGO.replace(hour=0)
    many = [reading(day + timedelta(minutes=n), n, temperature=10.0) for n in range(9)]
    one = [reading(day + timedelta(hours=1), 10, temperature=20.0), reading(day + timedelta(hours=1), 11)]
    store.load(line("a", many), line("a", one))
    bring_up_to_date(store.connection)
    row = store.connection.execute(
        "SELECT avg_temp, stddev_temp, count_temp, reading_count FROM telemetry_daily"
    ).fetchone()
    assert row is not None
    assert row == (11.0, pytest.approx(math.sqrt(10)), 10, 11)


def test_a_small_deviation_of_a_great_value_survives_every_level(store: Store) -> None:
    """A difference of squares would have lost it."""
    values = [1013.25 + n % 2 / 1000 for n in range(1000)]
    readings = [reading(HOUR_AGO + timedelta(seconds=n * 40), n, pressure=value) for n, value in enumerate(values)]
    store.load(*[line("a", readings[n : n + 25]) for n in range(0, 1000, 25)])
    bring_up_to_date(store.connection)
    assert_exact(store.connection)


def test_the_newest_readings_are_seen_at_once_or_after_one_run(store: Store) -> None:
    store.load(line("a", [reading(NOW, temperature=20.5)]))
    for view in WIDTHS:
        assert counted(store.connection, view) == int(is_community(store.connection)), view
    bring_up_to_date(store.connection)
    assert [counted(store.connection, view) for view in WIDTHS] == [1, 1, 1, 1]


def test_a_load_that_commits_during_a_run_is_not_lost(store: Store) -> None:
    """It began before the run and became visible after the run had read the table."""
    store.load(line("a", [reading(HOUR_AGO, 1, temperature=20)]))
    bring_up_to_date(store.connection)
    with psycopg.connect(store.connection.info.dsn, password=store.connection.info.password) as other:
        other.execute("SELECT 1")  # begins the transaction that the load is part of
        Store(other).load(line("b", [reading(HOUR_AGO, 2, temperature=30)]))
        store.load(line("a", [reading(HOUR_AGO, 3, temperature=40)]))
        bring_up_to_date(store.connection)
        assert counted(store.connection) == 2
        other.commit()
    bring_up_to_date(store.connection)
    assert counted(store.connection) == 3
    assert_exact(store.connection)


def test_a_mark_that_comes_while_its_hour_is_computed_stays(store: Store) -> None:
    if is_community(store.connection):
        pytest.skip("the Community edition takes marks first and refreshes afterwards")
    store.load(line("a", [reading(HOUR_AGO, 1, temperature=20)]))
    with psycopg.connect(store.connection.info.dsn, password=store.connection.info.password) as run:
        assert one_value(run, "SELECT rollup.recompute_next()")
        store.load(line("a", [reading(HOUR_AGO, 2, temperature=30)]))
        assert maintain(store.connection).buckets_recomputed == 0, "another run is at it"
        run.commit()
    assert one_value(store.connection, "SELECT count(*) FROM ingest.touched") == 1
    bring_up_to_date(store.connection)
    assert_exact(store.connection)


def test_readings_that_a_replay_takes_away_leave_every_rollup(store: Store) -> None:
    """By rules that became stricter; and they come back when the lines are redriven."""
    old = HOUR_AGO - timedelta(days=3)
    loaded = store.load(line("a", [reading(old, 1, temperature=20)]), line("a", [reading(NOW, 2, temperature=30)]))
    assert loaded.object_id is not None
    bring_up_to_date(store.connection)
    assert counted(store.connection) == 2
    store.replay(next(iter(store.bodies)), STRICT.limits(arrived_at=NOW, now=NOW))
    bring_up_to_date(store.connection)
    assert_exact(store.connection)
    assert counted(store.connection) == 1
    store.redrive(loaded.object_id)
    bring_up_to_date(store.connection)
    assert_exact(store.connection)
    assert counted(store.connection) == 2


def test_only_what_was_touched_is_computed(store: Store) -> None:
    store.load(*[line("a", [reading(HOUR_AGO - timedelta(hours=n), 1, temperature=20)]) for n in range(5)])
    bring_up_to_date(store.connection)
    store.load(
        line("a", [reading(HOUR_AGO, 2, temperature=20), reading(HOUR_AGO - timedelta(days=9), 2, temperature=20)])
    )
    # Two minutes, two hours, two days and two weeks; of these the current week is computed when it is read (Community).
    assert bring_up_to_date(store.connection).buckets_recomputed in {6, 7, 8}
    assert_exact(store.connection)


def test_what_is_late_is_seen_at_every_level_even_where_it_is_compressed(store: Store) -> None:
    connection = store.connection
    if not is_community(connection):
        pytest.skip("the Apache edition has no columnstore")
    old = NOW - timedelta(days=9)
    first = [reading(old + timedelta(seconds=n), n, temperature=20 + n / 10) for n in range(50)]
    store.load(*[line(device, first[n : n + 25]) for device in ("a", "b") for n in (0, 25)])
    bring_up_to_date(connection)
    assert one_value(connection, "SELECT count(compress_chunk(chunk)) FROM show_chunks('telemetry') chunk") >= 1
    connection.execute("SELECT compress_chunk(chunk, true) FROM show_chunks('rollup.minutes') chunk")
    # New by COPY, duplicates of compressed rows, a mixture, and a replay that removes and stores compressed rows.
    assert store.load(line("a", [reading(old + timedelta(seconds=3, milliseconds=500), 900)])).rows == 1
    assert store.load(line("a", first[:25])).duplicates == 25
    mixed = store.load(line("b", [*first[:5], reading(old + timedelta(seconds=70), 901, temperature=-1)]))
    assert (mixed.rows, mixed.duplicates) == (1, 5)
    store.replay(next(iter(store.bodies)), TODAY.limits(arrived_at=NOW, now=NOW))
    duplicates = "SELECT count(*) - count(DISTINCT (device_id, timestamp, seq)) FROM telemetry"
    assert one_value(connection, duplicates) == 0
    assert one_value(connection, "SELECT count(*) FROM telemetry") == 102
    bring_up_to_date(connection)
    assert_exact(connection)


def test_a_load_may_reach_into_as_many_compressed_rows_as_it_must(store: Store) -> None:
    """TimescaleDB's own limit is 100,000 rows to a transaction; the database is set up without it."""
    connection = store.connection
    if not is_community(connection):
        pytest.skip("the Apache edition has no columnstore")
    limit = one_value(
        connection,
        # Of the database that this one is a copy of: such settings are not copied.
        "SELECT count(*) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase "
        "WHERE 'timescaledb.max_tuples_decompressed_per_dml_transaction=0' = ANY(setconfig)",
    )
    assert limit >= 1
