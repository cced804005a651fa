"""Loads one object in one transaction: the claim in the ledger, the rows, each device's newest, the quarantine, what was
found unusual, the counts.

Exactly once, twice over: the claim makes a second delivery of the same object do nothing; the unique index makes a
reading that is already there (a QoS 1 redelivery in another object) a counted duplicate.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import psycopg
from psycopg import errors

from lambdas.processor.binary_copy import COLUMNS, HEADER, TRAILER, Encoder
from lambdas.processor.clean import encode_clean
from lambdas.processor.detection.detector import Detector
from lambdas.processor.detection.findings import OUT_OF_RANGE, Findings
from lambdas.processor.duplicates import insert_new, stored_out_of_range
from lambdas.processor.latest import Latest
from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row, parse_line
from lambdas.processor.raw_object import Body, LongLine, ObjectVersion, UnreadableObjectError, line_blocks
from lambdas.shared.quarantine import Spill
from lambdas.shared.touched import Touched

_COLUMNS = ", ".join(COLUMNS)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Opener = Callable[[], AbstractContextManager[Body]]
"""Opens the object at its beginning, each time it is called. Raises UnreadableObjectError when it does not exist."""

LimitsOf = Limits | Callable[[], Limits]
"""The limits, or where to ask for them once the object is open (they depend on when S3 stored it)."""


@dataclass
class Outcome:
    """What became of an object's readings: readings = rows + duplicates + quarantined."""

    status: Literal["loaded", "rejected", "already_loaded"]
    object_id: int | None = None
    reason: str | None = None
    readings: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    milliseconds: int = 0
    first: datetime | None = None
    """Smallest timestamp of a row or duplicate."""
    last: datetime | None = None
    out_of_range: int = 0
    """Rows and duplicates of which a value is outside its plausible range."""
    checked: int = 0
    """Rows and duplicates at which the detector looked."""
    detection_faults: int = 0
    detection_fault: str | None = None
    """The first of them."""


def load_object(
    connection: psycopg.Connection,
    version: ObjectVersion,
    open_object: Opener,
    limits: LimitsOf,
    detector: Detector | None = None,
) -> Outcome:
    """Loads `version` unless the ledger has it, and says what became of its readings.

    Values out of range are recorded as anomalies; with a `detector`, also what is unusual for the device.

    A permanent fault of the object (broken gzip, gone) is recorded as `rejected`. A transient one (database away,
    deadlock, timeout) raises psycopg.Error after everything was rolled back: deliver the event again.
    """
    started = time.monotonic()
    with connection.transaction(), connection.cursor() as cursor:
        object_id = _claim(cursor, version)
        if object_id is None:
            return Outcome("already_loaded")
        outcome = _load_claimed(connection, cursor, object_id, open_object, limits, started, detector)
    if detector is not None and outcome.status == "loaded":
        detector.commit()
    return outcome


def reload_rejected(
    connection: psycopg.Connection, object_id: int, open_object: Opener, limits: LimitsOf
) -> Outcome | None:
    """Loads a rejected object again, under the id that it has; None when it is not rejected (any more).

    Two at once: one waits, then does nothing. Faults are those of load_object.
    """
    started = time.monotonic()
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE ingest.objects SET resolution = NULL, resolved_at = NULL, resolved_by = NULL, note = NULL "
            "WHERE object_id = %s AND status = 'rejected'",
            (object_id,),
        )
        if not cursor.rowcount:
            return None
        return _load_claimed(connection, cursor, object_id, open_object, limits, started)


def _load_claimed(
    connection: psycopg.Connection,
    cursor: psycopg.Cursor,
    object_id: int,
    open_object: Opener,
    limits: LimitsOf,
    started: float,
    detector: Detector | None = None,
) -> Outcome:
    try:
        outcome = _store(connection, cursor, object_id, open_object, limits, detector)
    except UnreadableObjectError as error:
        outcome = Outcome("rejected", object_id, reason=str(error))
    outcome.milliseconds = round((time.monotonic() - started) * 1000)
    record_outcome(cursor, object_id, outcome)
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
    connection: psycopg.Connection,
    cursor: psycopg.Cursor,
    object_id: int,
    open_object: Opener,
    limits: LimitsOf,
    detector: Detector | None,
) -> Outcome:
    """Copies the object's rows and quarantines the rest.

    Straight into the hypertable first. Only a unique violation (or a deadlock with a loader of the same readings),
    which undoes the savepoint, proves that the slower way through a temporary table is needed.
    """
    try:
        with connection.transaction(), Pass(cursor, object_id, limits, detector) as done:
            done.copy("telemetry", open_object)
            return done.finish(duplicates=0)
    except (errors.UniqueViolation, errors.DeadlockDetected):
        pass
    with connection.transaction(), Pass(cursor, object_id, limits, detector) as done:
        cursor.execute("SET LOCAL work_mem = '64MB'")
        cursor.execute("CREATE TEMPORARY TABLE incoming (LIKE telemetry) ON COMMIT DROP")
        done.copy("incoming", open_object)
        stored = insert_new(cursor, object_id)
        done.findings.keep_ranges(stored_out_of_range(cursor, object_id))
        cursor.execute("DROP TABLE incoming")
        return done.finish(duplicates=done.rows - stored)


