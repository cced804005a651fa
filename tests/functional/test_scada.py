"""The schema scada: columns that do not change, values that are telemetry's own, and plans that reach the indexes."""

import json
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.databases import migrated_database
from tests.functional.consumer_database import DEVICES, HOUR, MINUTES, fill

LAST = HOUR + timedelta(minutes=MINUTES - 1)
METRICS = ("temperature", "humidity", "pressure", "battery")

INTERFACE = {
    # Systems that we know nothing of are configured against these: a column may be added at the end, in a view that may
    # be added. Nothing else of this may ever change.
    "history": "device_id text, metric text, timestamp timestamptz, value real, quality_ok boolean",
    "history_wide": "device_id text, timestamp timestamptz, temperature real, humidity real, pressure real, battery real, "
    "quality_ok boolean",
    "hourly": "device_id text, metric text, bucket timestamptz, average double precision, minimum real, maximum real, "
    "count bigint",
    "latest": "device_id text, metric text, unit text, timestamp timestamptz, value real, quality_ok boolean",
    "latest_wide": "device_id text, name text, site_id text, site text, timestamp timestamptz, temperature real, "
    "humidity real, pressure real, battery real, quality_ok boolean, age_seconds double precision",
}


@pytest.fixture(scope="module")
def scada(server_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection with the rights of SCADA systems, to a database with enough readings that an index is worth while."""
    with migrated_database(server_dsn, f"fleet_scada_{os.getpid()}") as dsn, psycopg.connect(dsn) as connection:
        connection.autocommit = True
        fill(connection)
        connection.execute(
            "INSERT INTO telemetry (device_id, timestamp, seq, temperature, humidity, object_id) "
            "SELECT 'many-' || device, %s::timestamptz - make_interval(mins => minute), minute, 20, 50, 1 "
            "FROM generate_series(1, 40) device, generate_series(1, 1000) minute",
            (HOUR,),
        )
        connection.execute("ANALYZE telemetry")
        connection.execute("SET SESSION AUTHORIZATION iot_scada")
        yield connection


def rows(connection: psycopg.Connection, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(statement, parameters).fetchall()


def test_the_interface_is_what_it_was(scada: psycopg.Connection) -> None:
    found = rows(
        scada,
        "SELECT relname, string_agg(attname || ' ' || replace(format_type(atttypid, atttypmod), "
        "'timestamp with time zone', 'timestamptz'), ', ' ORDER BY attnum) "
        "FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid "
        "WHERE relnamespace = 'scada'::regnamespace AND relkind = 'v' AND attnum > 0 GROUP BY 1",
    )
    assert dict(found) == INTERFACE


def test_the_views_read_with_the_rights_of_the_tables_owner(scada: psycopg.Connection) -> None:
    owners = rows(
        scada,
        "SELECT DISTINCT relowner, relowner = (SELECT relowner FROM pg_class WHERE oid = 'public.telemetry'::regclass), "
        "reloptions FROM pg_class WHERE relnamespace = 'scada'::regnamespace AND relkind = 'v'",
    )
    assert [row[1:] for row in owners] == [(True, None)]


def test_the_latest_reading_of_each_device(scada: psycopg.Connection) -> None:
    [one, two, three] = rows(scada, "SELECT * FROM scada.latest_wide ORDER BY device_id")
    assert one[:-1] == ("d-1", "Boiler", "plant", "The plant", LAST, pytest.approx(31.9), 50, 1000.5, 90, True)
    assert two[:-1] == ("d-2", "d-2", None, None, LAST, pytest.approx(31.9), None, 1000.5, 150, False)
    assert three[7:10] == (1000.5, 90, True)
    [(now,)] = rows(scada, "SELECT now()")
    assert one[-1] == pytest.approx((now - LAST).total_seconds(), abs=60)


def test_the_latest_value_of_each_metric(scada: psycopg.Connection) -> None:
    found = rows(scada, "SELECT * FROM scada.latest WHERE device_id = ANY (%s) ORDER BY 1, 2", ["d-2", "d-3"])
    assert found == [
        ("d-2", "battery", "%", LAST, 150, False),
        ("d-2", "humidity", "%", LAST, None, False),
        ("d-2", "pressure", "hPa", LAST, 1000.5, True),
        ("d-2", "temperature", "degC", LAST, pytest.approx(31.9), True),
        ("d-3", "battery", "%", LAST, 90, True),
        ("d-3", "humidity", "%", LAST, None, True),
        ("d-3", "pressure", "hPa", LAST, 1000.5, True),
        ("d-3", "temperature", "degC", LAST, pytest.approx(31.9), True),
    ]


def test_history_by_metric_is_the_wide_history(scada: psycopg.Connection) -> None:
    [columns] = rows(
        scada, "SELECT count(*), count(temperature), count(humidity), count(battery) FROM scada.history_wide"
    )
    for metric, count in zip(("pressure", "temperature", "humidity", "battery"), columns, strict=True):
        found = rows(
            scada,
            "SELECT count(value), count(*) FILTER (WHERE NOT quality_ok) FROM scada.history WHERE metric = %s",
            metric,
        )
        wrong = {"humidity": 1, "battery": 1}.get(metric, 0)
        assert found == [(len(DEVICES) * MINUTES if metric == "pressure" else count, wrong)], metric
    assert rows(scada, "SELECT * FROM scada.history WHERE device_id = 'd-2' AND timestamp >= %s ORDER BY 2", LAST) == [
        ("d-2", "battery", LAST, 150, False),
        ("d-2", "humidity", LAST, None, False),
        ("d-2", "pressure", LAST, 1000.5, True),
        ("d-2", "temperature", LAST, pytest.approx(31.9), True),
    ]


def test_hours_by_metric(scada: psycopg.Connection) -> None:
    found = rows(scada, "SELECT * FROM scada.hourly WHERE device_id = 'd-2' AND metric = 'temperature' ORDER BY bucket")
    assert found == [
        ("d-2", "temperature", HOUR, pytest.approx(22.95), 20, pytest.approx(25.9), 60),
        ("d-2", "temperature", HOUR + timedelta(hours=1), pytest.approx(28.95), 26, pytest.approx(31.9), 60),
    ]
    assert rows(scada, "SELECT metric FROM scada.hourly WHERE device_id = 'd-3' AND metric = 'humidity'") == []


def plan(connection: psycopg.Connection, statement: str, *parameters: Any) -> str:
    """The plan of a query as it would be run, with what it does to each table."""
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(f"EXPLAIN (FORMAT JSON, VERBOSE) {statement}", parameters)
    row = cursor.fetchone()
    assert row is not None
    return json.dumps(row[0])


def scans(found: str) -> set[str]:
    """How chunks are read: the kinds of scans in a plan."""
    return set(re.findall(r'"Node Type": "([^"]*Scan)"', found)) - {"Subquery Scan"}


@pytest.mark.parametrize("view", ["history", "history_wide"])
def test_a_device_and_a_span_of_time_are_found_by_the_index(view: str, scada: psycopg.Connection) -> None:
    statement = f"SELECT * FROM scada.{view} WHERE device_id = %s AND timestamp >= %s AND timestamp < %s"
    found = plan(scada, statement, "many-7", HOUR - timedelta(hours=1), HOUR)
    assert scans(found) <= {"Index Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}, found
    assert "device_id_timestamp_seq" in found
    assert found.count("many-7") >= (4 if view == "history" else 1)


def test_history_of_one_metric_looks_at_no_other(scada: psycopg.Connection) -> None:
    statement = "SELECT * FROM scada.history WHERE device_id = %s AND metric = %s AND timestamp >= %s"
    found = plan(scada, statement, "many-7", "humidity", HOUR - timedelta(hours=1))
    assert "telemetry.humidity" in found or ".humidity IS NOT NULL" in found
    assert "temperature" not in found
    assert "pressure" not in found
    assert scans(found) <= {"Index Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}, found


def test_the_newest_of_a_device_is_one_look_at_an_index(scada: psycopg.Connection) -> None:
    # With three devices a table is read through: what matters is that nothing stands in the index's way.
    scada.execute("SET enable_seqscan = off")
    try:
        assert '"device_latest_pkey"' in plan(scada, "SELECT * FROM scada.latest_wide WHERE device_id = 'd-1'")
        assert '"device_latest_pkey"' in plan(scada, "SELECT * FROM scada.latest WHERE device_id = 'd-1'")
    finally:
        scada.execute("RESET enable_seqscan")


def test_hours_of_a_device_are_found_by_an_index(scada: psycopg.Connection) -> None:
    scada.execute("SET enable_seqscan = off")
    try:
        statement = "SELECT * FROM scada.hourly WHERE device_id = %s AND metric = %s AND bucket >= %s AND bucket < %s"
        found = plan(scada, statement, "d-1", "pressure", HOUR, HOUR + timedelta(hours=1))
        assert "humidity" not in re.sub(r'"Output": \[[^]]*\]', "", found)
        assert scans(found) <= {"Index Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}, found
    finally:
        scada.execute("RESET enable_seqscan")
