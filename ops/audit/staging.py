"""Puts a ground truth beside the rows that it is compared with: temporary tables, filled in batches."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from lambdas.shared.contract import METRICS
from ops.audit.broken import Broken
from ops.audit.lines import Bare, Key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# `quality` has what is out of range; what is of a wrong type follows from `extra`.
_TABLES = """
    CREATE TEMPORARY TABLE audit_sent (
        device_id text, ts bigint, seq bigint, temperature real, humidity real, pressure real, battery real, extra text,
        attempts integer, acknowledged_at bigint, quality smallint, odd boolean
    );
    CREATE TEMPORARY TABLE audit_waiting (device_id text, ts bigint, seq bigint);
    CREATE TEMPORARY TABLE audit_refused (quarantine_id bigint, device_id text, ts bigint, seq bigint)
"""
# A reading may have been sent more than once, on purpose: then each time was acknowledged for itself.
_KEYS = """
    CREATE TEMPORARY TABLE audit_key AS
    SELECT device_id, ts, seq, 'epoch'::timestamptz + ts * interval '1 millisecond' AS timestamp,
           'epoch'::timestamptz + ts / 3600000 * interval '1 hour' AS hour,
           min(temperature) AS temperature, min(humidity) AS humidity, min(pressure) AS pressure, min(battery) AS battery,
           min(extra)::jsonb AS extra,
           min(quality) AS quality, bool_or(odd) AS odd, count(acknowledged_at) AS acknowledged, sum(attempts) AS attempts,
           'epoch'::timestamptz + min(acknowledged_at) * interval '1 microsecond' AS acknowledged_at
    FROM audit_sent GROUP BY device_id, ts, seq
"""


@dataclass
class Staged:
    """What was staged of a ground truth."""

    broken: list[Broken] = field(default_factory=list)
    by_print: dict[str, list[Broken]] = field(default_factory=dict)
    bare_waiting: list[Bare] = field(default_factory=list)
    """On their way, and nothing to know them by."""
    devices: set[str] = field(default_factory=set)
    first_ts: int | None = None
    last_ts: int | None = None
    unreadable: int = 0
    """Rows of the ground truth without a time in whole milliseconds that are no broken payloads either: not judged."""


def stage(
    database: psycopg.Connection,
    batches: Iterable[Any],
    *,
    since: datetime | None,
    until: datetime | None,
    device: str | None,
    say: Callable[[str], None],
) -> Staged:
    """Copies the batches into `audit_sent`, and makes `audit_key` of it. Raises psycopg.Error."""
    staged = Staged()
    database.execute("SET timezone = 'UTC'")
    database.execute(_TABLES)
    with database.cursor() as cursor:
        read = 0
        for batch in batches:
            _stage(cursor, batch, staged, since=since, until=until, device=device)
            read += batch.num_rows
            say(f"reading the ground truth: {read:,} readings")
    database.execute(_KEYS)
    database.execute("ANALYZE audit_key")
    database.execute("DROP TABLE audit_sent")
    for broken in staged.broken:
        for text in broken.prints():
            staged.by_print.setdefault(text, []).append(broken)
    return staged


def _stage(
    cursor: psycopg.Cursor,
    batch: Any,
    staged: Staged,
    *,
    since: datetime | None,
    until: datetime | None,
    device: str | None,
) -> None:
    """One batch: readings by COPY, the few broken payloads are kept here."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if device is not None:
        batch = batch.filter(pc.equal(pc.cast(batch["device"], pa.string()), device))
    broken = batch.filter(pc.or_(pc.is_null(batch["ts"]), pc.is_valid(batch["raw"])))
    for row in broken.select(["device", "kind", "attempts", "sent_at", "acknowledged_at", "raw"]).to_pylist():
        if row["raw"] is None:
            staged.unreadable += 1
        elif row["sent_at"] is not None:
            sent_at = EPOCH + timedelta(microseconds=row["sent_at"])
            acknowledged = row["acknowledged_at"]
            at = None if acknowledged is None else EPOCH + timedelta(microseconds=acknowledged)
            counted = (since is None or sent_at >= since) and (until is None or sent_at < until)
            staged.broken.append(Broken(row["device"], sent_at, at, row["attempts"], row["raw"], counted))
            staged.devices.add(row["device"])
    readings = batch.filter(pc.and_(pc.is_valid(batch["ts"]), pc.is_null(batch["raw"])))
    if since is not None:
        readings = readings.filter(pc.greater_equal(readings["ts"], milliseconds(since)))
    if until is not None:
        readings = readings.filter(pc.less(readings["ts"], milliseconds(until)))
    if readings.num_rows:
        staged.devices.update(pc.unique(pc.cast(readings["device"], pa.string())).to_pylist())
        span = pc.min_max(readings["ts"]).as_py()
        staged.first_ts = span["min"] if staged.first_ts is None else min(staged.first_ts, span["min"])
        staged.last_ts = span["max"] if staged.last_ts is None else max(staged.last_ts, span["max"])
        with cursor.copy("COPY audit_sent FROM STDIN (FORMAT csv)") as copy:
            copy.write(_csv(readings))


def _csv(readings: Any) -> bytes:
    """Readings as the table must have them, as CSV."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    quality = pa.array([0] * readings.num_rows, pa.int16())
    odd = pa.array([False] * readings.num_rows)
    metrics: dict[str, Any] = {}
    for metric in METRICS:
        sent = readings[metric.name]
        single = pc.cast(sent, pa.float32(), safe=False)
        holds = pc.fill_null(pc.is_finite(single), True)
        outside = pc.or_(pc.less(sent, metric.low), pc.greater(sent, metric.high))
        flagged = pc.and_(pc.fill_null(outside, False), holds)
        quality = pc.bit_wise_or(
            quality, pc.multiply(pc.cast(flagged, pa.int16()), pa.scalar(metric.out_of_range, pa.int16()))
        )
        odd = pc.or_(odd, pc.invert(holds))
        metrics[metric.name] = single
    table = pa.table(
        {
            "device_id": pc.cast(readings["device"], pa.string()),
            "ts": readings["ts"],
            "seq": pc.fill_null(readings["seq"], 0),
            **metrics,
            # What no jsonb can hold is replaced, as the loader does.
            "extra": pc.replace_substring(readings["extra"], "\\u0000", "\\ufffd"),
            "attempts": readings["attempts"],
            "acknowledged_at": readings["acknowledged_at"],
            "quality": quality,
            "odd": odd,
        }
    )
    sink = io.BytesIO()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=False))
    return sink.getvalue()


def stage_keys(database: psycopg.Connection, keys: Iterable[Key]) -> None:
    """Copies readings that are on their way into `audit_waiting`."""
    with database.cursor() as cursor, cursor.copy("COPY audit_waiting FROM STDIN") as copy:
        for key in keys:
            if abs(key.ts) < 2**62 and abs(key.seq) < 2**63:
                copy.write_row(key)


def stage_refused(database: psycopg.Connection, rows: Sequence[tuple[int, Key]]) -> None:
    """Copies readings in quarantine into `audit_refused`."""
    with database.cursor() as cursor, cursor.copy("COPY audit_refused FROM STDIN") as copy:
        for quarantine_id, key in rows:
            if abs(key.ts) < 2**62 and abs(key.seq) < 2**63:
                copy.write_row((quarantine_id, *key))


def milliseconds(at: datetime) -> int:
    """Since the epoch, rounded down."""
    return (at - EPOCH) // timedelta(milliseconds=1)
