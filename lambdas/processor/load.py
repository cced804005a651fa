"""Loads one object in one transaction: the claim in the ledger, the rows, the quarantine, the counts.

Exactly once, twice over: the claim makes a second delivery of the same object do nothing; the unique index makes a
reading that is already there (a QoS 1 redelivery in another object) a counted duplicate.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import IO, Literal

import psycopg
from psycopg import errors
from psycopg.types.json import Jsonb

from lambdas.processor.parse import Limits, Row, parse_line
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError, lines
from lambdas.shared import quarantine
from lambdas.shared.quarantine import Quarantined

_COLUMNS = "device_id, timestamp, seq, temperature, humidity, pressure, battery, extra, quality, received_at, object_id"
_TYPES = ["text", "timestamptz", "int8", *["float8"] * 4, "jsonb", "int2", "timestamptz", "int8"]
_KEY = itemgetter(0, 1, 2)
_EXTRA = Row._fields.index("extra")

Opener = Callable[[], IO[bytes]]
"""Returns the object's bytes. Raises UnreadableObjectError when the object does not exist."""


@dataclass
class Outcome:
    """What became of an object's readings: readings = rows + duplicates + quarantined."""

    status: Literal["loaded", "rejected", "already_loaded"]
    reason: str | None = None
    readings: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    milliseconds: int = 0


@dataclass
class _Tally:
    """What one pass over the object found."""

    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None
    quarantined: list[Quarantined] = field(default_factory=list)


def load_object(connection: psycopg.Connection, version: ObjectVersion, open_object: Opener, limits: Limits) -> Outcome:
    """Loads `version` unless the ledger has it, and says what became of its readings.

    A permanent fault of the object (broken gzip, gone) is recorded as `rejected`. A transient one (database away,
    deadlock, timeout) raises psycopg.Error after everything was rolled back: deliver the event again.
    """
    started = time.monotonic()
    with connection.transaction(), connection.cursor() as cursor:
        object_id = _claim(cursor, version)
        if object_id is None:
            return Outcome("already_loaded")
        try:
            with open_object() as stream:
                tally, duplicates = _store(connection, cursor, object_id, stream, limits)
        except UnreadableObjectError as error:
            outcome = Outcome("rejected", reason=str(error))
            tally = _Tally()
        else:
            quarantine.insert(cursor, tally.quarantined, object_id=object_id)
            outcome = Outcome(
                "loaded",
                readings=tally.rows + len(tally.quarantined),
                rows=tally.rows - duplicates,
                duplicates=duplicates,
                quarantined=len(tally.quarantined),
            )
        outcome.milliseconds = round((time.monotonic() - started) * 1000)
        _record(cursor, object_id, outcome, tally)
    return outcome


def _claim(cursor: psycopg.Cursor, version: ObjectVersion) -> int | None:
    """The ledger's id of the object, or None when it is there already.

    While another transaction holds the same claim this waits for it: then it is there, or, rolled back, ours.
    """
    cursor.execute(
        "INSERT INTO ingest.objects (bucket, key, version_id, size_bytes) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (bucket, key, version_id) DO NOTHING RETURNING object_id",
        (version.bucket, version.key, version.version_id, version.size_bytes),
    )
    claimed = cursor.fetchone()
    return claimed[0] if claimed else None


def _store(
    connection: psycopg.Connection, cursor: psycopg.Cursor, object_id: int, stream: IO[bytes], limits: Limits
) -> tuple[_Tally, int]:
    """Copies the object's rows; returns what was found and how many rows were there already.

    Straight into the hypertable first. Only a unique violation, which undoes the savepoint, proves that the slower
    way through a temporary table is needed.
    """
    try:
        with connection.transaction():
            return _copy(cursor, "telemetry", object_id, _parsed(stream, limits)), 0
    except errors.UniqueViolation:
        pass
    with connection.transaction():
        cursor.execute("CREATE TEMPORARY TABLE incoming (LIKE telemetry) ON COMMIT DROP")
        tally = _copy(cursor, "incoming", object_id, _parsed(stream, limits))
        # Sorted by key, so that two loaders with overlapping readings wait for each other and cannot deadlock.
        cursor.execute(
            f"INSERT INTO telemetry ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming "  # noqa: S608 - constants
            "ORDER BY device_id, timestamp, seq ON CONFLICT (device_id, timestamp, seq) DO NOTHING"
        )
        stored = cursor.rowcount
        cursor.execute("DROP TABLE incoming")
    return tally, tally.rows - stored


def _parsed(stream: IO[bytes], limits: Limits) -> Iterator[Row | Quarantined]:
    for number, line in enumerate(lines(stream), start=1):
        yield from parse_line(number, line, limits)


def _copy(
    cursor: psycopg.Cursor, table: Literal["telemetry", "incoming"], object_id: int, parsed: Iterator[Row | Quarantined]
) -> _Tally:
    tally = _Tally()
    rows: list[Row] = []
    for item in parsed:
        if isinstance(item, Row):
            rows.append(item)
        else:
            tally.quarantined.append(item)
    rows.sort(key=_KEY)
    with cursor.copy(f"COPY {table} ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_TYPES)
        for row in rows:
            values: list[object] = [*row, object_id]
            if row.extra is not None:
                # It is JSON text already: only the protocol's wrapper is missing.
                values[_EXTRA] = Jsonb(row.extra, dumps=str.encode)
            copy.write_row(values)
    tally.rows = len(rows)
    if rows:
        tally.first = min(row.timestamp for row in rows)
        tally.last = max(row.timestamp for row in rows)
    return tally


def _record(cursor: psycopg.Cursor, object_id: int, outcome: Outcome, tally: _Tally) -> None:
    cursor.execute(
        "UPDATE ingest.objects SET status = %s, reason = %s, readings = %s, rows = %s, duplicates = %s, "
        "quarantined = %s, first_timestamp = %s, last_timestamp = %s, milliseconds = %s, loaded_at = clock_timestamp() "
        "WHERE object_id = %s",
        (
            outcome.status,
            outcome.reason,
            outcome.readings,
            outcome.rows,
            outcome.duplicates,
            outcome.quarantined,
            tally.first,
            tally.last,
            outcome.milliseconds,
            object_id,
        ),
    )
