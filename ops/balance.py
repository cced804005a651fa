"""What a demonstration proves beside the audit: that the pipeline has drained, what lies in S3, and how long it took.

What became of each reading is the audit's to say (ops.audit), value by value by the ground truth. Here the objects are
counted for themselves, and both are held against each other and against what the devices counted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from lambdas.shared.listing import hour_prefixes, pages
from ops.audit.lines import lines_of, text_of
from ops.audit.sheet import Sheet
from ops.audit.staging import milliseconds
from ops.audit.waiting import Sources, spooled_readings
from ops.errors import UserError
from ops.rows import single_row

_HOUR = timedelta(hours=1)
_POLL_SECONDS = 0.2
_CONNECTION_LOST = (psycopg.OperationalError, psycopg.InterfaceError, UserError)


@dataclass(frozen=True)
class Sending:
    """A run that has ended."""

    devices: frozenset[str]
    since: datetime
    """No reading of the run is older, and these devices sent nothing else after it."""
    published: int
    """Readings handed to the broker; of those that it never acknowledged some may have arrived."""
    earlier: frozenset[str]
    """Keys of objects that were there before the run."""


@dataclass(frozen=True)
class Arrived:
    """What of a run is in S3, and what the ledger says of those objects."""

    in_s3: int
    objects: int
    duplicates: int
    latency_p50_seconds: float | None
    latency_p95_seconds: float | None
    latency_max_seconds: float | None


@dataclass(frozen=True)
class Balance:
    """Readings by where they are. `missing` is the number of acknowledged readings that are nowhere."""

    published: int
    acknowledged: int
    in_s3: int
    rows: int
    duplicates: int
    """Readings that came once more, as QoS 1 allows, and were stored once."""
    quarantined: int
    in_flight: int
    missing: int
    differing: int
    """Rows with other values than were sent."""
    unexpected: int
    """Rows and items in quarantine that nobody sent."""
    unproven: int
    """Acknowledged readings of which the ground truth does not know."""
    in_doubt_arrived: int
    """Never acknowledged, and here all the same."""
    rejected_objects: int
    objects: int
    latency_p50_seconds: float | None
    latency_p95_seconds: float | None
    latency_max_seconds: float | None

    @property
    def dealt_with(self) -> int:
        """Readings in S3 of which something became."""
        return self.rows + self.in_doubt_arrived + self.duplicates + self.quarantined

    @property
    def accounted_for(self) -> bool:
        """Whether every acknowledged reading is somewhere, as it was sent, and all that is in S3 was dealt with."""
        wrong = self.missing or self.differing or self.unexpected or self.unproven or self.rejected_objects
        return not wrong and (self.dealt_with == self.in_s3 or self.in_flight > 0)

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {**asdict(self), "accounted_for": self.accounted_for}


def balance(sheet: Sheet, arrived: Arrived, *, published: int, acknowledged: int) -> Balance:
    """What the audit found, beside what the devices counted and what lies in S3."""
    total = sheet.total
    return Balance(
        published=published,
        acknowledged=acknowledged,
        rows=total.rows,
        quarantined=total.quarantined,
        in_flight=total.in_flight,
        missing=total.missing,
        differing=total.differing,
        unexpected=sheet.unexpected_rows + len(sheet.unexpected_quarantined),
        unproven=abs(acknowledged - total.expected),
        in_doubt_arrived=sheet.in_doubt_arrived,
        rejected_objects=sheet.rejected_objects,
        **asdict(arrived),
    )


def keys_now(at: Sources) -> frozenset[str]:
    """Keys of the objects of this hour and of those beside it."""
    now = datetime.now(UTC)
    return frozenset(_keys(at, now))


def wait_until_drained(
    at: Sources,
    connect: Callable[[], psycopg.Connection],
    sending: Sending,
    *,
    stalled_seconds: float,
    quiet_seconds: float,
    enough: Callable[[], bool] = lambda: False,
    progress: Callable[[str], None] = lambda _: None,
) -> bool:
    """Waits until as many readings are rows as were published, through a restart of the database too.

    False when it is `enough`, when nothing has moved for `stalled_seconds`, or for `quiet_seconds` with nothing on its
    way that can be seen. (The emulator hands on what it has acknowledged a moment later, and nobody can look into it.)
    Raises UserError when the database has not answered for `stalled_seconds`.
    """
    connection: psycopg.Connection | None = None
    moved, last = time.monotonic(), (-1, -1, -1, -1)
    try:
        while True:
            lost = None
            try:
                connection = connection or connect()
                now = _look(at, connection, sending)
            except _CONNECTION_LOST as error:
                if connection is not None:
                    connection.close()
                connection, now, lost = None, last, error
                progress("the database does not answer")
            if now != last:
                moved, last = time.monotonic(), now
                progress(f"{max(0, sending.published - now[0]):,} readings on their way")
            stored, *waiting = now
            if stored >= sending.published:
                return True
            still = time.monotonic() - moved
            if still > stalled_seconds and lost is not None:
                reason = " ".join(str(lost).split())
                raise UserError(f"the database has not answered for {stalled_seconds:.0f} s ({reason})")
            if enough() or still > stalled_seconds or (lost is None and not any(waiting) and still > quiet_seconds):
                return False
            time.sleep(_POLL_SECONDS)
    finally:
        if connection is not None:
            connection.close()


def _look(at: Sources, database: psycopg.Connection, sending: Sending) -> tuple[int, int, int, int]:
    """Rows of the run, and readings, objects and messages on their way: in the order in which data flows."""
    spooled = spooled_readings(at.spool) if at.spool is not None else 0
    messages = at.rule_errors()
    objects = _objects(at, sending)
    loaded = _ledger(database, at, objects)
    (stored,) = single_row(
        database.execute(
            "SELECT count(*) FROM telemetry WHERE timestamp >= %s AND device_id = ANY(%s)",
            (sending.since, list(sending.devices)),
        )
    )
    return stored, spooled, len(objects) - len(loaded), messages


def arrived(at: Sources, database: psycopg.Connection, sending: Sending) -> Arrived:
    """Counts the run's readings in the objects themselves, and reads what the ledger says of these."""
    objects = _objects(at, sending)
    since = milliseconds(sending.since)
    in_s3 = 0
    for key in objects:
        body: bytes = at.s3.get_object(Bucket=at.bucket, Key=key)["Body"].read()
        for line in lines_of(text_of(body, gzipped=key.endswith(".gz"))):
            in_s3 += sum(each.device_id in sending.devices and each.ts >= since for each in line.keys)
    devices = list(sending.devices)
    (duplicates,) = single_row(
        database.execute(
            "SELECT coalesce(sum(duplicates), 0)::bigint FROM ingest.duplicates "
            "WHERE object_id = ANY(%s) AND device_id = ANY(%s)",
            (_ledger(database, at, objects), devices),
        )
    )
    latency = single_row(
        database.execute(
            "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds), percentile_disc(0.95) WITHIN GROUP "
            "(ORDER BY seconds), max(seconds) FROM (SELECT extract(epoch FROM loaded_at - timestamp)::float8 AS seconds "
            "FROM telemetry JOIN ingest.objects USING (object_id) WHERE timestamp >= %s AND device_id = ANY(%s)) AS l",
            (sending.since, devices),
        )
    )
    return Arrived(in_s3, len(objects), duplicates, *latency)


def _objects(at: Sources, sending: Sending) -> list[str]:
    return [key for key in _keys(at, sending.since) if key not in sending.earlier]


def _keys(at: Sources, since: datetime) -> Iterator[str]:
    """A key bears the hour of its object's oldest record."""
    for prefix in hour_prefixes(since - _HOUR, datetime.now(UTC) + _HOUR):
        for page, _ in pages(at.s3, at.bucket, prefix):
            yield from (listed.key for listed in page if listed.latest)


def _ledger(database: psycopg.Connection, at: Sources, keys: Sequence[str]) -> list[int]:
    rows = database.execute(
        "SELECT object_id FROM ingest.objects WHERE bucket = %s AND key = ANY(%s)", (at.bucket, list(keys))
    )
    return [row[0] for row in rows]