class Pass:
    """One pass over the object: its rows into a table, the rest aside, and what there was of each."""

    def __init__(
        self, cursor: psycopg.Cursor, object_id: int, limits: LimitsOf, detector: Detector | None = None
    ) -> None:
        self._cursor = cursor
        self._object_id = object_id
        self._limits_of = limits
        self._encoder = Encoder(object_id)
        self._refused = Spill()
        self._first: int | None = None
        self._last: int | None = None
        self._out_of_range = 0
        self._number = 0
        self.rows = 0
        self.latest = Latest()
        self.findings = Findings()
        self._detection = detector.begin(self.findings) if detector is not None else None
        self._touched = Touched()

    def __enter__(self) -> "Pass":
        return self

    def __exit__(self, *_: object) -> None:
        self._refused.close()

    def copy(self, table: Literal["telemetry", "incoming"], open_object: Opener) -> None:
        """Copies every row of the object into `table`. Raises UnreadableObjectError when the object is broken."""
        with open_object() as body:
            limits = self._limits_of() if callable(self._limits_of) else self._limits_of
            blocks = line_blocks(body)
            while self._copy_some(table, blocks, limits):
                pass

    def _copy_some(self, table: str, blocks: Iterator[list[bytes | LongLine]], limits: Limits) -> bool:
        """One COPY, to the end, or until so much waits for the detector that it must be read in between: whether it was."""
        more = False
        detection = self._detection
        with self._cursor.copy(f"COPY {table} ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(HEADER)
            for block in blocks:
                copy.write(b"".join(self._encode(block, limits)))
                if detection is not None:
                    # Now, because the server has something to do meanwhile.
                    detection.judge()
                    if detection.waits:
                        more = True
                        break
            copy.write(TRAILER)
            if not more:
                self.latest.encode()
        if detection is not None:
            detection.read(self._cursor)
        return more

    def _encode(self, block: list[bytes | LongLine], limits: Limits) -> list[bytes]:
        """The rows of some lines, after all notes that are taken of them."""
        data: list[bytes] = []
        detection = self._detection
        for line in block:
            self._number += 1
            clean = encode_clean(line, limits, self._encoder) if type(line) is bytes else None
            if clean is None:
                data += self._judge(self._number, line, limits)
                continue
            data.append(clean.data)
            self._count(clean.rows, clean.first, clean.last)
            self.latest.clean(clean)
            self.findings.clean(clean.device_id)
            if detection is not None:
                detection.note(clean)
            self._touched.add_all(clean.device_id, clean.times, clean.first, clean.last)
        return data

    def _judge(self, number: int, line: bytes | LongLine, limits: Limits) -> list[bytes]:
        """The rows of a line that is not clean; what is no row is put aside for quarantine."""
        rows = []
        for item in parse_line(number, line, limits):
            if isinstance(item, Row):
                milliseconds = (item.timestamp - _EPOCH) // _MILLISECOND
                self._count(1, milliseconds, milliseconds)
                self._out_of_range += item.quality & OUT_OF_RANGE != 0
                self.findings.check_ranges(item.device_id, milliseconds, item[3:7], item.quality)
                self.latest.row(item)
                self._touched.add(item.device_id, milliseconds, milliseconds)
                rows.append(item)
            else:
                self._refused.add(item)
        if rows and self._detection is not None:
            self._detection.note_rows(rows)
        return [self._encoder.row(row) for row in rows]

    def _count(self, rows: int, first: int, last: int) -> None:
        """Counts rows whose timestamps (epoch milliseconds) lie from `first` to `last`."""
        self.rows += rows
        if self._first is None or first < self._first:
            self._first = first
        if self._last is None or last > self._last:
            self._last = last

    def outcome(self, *, duplicates: int) -> Outcome:
        """Stores what was put aside, marks what the rollups do not know yet, and sums up."""
        self._refused.store(self._cursor, object_id=self._object_id)
        if self.rows > duplicates:
            self._touched.mark(self._cursor)
        return Outcome(
            "loaded",
            self._object_id,
            readings=self.rows + self._refused.count,
            rows=self.rows - duplicates,
            duplicates=duplicates,
            quarantined=self._refused.count,
            first=_at(self._first),
            last=_at(self._last),
            out_of_range=self._out_of_range,
        )

    def finish(self, *, duplicates: int) -> Outcome:
        """Stores all that is known of the object's readings beside them, and sums up."""
        outcome = self.outcome(duplicates=duplicates)
        self.latest.keep(self._cursor, self._object_id)
        self.findings.record(self._cursor)
        if self._detection is not None:
            self._detection.store(self._cursor)
            outcome.checked = self._detection.checked
            outcome.detection_faults = self._detection.faults
            if self._detection.fault is not None:
                outcome.detection_fault = repr(self._detection.fault)
        return outcome


def record_outcome(cursor: psycopg.Cursor, object_id: int, outcome: Outcome) -> None:
    """Writes into the ledger what became of a claimed object."""
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
            outcome.first,
            outcome.last,
            outcome.milliseconds,
            object_id,
        ),
    )


def _at(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else _EPOCH + milliseconds * _MILLISECOND
