"""device_latest: whatever is loaded in whatever order, it is the reading of each device with the greatest (timestamp, seq)."""

import gzip
import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import errors

from lambdas.processor.latest import refresh_latest
from lambdas.processor.limits import Limits
from lambdas.processor.load import Outcome, load_object
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.contract import METRICS
from ops.quarantine.lines import redrive_lines
from ops.quarantine.pipeline import Pipeline, Rules
from ops.replay.replacement import replace_object
from tests.functional.conftest import wait_until
from tests.stamping import STAMP, STAMPS

NOW = datetime.now(UTC).replace(microsecond=0)
MS = int(NOW.timestamp() * 1000)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
COLUMNS = "device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at, object_id"

Message = tuple[str, int, list[dict[str, Any]]]
"""Device, received_at and readings."""


def load(connection: psycopg.Connection, key: str, messages: Sequence[Message], limits: Limits = LIMITS) -> Outcome:
    return load_object(connection, ObjectVersion("b", key, "", 1), lambda: opened(messages), limits)


def opened(messages: Sequence[Message]) -> io.BytesIO:
    lines = [
        json.dumps({"readings": readings, "device_id": device, "received_at": received, "stamp": STAMP})
        for device, received, readings in messages
    ]
    return io.BytesIO(gzip.compress("\n".join(lines).encode()))


def assert_right(connection: psycopg.Connection) -> None:
    expected = connection.execute(
        f"SELECT DISTINCT ON (device_id) {COLUMNS} FROM telemetry ORDER BY device_id, timestamp DESC, seq DESC"
    ).fetchall()
    assert connection.execute(f"SELECT {COLUMNS} FROM device_latest ORDER BY device_id").fetchall() == expected
    unregistered = connection.execute(
        "SELECT DISTINCT device_id FROM telemetry WHERE device_id NOT IN (SELECT device_id FROM devices)"
    ).fetchall()
    assert unregistered == []


def empty(connection: psycopg.Connection) -> None:
    connection.execute("TRUNCATE telemetry, ingest.objects, ingest.quarantine, device_latest, devices CASCADE")


SAME = {"ts": MS, "seq": 1, "temperature": 20.5}

# Few values each, so that keys are equal, and differ in seq alone, and readings are clean, flagged and refused in turn.
reading = st.builds(
    lambda ts, seq, temperature, extra: (
        {"ts": MS + ts, "temperature": temperature} | ({} if seq is None else {"seq": seq}) | extra
    ),
    st.sampled_from([-86_400_000, -5, 0, 5]),
    st.sampled_from([1, 2, 3, None]),
    st.sampled_from([20.5, 21, None, "hot", 1000]),
    st.sampled_from([{}, {}, {}, {"humidity": 50.5}, {"ts": "no time"}, {"ts": NOW.isoformat()}]),
)
message = st.tuples(
    st.sampled_from(["d-1", "d-2", "D-1", "d_3", "ü"]),
    st.sampled_from([MS, MS + 7]),
    st.lists(reading, min_size=1, max_size=4),
)
objects = st.lists(st.lists(message, min_size=1, max_size=6), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=objects)
@example(history=[[("d-1", MS, [SAME]), ("d-1", MS + 7, [SAME])]])
@example(history=[[("d-1", MS + 7, [SAME]), ("d-1", MS, [SAME])]])
@example(history=[[("d-1", MS, [SAME, SAME | {"temperature": 5}])]])
def test_any_objects_in_any_order(history: list[list[Message]], connection: psycopg.Connection) -> None:
    empty(connection)
    for number, messages in enumerate(history):
        load(connection, f"{number}", messages)
        assert_right(connection)
    for number, messages in enumerate(history):
        version = ObjectVersion("b", f"{number}", "", 1)
        replace_object(connection, version, lambda messages=messages: opened(messages), LIMITS)  # type: ignore[misc]
        assert_right(connection)


def series(device: str, seqs: range) -> Message:
    return device, MS, [{"ts": MS - 100_000 + seq, "seq": seq, "temperature": seq / 10} for seq in seqs]


def test_many_loaders_at_once(connection: psycopg.Connection, database_dsn: str) -> None:
    """Overlapping objects of the same devices, named in opposite orders, by the loader's own role."""
    names = [f"device-{n:05}" for n in range(150)]

    def work(number: int) -> None:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            own.execute("SET ROLE iot_loader")
            for part in range(4):
                first = (number * 7 + part * 3) % 20
                order = names if (number + part) % 2 else names[::-1]
                messages = [series(name, range(first, first + 5)) for name in order]
                for attempt in range(10):
                    try:
                        load(own, f"{number}-{part}", messages)
                        break
                    except errors.DeadlockDetected:  # between readings that overlap; SQS delivers the event again
                        assert attempt < 9

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert_right(connection)


