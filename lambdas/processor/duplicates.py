"""From the temporary table `incoming` into `telemetry`: what is new, and which readings were there already.

For objects of which the fast path found that some are: the slow way, so nothing here costs a load without duplicates.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from lambdas.processor.binary_copy import COLUMNS
from lambdas.processor.detection.findings import OUT_OF_RANGE

_COLUMNS = ", ".join(COLUMNS)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_HOUR = "date_bin('1 hour', timestamp, '2000-01-01 00:00:00+00')"

# Sorted by key, so that two loaders with overlapping readings wait for each other and cannot deadlock.
_INSERT = f"""
    WITH stored AS (
        INSERT INTO telemetry ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming
        ORDER BY device_id, timestamp, seq, received_at ON CONFLICT (device_id, timestamp, seq) DO NOTHING
        RETURNING device_id, timestamp
    ), stored_by_hour AS (
        SELECT device_id, {_HOUR} AS hour, count(*) AS readings FROM stored GROUP BY 1, 2
    ), by_hour AS (
        SELECT device_id, {_HOUR} AS hour, count(*) AS readings FROM incoming GROUP BY 1, 2
    ), counted AS (
        INSERT INTO ingest.duplicates AS known (object_id, device_id, hour, duplicates)
        SELECT %(object_id)s, device_id, hour, i.readings - coalesce(s.readings, 0)
        FROM by_hour i LEFT JOIN stored_by_hour s USING (device_id, hour)
        WHERE i.readings > coalesce(s.readings, 0)
    )
    SELECT coalesce(sum(readings), 0)::bigint FROM stored_by_hour
"""  # noqa: S608 - texts of ours

_VALUES = "device_id, timestamp, quality, temperature, humidity, pressure, battery"


def insert_new(cursor: psycopg.Cursor, object_id: int) -> int:
    """Stores the rows of `incoming` that are not there yet; returns how many, and counts the others by device and hour."""
    cursor.execute(_INSERT, {"object_id": object_id})
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - for the type checker: an aggregate has one row
    return int(row[0])


def count_duplicates(cursor: psycopg.Cursor, object_id: int) -> None:
    """Counts anew, by device and hour, the rows of `incoming` that are not among what this object stored."""
    cursor.execute("DELETE FROM ingest.duplicates WHERE object_id = %s", (object_id,))
    cursor.execute(
        "INSERT INTO ingest.duplicates (object_id, device_id, hour, duplicates) "  # noqa: S608 - constants
        f"SELECT %s, device_id, {_HOUR}, count(*) - count(t.object_id) FROM "
        "(SELECT *, row_number() OVER (PARTITION BY device_id, timestamp, seq) AS number FROM incoming) i "
        "LEFT JOIN (SELECT device_id, timestamp, seq, object_id, 1 AS number FROM telemetry WHERE object_id = %s "
        "AND timestamp >= (SELECT min(timestamp) FROM incoming) AND timestamp <= (SELECT max(timestamp) FROM incoming)) t "
        "USING (device_id, timestamp, seq, number) GROUP BY 2, 3 HAVING count(*) > count(t.object_id)",
        (object_id, object_id),
    )


def add_duplicates(cursor: psycopg.Cursor, object_id: int, readings: Sequence[tuple[str, datetime]]) -> None:
    """Counts more readings of an object, device and timestamp of each, that were there already."""
    if readings:
        cursor.execute(
            "INSERT INTO ingest.duplicates AS known (object_id, device_id, hour, duplicates) "  # noqa: S608 - constants
            f"SELECT %s, device_id, {_HOUR}, count(*) FROM unnest(%s::text[], %s::timestamptz[]) AS f(device_id, timestamp) "
            "GROUP BY 2, 3 ON CONFLICT (object_id, device_id, hour) "
            "DO UPDATE SET duplicates = known.duplicates + excluded.duplicates",
            (object_id, [device_id for device_id, _ in readings], [timestamp for _, timestamp in readings]),
        )


Values = tuple[str, int, tuple[float | None, ...], int]
"""Of a reading: device, epoch milliseconds, the four metrics, quality."""


def stored_out_of_range(cursor: psycopg.Cursor, object_id: int) -> Iterator[Values]:
    """Of the rows of `incoming`, those out of range that this object stored: what is a duplicate was noted before."""
    return _stream(
        cursor,
        f"SELECT {_VALUES} FROM telemetry JOIN "  # noqa: S608 - constants
        f"(SELECT DISTINCT device_id, timestamp, seq FROM incoming WHERE quality & {OUT_OF_RANGE} <> 0) bad "
        f"USING (device_id, timestamp, seq) WHERE object_id = {object_id:d}",
    )


def new_out_of_range(cursor: psycopg.Cursor) -> Iterator[Values]:
    """Of the rows of `incoming`, those out of range that `telemetry` does not have: to be called before they are stored."""
    return _stream(
        cursor,
        f"SELECT DISTINCT ON (device_id, timestamp, seq) {_VALUES} FROM incoming "  # noqa: S608 - constants
        f"WHERE quality & {OUT_OF_RANGE} <> 0 AND NOT EXISTS (SELECT FROM telemetry t WHERE t.device_id = incoming.device_id "
        "AND t.timestamp = incoming.timestamp AND t.seq = incoming.seq) ORDER BY device_id, timestamp, seq, received_at",
    )


def _stream(cursor: psycopg.Cursor, query: str) -> Iterator[Values]:
    """One after another, so that there may be any number of them."""
    yield from map(_values, cursor.stream(query.encode()))


def _values(row: tuple[Any, ...]) -> Values:
    device_id, timestamp, quality, *values = row
    return device_id, (timestamp - _EPOCH) // _MILLISECOND, tuple(values), quality
