"""Loads an object again that the ledger has: what it stored before is removed and stored anew, in one transaction."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from lambdas.processor.duplicates import count_duplicates, new_out_of_range
from lambdas.processor.latest import refresh_latest
from lambdas.processor.limits import Limits
from lambdas.processor.load import Opener, Outcome, Pass, load_object, record_outcome
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError
from ops.replay.checksum import CHECKSUM
from ops.replay.source import UnavailableError
from ops.rows import single_row

_COLUMNS = "device_id, timestamp, seq, temperature, humidity, pressure, battery, extra, quality, received_at, object_id"


@dataclass(frozen=True)
class Contents:
    """What the database holds of an object; `rows` and `quarantined` as found, `duplicates` as the ledger says."""

    status: str
    rows: int
    duplicates: int
    quarantined: int
    checksum: int
    ledger_rows: int
    ledger_quarantined: int


@dataclass(frozen=True)
class Replacement:
    """An object before and after it was loaded again; `before` is None when the ledger did not have it."""

    before: Contents | None
    after: Contents
    outcome: Outcome

    @property
    def changed(self) -> bool:
        """Whether loading it again made a difference."""
        return self.before is not None and self.before != self.after


def replace_object(
    connection: psycopg.Connection, version: ObjectVersion, open_object: Opener, limits: Limits
) -> Replacement:
    """Loads `version` again, under the id it has in the ledger; whatever fails, the object stays as it was.

    Only rows that are this object's own are removed. A reading that two objects hold is a row of one of them and a
    duplicate in the other, and stays so: reloading the first brings its row back in the same transaction; reloading the
    second counts its duplicate again. What an operator decided about quarantined lines is kept: a line that is refused
    again stays discarded; one that is not is redriven.

    Raises UnavailableError when an object that was loaded cannot be read any more: its rows are not given up for that.
    """
    started = time.monotonic()
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT object_id, status, rows, duplicates, quarantined, first_timestamp, last_timestamp "
            "FROM ingest.objects WHERE bucket = %s AND key = %s AND version_id = %s FOR UPDATE",
            (version.bucket, version.key, version.version_id),
        )
        ledger = cursor.fetchone()
        if ledger is None:
            outcome = load_object(connection, version, open_object, limits)
            return Replacement(None, _as_recorded(outcome, 0), outcome)
        object_id, status, rows, duplicates, quarantined, first, last = ledger
        try:
            with connection.transaction(), Pass(cursor, object_id, limits) as done:
                cursor.execute("SET LOCAL work_mem = '64MB'")
                cursor.execute("CREATE TEMPORARY TABLE incoming (LIKE telemetry) ON COMMIT DROP")
                done.copy("incoming", open_object)
                done.findings.keep_ranges(new_out_of_range(cursor))
                removed = _remove_rows(cursor, object_id, rows, first, last)
                lines = _set_quarantine_aside(cursor, object_id)
                before = Contents(status, removed.rows, duplicates, lines, removed.checksum, rows, quarantined)
                stored, checksum = _store_rows(cursor)
                count_duplicates(cursor, object_id)
                outcome = done.outcome(duplicates=done.rows - stored)
                refresh_latest(cursor, removed.devices | done.latest.devices)
                done.findings.record(cursor)
                _restore_decisions(cursor, object_id)
                cursor.execute("DROP TABLE incoming")
                cursor.execute("DROP TABLE decided")
        except UnreadableObjectError as error:
            if status != "rejected":
                raise UnavailableError(f"{error}, though it was loaded once: its rows were left as they are") from None
            outcome, checksum = Outcome("rejected", object_id, reason=str(error)), 0
            before = Contents(status, 0, 0, 0, 0, 0, 0)
        outcome.milliseconds = round((time.monotonic() - started) * 1000)
        if outcome.status == "loaded":
            cursor.execute(
                "UPDATE ingest.objects SET resolution = NULL, resolved_at = NULL, resolved_by = NULL, note = NULL "
                "WHERE object_id = %s AND resolution IS NOT NULL",
                (object_id,),
            )
        record_outcome(cursor, object_id, outcome)
        return Replacement(before, _as_recorded(outcome, checksum), outcome)


def _as_recorded(outcome: Outcome, checksum: int) -> Contents:
    return Contents(
        outcome.status,
        outcome.rows,
        outcome.duplicates,
        outcome.quarantined,
        checksum,
        outcome.rows,
        outcome.quarantined,
    )


class _Removed(NamedTuple):
    rows: int
    checksum: int
    devices: frozenset[str]


def _remove_rows(
    cursor: psycopg.Cursor, object_id: int, expected: int, first: datetime | None, last: datetime | None
) -> _Removed:
    """Removes the object's rows; returns their number, checksum and devices.

    There is no index on object_id (it would cost every load), so they are found by the keys that the object holds now.
    Only when these are not all of them is the span of time searched that the ledger names.
    """
    # With an index on either side no plan is slow, however wrong the statistics of a busy chunk are about object_id.
    cursor.execute("CREATE INDEX ON incoming (device_id, timestamp, seq)")
    cursor.execute("ANALYZE incoming")
    cursor.execute("SELECT min(timestamp), max(timestamp) FROM incoming")
    low, high = single_row(cursor)
    removed = _Removed(0, 0, frozenset())
    if low is not None:
        # The span is redundant, and lets the planner leave out the other chunks.
        removed = _delete(
            cursor,
            "USING incoming i WHERE t.object_id = %s AND t.timestamp BETWEEN %s AND %s "
            "AND t.device_id = i.device_id AND t.timestamp = i.timestamp AND t.seq = i.seq",
            (object_id, low, high),
        )
    if removed.rows != expected and first is not None:
        more = _delete(cursor, "WHERE t.object_id = %s AND t.timestamp BETWEEN %s AND %s", (object_id, first, last))
        removed = _Removed(removed.rows + more.rows, removed.checksum + more.checksum, removed.devices | more.devices)
    return removed


def _delete(cursor: psycopg.Cursor, which: str, parameters: tuple[Any, ...]) -> _Removed:
    cursor.execute(
        f"WITH removed AS (DELETE FROM telemetry t {which} RETURNING t.*), "  # noqa: S608 - constants
        "touched AS (INSERT INTO ingest.touched (first, last, device_ids) SELECT min(timestamp), max(timestamp), "
        "array_agg(DISTINCT device_id) FROM removed GROUP BY date_trunc('hour', timestamp, 'UTC')), "
        f"by_device AS (SELECT device_id, count(*) AS rows, {CHECKSUM} AS checksum FROM removed GROUP BY device_id) "
        "SELECT coalesce(sum(rows), 0), coalesce(sum(checksum), 0), coalesce(array_agg(device_id), '{}') FROM by_device",
        parameters,
    )
    rows, checksum, devices = single_row(cursor)
    return _Removed(int(rows), int(checksum), frozenset(devices))


def _store_rows(cursor: psycopg.Cursor) -> tuple[int, int]:
    # Sorted by key, so that two loaders with overlapping readings wait for each other and cannot deadlock.
    cursor.execute(
        f"WITH stored AS (INSERT INTO telemetry ({_COLUMNS}) SELECT {_COLUMNS} FROM incoming "  # noqa: S608 - constants
        "ORDER BY device_id, timestamp, seq, received_at ON CONFLICT (device_id, timestamp, seq) DO NOTHING RETURNING *) "
        f"SELECT count(*), {CHECKSUM} FROM stored"
    )
    rows, checksum = single_row(cursor)
    return rows, int(checksum)


def _set_quarantine_aside(cursor: psycopg.Cursor, object_id: int) -> int:
    """Removes the object's lines, keeping those that an operator decided about; how many counted as quarantined."""
    cursor.execute(
        "CREATE TEMPORARY TABLE decided ON COMMIT DROP AS "
        "SELECT * FROM ingest.quarantine WHERE object_id = %s AND resolution IS NOT NULL",
        (object_id,),
    )
    cursor.execute(
        "WITH removed AS (DELETE FROM ingest.quarantine WHERE object_id = %s RETURNING resolution) "
        "SELECT count(*) FROM removed WHERE resolution IS DISTINCT FROM 'redriven'",
        (object_id,),
    )
    return int(single_row(cursor)[0])


def _restore_decisions(cursor: psycopg.Cursor, object_id: int) -> None:
    cursor.execute(
        "UPDATE ingest.quarantine q SET resolution = d.resolution, resolved_at = d.resolved_at, "
        "resolved_by = d.resolved_by, note = d.note FROM decided d WHERE q.object_id = %s AND d.resolution = 'discarded' "
        "AND (q.line, q.element) IS NOT DISTINCT FROM (d.line, d.element)",
        (object_id,),
    )
    cursor.execute(
        "UPDATE decided SET resolution = 'redriven', resolved_at = clock_timestamp() WHERE resolution = 'discarded'"
    )
    cursor.execute("INSERT INTO ingest.quarantine OVERRIDING SYSTEM VALUE SELECT * FROM decided ON CONFLICT DO NOTHING")
