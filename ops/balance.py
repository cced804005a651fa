"""The balance of one run: where each acknowledged reading is, from three independent sources.

What was acknowledged comes from the devices, what lies in S3 from the objects themselves, and what became of it from
the database. Nothing here trusts a count that another part made.
"""

import gzip
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from infra.names import RAW_PREFIX
from ops.audit.lines import count_readings
from ops.audit.waiting import queue_depth

SeqRange = tuple[int, int]


@dataclass(frozen=True)
class Pipeline:
    """What the balance looks at."""

    s3: Any
    sqs: Any
    bucket: str
    rule_errors: str
    """URL of the queue of messages that never reach S3. (Events of objects need no counting: the ledger tells.)"""
    database: psycopg.Connection
    undelivered: Callable[[], int]
    """Readings that Firehose has taken in and not delivered."""


@dataclass(frozen=True)
class Before:
    """The pipeline's state before a run: what is there already is not the run's."""

    objects: frozenset[str]
    object_id: int
    at: datetime


@dataclass(frozen=True)
class Balance:
    """Readings by where they are. `missing` is the number of acknowledged readings that are nowhere."""

    published: int
    acknowledged: int
    in_s3: int
    rows: int
    duplicates: int
    quarantined: int
    in_flight: int
    missing: int
    rejected_objects: int
    objects: int
    latency_p50_seconds: float | None
    latency_p95_seconds: float | None
    latency_max_seconds: float | None

    @property
    def accounted_for(self) -> bool:
        """Whether every acknowledged reading is somewhere, and every reading in S3 was dealt with."""
        dealt_with = self.rows + self.duplicates + self.quarantined == self.in_s3
        return self.missing == 0 and self.rejected_objects == 0 and (dealt_with or self.in_flight > 0)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**asdict(self), "accounted_for": self.accounted_for}


def before(pipeline: Pipeline) -> Before:
    """Remembers what is there."""
    row = _one(pipeline, "SELECT coalesce(max(object_id), 0), clock_timestamp() FROM ingest.objects")
    return Before(frozenset(_keys(pipeline)), row[0], row[1])


def wait_until_drained(
    pipeline: Pipeline, start: Before, *, stalled_seconds: float, progress: Callable[[int], None] = lambda _: None
) -> bool:
    """Waits until nothing of the run is on its way; False when nothing has moved for `stalled_seconds`.

    `progress` is called with the readings in flight each time their number has changed.
    """
    moved, last = time.monotonic(), None
    counts: dict[str, int] = {}
    while True:
        loaded = _ledger_keys(pipeline, start)
        waiting = _new_keys(pipeline, start) - loaded
        messages = queue_depth(pipeline.sqs, pipeline.rule_errors)
        readings = pipeline.undelivered() + sum(_count(pipeline, key, counts) for key in waiting)
        if not waiting and not messages and not readings:
            return True
        now = (readings, len(waiting), messages, len(loaded))
        if now != last:
            moved, last = time.monotonic(), now
            progress(readings)
        if time.monotonic() - moved > stalled_seconds:
            return False
        time.sleep(0.2)


def balance(
    pipeline: Pipeline,
    start: Before,
    *,
    published: int,
    acknowledged: Mapping[str, Sequence[SeqRange]],
    since: datetime,
) -> Balance:
    """The balance of a run whose readings carry timestamps from `since` on."""
    counts: dict[str, int] = {}
    new_keys = _new_keys(pipeline, start)
    in_s3 = sum(_count(pipeline, key, counts) for key in new_keys)
    on_its_way = new_keys - _ledger_keys(pipeline, start)
    in_flight = pipeline.undelivered() + sum(counts[key] for key in on_its_way)
    ledger = _one(
        pipeline,
        "SELECT count(*), count(*) FILTER (WHERE status = 'rejected'), coalesce(sum(duplicates), 0)::bigint "
        "FROM ingest.objects WHERE object_id > %s",
        (start.object_id,),
    )
    stored = _one(pipeline, "SELECT count(*) FROM telemetry WHERE object_id > %s", (start.object_id,))
    refused = _one(
        pipeline,
        "SELECT count(*) FROM ingest.quarantine WHERE resolution IS DISTINCT FROM 'redriven' "
        "AND (object_id > %s OR (object_id IS NULL AND quarantined_at >= %s))",
        (start.object_id, start.at),
    )
    latency = _one(
        pipeline,
        "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds), percentile_disc(0.95) WITHIN GROUP "
        "(ORDER BY seconds), max(seconds) FROM (SELECT extract(epoch FROM loaded_at - timestamp)::float8 AS seconds "
        "FROM telemetry JOIN ingest.objects USING (object_id) WHERE object_id > %s) AS latencies",
        (start.object_id,),
    )
    absent = _absent(pipeline.database, acknowledged, since)
    total = sum(last - first + 1 for ranges in acknowledged.values() for first, last in ranges)
    return Balance(
        published=published,
        acknowledged=total,
        in_s3=in_s3,
        rows=stored[0],
        duplicates=ledger[2],
        quarantined=refused[0],
        in_flight=in_flight,
        missing=max(0, absent - refused[0] - in_flight),
        rejected_objects=ledger[1],
        objects=ledger[0],
        latency_p50_seconds=latency[0],
        latency_p95_seconds=latency[1],
        latency_max_seconds=latency[2],
    )


def _one(pipeline: Pipeline, query: LiteralString, parameters: Sequence[object] = ()) -> tuple[Any, ...]:
    """The single row of an aggregate."""
    row = pipeline.database.execute(query, parameters).fetchone()
    if row is None:
        raise RuntimeError("an aggregate returned no row")
    return row


def _absent(database: psycopg.Connection, acknowledged: Mapping[str, Sequence[SeqRange]], since: datetime) -> int:
    """How many acknowledged (device, seq) are not in the table: compared one by one, not by their number."""
    stored: dict[str, set[int]] = {}
    with database.cursor() as cursor:
        rows = cursor.stream(
            "SELECT device_id, seq FROM telemetry WHERE timestamp >= %s AND device_id = ANY(%s)",
            (since, list(acknowledged)),
        )
        for device, seq in rows:
            stored.setdefault(device, set()).add(seq)
    return sum(
        seq not in stored.get(device, ())
        for device, ranges in acknowledged.items()
        for first, last in ranges
        for seq in range(first, last + 1)
    )


def _keys(pipeline: Pipeline) -> Iterator[str]:
    for page in pipeline.s3.get_paginator("list_objects_v2").paginate(Bucket=pipeline.bucket, Prefix=RAW_PREFIX):
        yield from (entry["Key"] for entry in page.get("Contents", ()))


def _new_keys(pipeline: Pipeline, start: Before) -> set[str]:
    return set(_keys(pipeline)) - start.objects


def _ledger_keys(pipeline: Pipeline, start: Before) -> set[str]:
    rows = pipeline.database.execute("SELECT key FROM ingest.objects WHERE object_id > %s", (start.object_id,))
    return {row[0] for row in rows}


def _count(pipeline: Pipeline, key: str, counts: dict[str, int]) -> int:
    if key not in counts:
        body = pipeline.s3.get_object(Bucket=pipeline.bucket, Key=key)["Body"].read()
        counts[key] = count_readings(gzip.decompress(body) if key.endswith(".gz") else body)
    return counts[key]