def waits_for_a_lock(connection: psycopg.Connection, other: psycopg.Connection) -> bool:
    pid = other.info.backend_pid
    found = connection.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone()
    return found == ("Lock",)


@pytest.mark.parametrize("breaks", [False, True])
def test_loaders_of_the_same_devices_never_deadlock(
    breaks: bool, connection: psycopg.Connection, database_dsn: str
) -> None:
    """Both would hold half of the rows, from either end, if each went by the order of its object.

    So too if what takes a second statement, since a device says two things under one key, were locked only by that.
    """
    names = [f"device-{n:05}" for n in range(9)]
    times_opened = Counter[int]()

    def loaded(own: psycopg.Connection, seq: int, order: Sequence[str], again: Sequence[str] = ()) -> None:
        def open_object() -> io.BytesIO:
            times_opened[seq] += 1  # a second time after a deadlock, or a reading that is there
            twice = [
                (device, at, [*said, {**said[0], "temperature": -1}])
                for device, at, said in messages
                if device in again
            ]
            return opened([message for message in messages if message[0] not in again] + twice)

        messages = [series(name, range(seq, seq + 1)) for name in order]

        load_object(own, ObjectVersion("b", f"{seq}", "", 1), open_object, LIMITS)

    load(connection, "0", [series(name, range(1)) for name in names])
    with (
        psycopg.connect(database_dsn, autocommit=True) as one,
        psycopg.connect(database_dsn, autocommit=True) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        with connection.transaction():
            connection.execute("SELECT FROM device_latest WHERE device_id = %s FOR UPDATE", [names[4]])
            upwards = pool.submit(loaded, one, 1, names, names[: int(breaks)])
            wait_until(lambda: waits_for_a_lock(connection, one), "the one waits")
            downwards = pool.submit(loaded, two, 2, names[::-1])
            wait_until(lambda: waits_for_a_lock(connection, two), "the other waits")
        upwards.result(30)
        downwards.result(30)
    assert times_opened == {1: 1 + breaks, 2: 1}
    assert_right(connection)
    assert connection.execute("SELECT min(seq), max(seq) FROM device_latest").fetchone() == (2, 2)


@pytest.mark.parametrize("known", [True, False])
def test_a_refresh_beside_a_loader_that_has_not_committed(
    known: bool, connection: psycopg.Connection, database_dsn: str
) -> None:
    load(connection, "1", [series("d-1", range(3))])
    if not known:
        connection.execute("DELETE FROM device_latest")
    with (
        psycopg.connect(database_dsn, autocommit=True) as loader,
        psycopg.connect(database_dsn, autocommit=True) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        with loader.transaction():
            load(loader, "2", [series("d-1", range(3, 6))])
            refreshed = pool.submit(lambda: refresh_latest(other.cursor(), {"d-1"}))
            wait_until(lambda: waits_for_a_lock(connection, other), "the refresh waits for the loader")
        refreshed.result(30)
    assert_right(connection)
    assert connection.execute("SELECT seq FROM device_latest").fetchall() == [(5,)]


def test_stricter_rules_take_readings_away(connection: psycopg.Connection) -> None:
    messages = [series("d-1", range(3)), ("d-2", MS, [{"ts": MS - 5 * 86_400_000, "seq": 1}, {"ts": MS, "seq": 2}])]
    messages.append(("d-3", MS, [{"ts": MS + 3_000_000, "seq": 1}]))
    load(connection, "1", messages)
    version = ObjectVersion("b", "1", "", 1)
    strict = Limits.around(NOW, retention_days=30, max_future_seconds=0, stamps=STAMPS)
    replace_object(connection, version, lambda: opened(messages), strict)
    assert_right(connection)
    assert connection.execute("SELECT device_id FROM device_latest ORDER BY 1").fetchall() == [("d-1",), ("d-2",)]
    assert connection.execute("SELECT count(*) FROM devices").fetchone() == (3,)
    replace_object(connection, version, lambda: opened(messages), LIMITS)
    assert_right(connection)


class Bucket:
    """As much of S3 as redriving needs."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages

    def get_object(self, **_: str) -> dict[str, Any]:
        return {"Body": opened(self._messages), "LastModified": NOW}


def test_redriven_readings_count_too(connection: psycopg.Connection) -> None:
    messages = [
        ("d-1", MS, [{"ts": MS - 5 * 86_400_000, "seq": 1}]),
        ("d-2", MS, [{"ts": MS - 4 * 86_400_000, "seq": 1}]),
    ]
    outcome = load(connection, "1", messages, Limits.around(NOW, retention_days=1, max_future_seconds=0, stamps=STAMPS))
    assert connection.execute("SELECT count(*) FROM device_latest").fetchone() == (0,)
    load(connection, "2", [("d-1", MS, [{"ts": MS - 6 * 86_400_000, "seq": 1}])])
    unused: dict[str, Any] = dict.fromkeys(
        (
            "sqs",
            "firehose",
            "stream",
            "object_queue",
            "object_dead_letters",
            "rule_error_queue",
            "rule_error_dead_letters",
        )
    )
    rules = Rules(retention_days=30, max_future_seconds=0, stamps=STAMPS)
    pipeline = Pipeline(database=connection, s3=Bucket(messages), rules=rules, operator="test", **unused)
    lines = [line for (line,) in connection.execute("SELECT quarantine_id FROM ingest.quarantine")]
    assert outcome.object_id is not None
    redrive_lines(pipeline, outcome.object_id, lines, now=NOW, dry_run=True)
    assert connection.execute("SELECT count(*) FROM device_latest").fetchone() == (1,)
    redrive_lines(pipeline, outcome.object_id, lines, now=NOW)
    assert connection.execute("SELECT count(*) FROM device_latest").fetchone() == (2,)
    assert_right(connection)


def test_what_is_kept_is_one_reading_and_when_the_device_was_first_heard(connection: psycopg.Connection) -> None:
    load(connection, "1", [("d-1", MS - 9_000, [{"ts": MS - 9_500, "seq": 1, "temperature": 20, "battery": 90}])])
    first = connection.execute("SELECT updated_at FROM device_latest").fetchone()
    load(connection, "2", [("d-1", MS, [{"ts": MS - 500, "seq": 2, "temperature": 21}])])
    load(connection, "3", [("d-1", MS, [{"ts": MS - 900, "seq": 3, "temperature": 22}])])
    found = connection.execute(
        "SELECT seq, temperature, battery, first_seen, updated_at > %s FROM device_latest", first
    ).fetchall()
    assert found == [(2, 21.0, None, NOW - timedelta(seconds=9), True)]


def test_readings_register_their_device_and_leave_a_registered_one_alone(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO devices (device_id, name, active) VALUES ('d-1', 'Boiler', false)")
    connection.execute("SET ROLE iot_loader")
    load(connection, "1", [series("d-1", range(2)), series("d-2", range(2))])
    connection.execute("RESET ROLE")
    found = connection.execute("SELECT device_id, name, active, attributes FROM devices ORDER BY 1").fetchall()
    assert found == [("d-1", "Boiler", False, {}), ("d-2", "d-2", True, {})]
    with pytest.raises(errors.ForeignKeyViolation):
        connection.execute("DELETE FROM devices WHERE device_id = 'd-2'")


def test_the_loader_may_do_no_more(connection: psycopg.Connection) -> None:
    connection.execute("SET ROLE iot_loader")
    for statement in (
        "DELETE FROM device_latest",
        "DELETE FROM devices",
        "INSERT INTO devices (device_id, name) VALUES ('x', 'x')",
        "SELECT * FROM sites",
        "UPDATE metrics SET low = 0",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_now_costs_one_descent_of_an_index(connection: psycopg.Connection) -> None:
    for day in range(4):
        load(connection, f"{day}", [("d-1", MS, [{"ts": MS - day * 86_400_000, "seq": 4 - day}])])
    connection.execute("SET enable_seqscan = off")  # the table is small here
    plan = connection.execute("EXPLAIN SELECT * FROM device_latest WHERE device_id = 'd-1'").fetchall()
    assert "Index Scan using device_latest_pkey" in plan[0][0]


def test_database_and_contract_agree(connection: psycopg.Connection) -> None:
    found = connection.execute(
        "SELECT name, unit, low, high, description FROM metrics WHERE device_type IS NULL ORDER BY name"
    ).fetchall()
    assert found == sorted((m.name, m.unit, m.low, m.high, m.description) for m in METRICS)
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'telemetry'::regclass AND atttypid = 'float4'::regtype"
    ).fetchall()
    assert {name for (name,) in columns} == {metric.name for metric in METRICS}


def test_ranges_of_a_type_go_before_the_default(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO devices (device_id, name, device_type) VALUES ('f', 'f', 'freezer'), ('o', 'o', 'other')"
    )
    connection.execute(
        "INSERT INTO metrics (name, device_type, unit, low, high, description) "
        "VALUES ('temperature', 'freezer', 'degC', -60, 0, 'inside')"
    )
    found = connection.execute(
        "SELECT device_id, low, high, description FROM device_metrics WHERE metric = 'temperature' ORDER BY 1"
    ).fetchall()
    assert found == [("f", -60, 0, "inside"), ("o", -60, 125, "air temperature")]
    assert connection.execute("SELECT count(*) FROM device_metrics").fetchone() == (8,)
    with pytest.raises(errors.CheckViolation):
        connection.execute("INSERT INTO metrics VALUES ('wind', NULL, 'm/s', 0, 90, 'a metric that does not exist')")
