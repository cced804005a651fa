"""Duplicates are known per device and hour, and their sum is the ledger's, however an object came in."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from lambdas.processor.limits import Limits
from lambdas.processor.load import Outcome, load_object
from lambdas.processor.raw_object import ObjectVersion
from ops.replay.replacement import replace_object
from tests.stamping import STAMP, STAMPS

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
HOUR = 3600
_Reading = tuple[str, int]
"""Device, and seconds from NOW."""


def version(key: str) -> ObjectVersion:
    return ObjectVersion("b", key, "", 1)


def body(readings: Sequence[_Reading], **members: Any) -> bytes:
    milliseconds = int(NOW.timestamp()) * 1000
    return b"".join(
        json.dumps(
            {"ts": milliseconds + at * 1000, "seq": 1, "device_id": device, "received_at": milliseconds, "stamp": STAMP}
            | members
        ).encode()
        + b"\n"
        for device, at in readings
    )


def load(connection: psycopg.Connection, key: str, readings: Sequence[_Reading]) -> Outcome:
    return load_object(connection, version(key), lambda: io.BytesIO(body(readings)), LIMITS)


def duplicates(connection: psycopg.Connection) -> list[tuple[str, str, int, int]]:
    """Key, device, hours from NOW, duplicates; after comparing with the ledger."""
    differing = connection.execute(
        "SELECT o.key, o.duplicates, sum(d.duplicates) FROM ingest.objects o LEFT JOIN ingest.duplicates d "
        "USING (object_id) GROUP BY 1, 2 HAVING o.duplicates <> coalesce(sum(d.duplicates), 0)"
    ).fetchall()
    assert differing == []
    return connection.execute(
        "SELECT key, device_id, (extract(epoch FROM hour - %s) / 3600)::int, d.duplicates "
        "FROM ingest.duplicates d JOIN ingest.objects USING (object_id) ORDER BY 1, 2, 3",
        (NOW,),
    ).fetchall()


def test_by_device_and_hour(connection: psycopg.Connection) -> None:
    connection.execute("SET ROLE iot_loader")
    load(connection, "a", [("d-1", 0), ("d-1", 1), ("d-2", 0)])
    assert duplicates(connection) == []
    # One that is there, one that is not, one twice in this object, and the last second of the hour before.
    load(connection, "b", [("d-1", 0), ("d-1", 5), ("d-1", 5), ("d-2", -1), ("d-2", -1), ("d-2", 0), ("d-3", 0)])
    assert duplicates(connection) == [("b", "d-1", 0, 2), ("b", "d-2", -1, 1), ("b", "d-2", 0, 1)]
    load(connection, "c", [("d-1", 0), ("d-1", 5), ("d-2", -1)])
    assert duplicates(connection)[3:] == [("c", "d-1", 0, 2), ("c", "d-2", -1, 1)]


def test_an_object_that_is_loaded_again_counts_anew(connection: psycopg.Connection) -> None:
    load(connection, "a", [("d-1", 0), ("d-1", 1)])
    readings = [("d-1", 0), ("d-1", HOUR - 1), ("d-1", HOUR - 1), ("d-2", 0)]
    load(connection, "b", readings)
    before = duplicates(connection)
    assert before == [("b", "d-1", 0, 2)]
    replace_object(connection, version("b"), lambda: io.BytesIO(body(readings)), LIMITS)
    assert duplicates(connection) == before
    # What the other object had is now gone from the table: the reading is this one's.
    connection.execute("DELETE FROM telemetry WHERE seq = 1 AND timestamp = %s AND device_id = 'd-1'", (NOW,))
    replace_object(connection, version("b"), lambda: io.BytesIO(body(readings)), LIMITS)
    assert duplicates(connection) == [("b", "d-1", 0, 1)]


def test_an_object_that_is_loaded_again_has_no_new_anomalies(connection: psycopg.Connection) -> None:
    data = body([("d-1", 0), ("d-1", 1)], temperature=300)
    load_object(connection, version("a"), lambda: io.BytesIO(data), LIMITS)
    before = connection.execute("SELECT readings, resolved_at FROM anomalies").fetchall()
    assert [count for count, _ in before] == [2]
    replace_object(connection, version("a"), lambda: io.BytesIO(data), LIMITS)
    assert connection.execute("SELECT readings, resolved_at FROM anomalies").fetchall() == before
