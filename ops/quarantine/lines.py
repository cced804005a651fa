"""Redrives quarantined lines: one object at a time, each in one transaction that also moves the ledger's counts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from lambdas.processor.binary_copy import COLUMNS, HEADER, TRAILER, Encoder
from lambdas.processor.detection.findings import Findings
from lambdas.processor.duplicates import add_duplicates
from lambdas.processor.latest import refresh_latest
from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError, line_blocks
from lambdas.shared import quarantine
from lambdas.shared.quarantine import Quarantined
from lambdas.shared.touched import Touched
from ops.quarantine.judge import NOT_JUDGED, Refused, Verdict, judge, judge_kept, readings
from ops.quarantine.outcome import Outcome, Tally
from ops.quarantine.pipeline import ArchivedObjectError, Pipeline
from ops.quarantine.refusals import Kept

_ATTEMPTS = 5
_BATCH = 1_000
_COLUMNS = ", ".join(COLUMNS)
_FROM_TEXT = "from the text kept in quarantine: the object could not be read"


def redrive_lines(
    pipeline: Pipeline, object_id: int, numbers: Sequence[int], *, now: datetime, dry_run: bool = False
) -> Tally:
    """Parses lines of one object again and stores what is a row by today's rules; all of it, or nothing.

    Repeating it, or two operators at once, changes nothing more: the ledger's row is locked, and what is redriven is
    marked. A dry run does the same and rolls back. Raises psycopg.Error and botocore's errors, with nothing changed.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with pipeline.database.transaction(force_rollback=dry_run), pipeline.database.cursor() as cursor:
                return _Redrive(pipeline, cursor, object_id, now).run(numbers)
        except (errors.DeadlockDetected, errors.SerializationFailure):  # with a loader of the same readings
            if attempt == _ATTEMPTS:
                raise
            time.sleep(0.1 * attempt)
    raise AssertionError("unreachable")


class _Originals:
    """The lines of an object in ascending order, read and parsed as the loader does."""

    def __init__(self, body: Any, limits: Limits) -> None:
        self._lines = (line for block in line_blocks(body) for line in block)
        self._limits = limits
        self._number = 0
        self._readings: list[Row | Quarantined] | None = None

    def at(self, number: int) -> list[Row | Quarantined] | None:
        """What line `number` (from 1) holds; None beyond the end. Parsed once, however many of its readings wait."""
        line = None
        while self._number < number:
            line = next(self._lines, None)
            self._number += 1
            self._readings = None
        if line is not None:
            self._readings = readings(number, line, self._limits)
        return self._readings


