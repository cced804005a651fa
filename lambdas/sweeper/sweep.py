"""Compares S3's listing with the ledger, a page at a time, and announces what the ledger lacks to the loader again.

An object can be in S3 and never be loaded: its event was lost, or expired in a dead-letter queue. Its key may be older
than those of objects that are loaded, so every key is asked for; there is no high-water mark to go by.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus

import psycopg

from lambdas.shared.listing import Listed, Marker, pages

_BATCH = 10
"""Messages that SQS takes at once."""


@dataclass(frozen=True)
class Target:
    """What is compared, and where events go."""

    bucket: str
    queue_url: str


@dataclass(frozen=True)
class Ages:
    """Which objects count, by the time at which S3 stored them."""

    oldest: datetime
    """Older ones are past the retention: their readings would not be stored."""
    newest: datetime
    """Younger ones may still be on their way through the queue."""
    announced_before: datetime
    """Those announced again since then are on their way as well."""

    @classmethod
    def at(cls, now: datetime, *, retention: timedelta, grace: timedelta, resend: timedelta) -> "Ages":
        """The ages that hold for a sweep that begins now."""
        return cls(oldest=now - retention, newest=now - grace, announced_before=now - resend)


@dataclass
class Findings:
    """What a sweep has found so far."""

    listed: int = 0
    never_loaded: int = 0
    announced: int = 0
    archived: int = 0
    """Never loaded and in an archive: they must be restored, so they are not announced."""
    oldest: datetime | None = None
    """When S3 stored the oldest object that was never loaded."""
    unfinished: Marker | None = None
    """Where the sweep must go on, when its time ran out."""
    announced_objects: list[Listed] = field(default_factory=list)
    """Of the page that was dealt with last."""


def sweep(
    s3: Any,
    sqs: Any,
    connection: psycopg.Connection,
    target: Target,
    ages: Ages,
    prefixes: Iterable[str],
    *,
    after: Marker | None = None,
    enough: Callable[[], bool] = lambda: False,
    progress: Callable[[Findings], None] = lambda _: None,
) -> Findings:
    """Goes through the objects under `prefixes`; `after` and `enough` (asked after each page) are for a single prefix.

    Announcing is at least once: what was sent and then not remembered is sent again, which the loader's claim makes
    harmless. `progress` is called after each page.
    """
    found = Findings()
    for prefix in prefixes:
        for page, marker in pages(s3, target.bucket, prefix, after):
            found.listed += len(page)
            found.announced_objects = _page(sqs, connection, target, ages, page, found)
            progress(found)
            if marker is not None and enough():
                found.unfinished = marker
                return found
    forget_loaded(connection)
    return found


def _page(
    sqs: Any, connection: psycopg.Connection, target: Target, ages: Ages, page: Sequence[Listed], found: Findings
) -> list[Listed]:
    due = [listed for listed in page if ages.oldest <= listed.arrived_at <= ages.newest]
    missing = not_in_ledger(connection, target.bucket, due)
    if not missing:
        return []
    found.never_loaded += len(missing)
    oldest = min(listed.arrived_at for listed in missing)
    found.oldest = oldest if found.oldest is None else min(found.oldest, oldest)
    readable = [listed for listed in missing if not listed.archived]
    found.archived += len(missing) - len(readable)
    announced = []
    for start in range(0, len(readable), _BATCH):
        # Remembered first and committed once SQS has taken it: a second sweep at the same time waits, and sends nothing.
        with connection.transaction():
            batch = _remember(connection, target.bucket, readable[start : start + _BATCH], ages.announced_before)
            if batch:
                _send(sqs, target, batch)
        announced += batch
    found.announced += len(announced)
    return announced


def not_in_ledger(connection: psycopg.Connection, bucket: str, page: Sequence[Listed]) -> list[Listed]:
    """Those of `page` that the ledger does not have, in one query."""
    if not page:
        return []
    known = connection.execute(
        "SELECT o.key, o.version_id FROM unnest(%s::text[], %s::text[]) AS listed(key, version_id) "
        "JOIN ingest.objects o ON o.bucket = %s AND o.key = listed.key AND o.version_id = listed.version_id",
        ([listed.key for listed in page], [listed.version_id for listed in page], bucket),
    ).fetchall()
    ledger = set(known)
    return [listed for listed in page if (listed.key, listed.version_id) not in ledger]


def _remember(
    connection: psycopg.Connection, bucket: str, batch: Sequence[Listed], announced_before: datetime
) -> list[Listed]:
    """Notes that the objects are announced now; returns those that had not been for a while."""
    rows = connection.execute(
        "INSERT INTO ingest.announced_again AS noted (bucket, key, version_id, arrived_at) "
        "SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) ORDER BY 2, 3 "
        "ON CONFLICT (bucket, key, version_id) DO UPDATE SET announced_at = clock_timestamp(), times = noted.times + 1 "
        "WHERE noted.announced_at < %s RETURNING key, version_id",
        (
            bucket,
            [listed.key for listed in batch],
            [listed.version_id for listed in batch],
            [listed.arrived_at for listed in batch],
            announced_before,
        ),
    ).fetchall()
    noted = set(rows)
    return [listed for listed in batch if (listed.key, listed.version_id) in noted]


def _send(sqs: Any, target: Target, batch: Sequence[Listed]) -> None:
    answer = sqs.send_message_batch(
        QueueUrl=target.queue_url,
        Entries=[
            {"Id": str(number), "MessageBody": event(target.bucket, listed)} for number, listed in enumerate(batch)
        ],
    )
    if failed := answer.get("Failed"):
        raise RuntimeError(f"SQS refused {len(failed)} messages: {failed[0].get('Code')}")


def event(bucket: str, listed: Listed) -> str:
    """What S3 says when it has stored an object, as far as the loader reads it.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
    """
    stored: dict[str, object] = {"key": quote_plus(listed.key, safe="/"), "size": listed.size_bytes}
    if listed.version_id:
        stored["versionId"] = listed.version_id
    record = {
        "eventVersion": "2.1",
        "eventSource": "fleetledger:sweeper",
        "eventTime": listed.arrived_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": stored},
    }
    return json.dumps({"Records": [record]})


def forget_loaded(connection: psycopg.Connection) -> None:
    """Forgets what is in the ledger by now, and what has not been announced for a month (S3 no longer has it)."""
    connection.execute(
        "DELETE FROM ingest.announced_again noted WHERE announced_at < clock_timestamp() - interval '30 days' "
        "OR EXISTS (SELECT FROM ingest.objects o WHERE (o.bucket, o.key, o.version_id) "
        "= (noted.bucket, noted.key, noted.version_id))"
    )