class _Redrive:
    """One attempt at one object, within a transaction."""

    def __init__(self, pipeline: Pipeline, cursor: psycopg.Cursor, object_id: int, now: datetime) -> None:
        self._pipeline = pipeline
        self._cursor = cursor
        self._object_id = object_id
        self._now = now
        self._encoder = Encoder(object_id)
        self._tally = Tally()
        self._rows = self._duplicates = self._resolved = self._added = 0
        self._times: list[datetime] = []
        self._touched = Touched()
        self._devices: set[str] = set()
        self._findings = Findings()

    def run(self, numbers: Sequence[int]) -> Tally:
        # Longer than the connection's own: an object may be long in coming.
        self._cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '10min'")
        locked = self._cursor.execute(
            "SELECT bucket, key, version_id, size_bytes, claimed_at FROM ingest.objects "
            "WHERE object_id = %s AND status = 'loaded' FOR NO KEY UPDATE",
            [self._object_id],
        ).fetchone()
        seen = 0
        if locked is not None:
            *version, claimed_at = locked
            self._cursor.execute("CREATE TEMPORARY TABLE redriven (LIKE telemetry) ON COMMIT DROP")
            seen = self._redrive(ObjectVersion(*version), claimed_at, numbers)
            self._cursor.execute("DROP TABLE redriven")
            refresh_latest(self._cursor, self._devices)
            self._findings.record(self._cursor)
            self._move_counts()
            self._touched.mark(self._cursor)
        if seen < len(numbers):
            self._tally[Outcome("line", "", "resolved already")] += len(numbers) - seen
        return self._tally

    def _redrive(self, version: ObjectVersion, claimed_at: datetime, numbers: Sequence[int]) -> int:
        """Works through the lines that still wait; returns how many those are."""
        missing, opened = "", None
        try:
            opened = self._pipeline.open(version)
        except (UnreadableObjectError, ArchivedObjectError) as error:
            missing = str(error)
        arrived_at = opened.arrived_at if opened else claimed_at
        limits = self._pipeline.rules.limits(arrived_at=arrived_at, now=self._now)
        seen = rows = 0
        batch: list[Verdict] = []
        with self._waiting(numbers) as waiting, closing(opened.body) if opened else nullcontext():
            originals = _Originals(opened.body, limits) if opened else None
            for refused in waiting:
                seen += 1
                batch.append(self._verdict(refused, originals, missing, limits))
                rows += len(batch[-1].rows)
                if max(len(batch), rows) >= _BATCH:
                    self._store(batch, from_text=originals is None)
                    batch, rows = [], 0
            self._store(batch, from_text=originals is None)
        return seen

    @contextmanager
    def _waiting(self, numbers: Sequence[int]) -> Iterator[Iterator[Refused]]:
        """The lines that are not yet redriven, locked, in the order of the object, a batch at a time."""
        with self._pipeline.database.cursor("waiting") as cursor:
            cursor.itersize = _BATCH
            cursor.execute(
                "SELECT quarantine_id, line, element, device_id, reason, raw, raw_bytes FROM ingest.quarantine "
                "WHERE object_id = %s AND quarantine_id = ANY(%s) AND resolution IS DISTINCT FROM 'redriven' "
                "ORDER BY line, element FOR UPDATE",
                [self._object_id, list(numbers)],
            )
            yield map(Refused._make, cursor)

    def _verdict(self, refused: Refused, originals: _Originals | None, missing: str, limits: Limits) -> Verdict:
        if originals is not None:
            items = originals.at(refused.line)
            return judge(refused, items) if items is not None else Verdict(refused, "line_not_found", [], [])
        whole = Kept(refused.raw, refused.raw_bytes, None).whole
        # From the archive an element can still be had with all that its envelope said; its text alone is second best.
        if whole is None or (missing == "object_archived" and refused.element is not None):
            return Verdict(refused, missing, [], [])
        return judge_kept(refused, whole, limits)

    def _store(self, batch: Sequence[Verdict], *, from_text: bool) -> None:
        if not batch:
            return
        stored = self._insert(batch)
        resolved: list[int] = []
        stay: dict[str, list[int]] = {}
        duplicates: list[tuple[str, datetime]] = []
        for refused, stays, rows, elements in batch:
            if stays is not None:
                self._tally[Outcome("line", refused.reason, "stays", stays)] += 1
                if stays != refused.reason and stays not in NOT_JUDGED:
                    stay.setdefault(stays, []).append(refused.quarantine_id)
                continue
            resolved.append(refused.quarantine_id)
            for row in rows:
                key = (row.device_id, row.timestamp, row.seq)
                if key in stored:
                    self._findings.check_row(row)
                else:
                    duplicates.append((row.device_id, row.timestamp))
                self._tally[Outcome("line", refused.reason, "row" if key in stored else "duplicate")] += 1
                stored.discard(key)
                self._times.append(row.timestamp)
                self._devices.add(row.device_id)
            for element in elements:
                self._tally[Outcome("line", refused.reason, "stays", element.reason)] += 1
            quarantine.insert(self._cursor, elements, object_id=self._object_id)
            self._added += len(elements)
        add_duplicates(self._cursor, self._object_id, duplicates)
        self._mark(resolved, _FROM_TEXT if from_text else None)
        for reason, numbers in stay.items():
            self._cursor.execute(
                "UPDATE ingest.quarantine SET reason = %s WHERE quarantine_id = ANY(%s)", [reason, numbers]
            )

    def _insert(self, batch: Sequence[Verdict]) -> set[tuple[str, datetime, int]]:
        """Stores the rows that are not there yet; returns their keys."""
        rows = [row for verdict in batch for row in verdict.rows]
        if not rows:
            return set()
        with self._cursor.copy(f"COPY redriven ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(HEADER + b"".join(map(self._encoder.row, rows)) + TRAILER)
        # Sorted by key, as the loader does, so that both wait for each other in one order.
        stored = self._cursor.execute(
            f"INSERT INTO telemetry ({_COLUMNS}) SELECT {_COLUMNS} FROM redriven "  # noqa: S608 - constants
            "ORDER BY device_id, timestamp, seq ON CONFLICT (device_id, timestamp, seq) DO NOTHING "
            "RETURNING device_id, timestamp, seq"
        ).fetchall()
        self._cursor.execute("TRUNCATE redriven")
        self._touched.add_rows((device_id, timestamp) for device_id, timestamp, _ in stored)
        self._rows += len(stored)
        self._duplicates += len(rows) - len(stored)
        return {(device_id, timestamp, seq) for device_id, timestamp, seq in stored}

    def _mark(self, numbers: list[int], note: str | None) -> None:
        self._cursor.execute(
            "UPDATE ingest.quarantine SET resolution = 'redriven', resolved_at = clock_timestamp(), resolved_by = %s, "
            "note = %s WHERE quarantine_id = ANY(%s)",
            [self._pipeline.operator, note, numbers],
        )
        self._resolved += len(numbers)

    def _move_counts(self) -> None:
        self._cursor.execute(
            "UPDATE ingest.objects SET readings = readings + %s, rows = rows + %s, duplicates = duplicates + %s, "
            "quarantined = quarantined + %s, first_timestamp = least(first_timestamp, %s), "
            "last_timestamp = greatest(last_timestamp, %s) WHERE object_id = %s",
            [
                self._rows + self._duplicates + self._added - self._resolved,
                self._rows,
                self._duplicates,
                self._added - self._resolved,
                min(self._times, default=None),
                max(self._times, default=None),
                self._object_id,
            ],
        )
