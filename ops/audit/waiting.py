"""What is on its way: readings that Firehose holds, raw objects that the ledger does not have yet, and queues."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from infra.settings import load
from lambdas.shared.listing import hour_prefixes, pages
from ops.audit.lines import Line, count_readings, lines_of, text_of
from ops.aws import outputs, session_for
from ops.paths import LOCAL

GRACE = timedelta(minutes=5)
"""Beyond Firehose's buffering, for delivering and loading."""


@dataclass(frozen=True)
class Sources:
    """Where to look."""

    s3: Any
    bucket: str
    spool: Path | None
    """The local Firehose's own; None in AWS, where nobody can look into its buffer."""
    rule_errors: Callable[[], int]
    """Messages that wait to be moved to quarantine."""
    buffering: timedelta
    """For how long Firehose may hold a record."""

    @property
    def rule_refuses(self) -> bool:
        """Whether a payload that is no JSON may end at the rule (ParseError); the emulator's rule hands it on, bare."""
        return self.spool is None

    def young_since(self, now: datetime, rule_errors: int) -> datetime | None:
        """Readings acknowledged after that may be where nobody can look; None: there is no such place."""
        if self.spool is not None and not rule_errors:
            return None
        return now - self.buffering - GRACE


def sources(environment: str) -> Sources:
    """The deployed pipeline's. Raises UserError when it cannot be reached."""
    aws = session_for(environment)
    settings = load(environment)
    found = outputs(aws, settings.names.stack("ingest"))
    sqs = aws.client("sqs")
    return Sources(
        s3=aws.client("s3"),
        bucket=found["BucketName"],
        spool=LOCAL / "firehose" / "spool" if environment == "local" else None,
        rule_errors=lambda: queue_depth(sqs, found["RuleErrorQueueUrl"]),
        buffering=timedelta(seconds=settings.buffer_interval_seconds),
    )


def waiting_lines(
    at: Sources, database: psycopg.Connection, since: datetime, until: datetime, progress: Callable[[int], None]
) -> Iterator[Line]:
    """The lines that are on their way, taken in from `since` until `until`; `progress` hears of objects that were read.

    In the order in which data flows, so that what moves on meanwhile is seen in one place at least: look into the
    database after that.
    """
    for text in _spooled(at.spool):
        yield from lines_of(text)
    for number, key in enumerate(unloaded(at, database, since, until), 1):
        body: bytes = at.s3.get_object(Bucket=at.bucket, Key=key)["Body"].read()
        progress(number)
        yield from lines_of(text_of(body, gzipped=key.endswith(".gz")))


def unloaded(at: Sources, database: psycopg.Connection, since: datetime, until: datetime) -> Iterator[str]:
    """Keys of the objects of these hours that the ledger does not have."""
    for prefix in hour_prefixes(since, until + timedelta(hours=1)):
        for page, _ in pages(at.s3, at.bucket, prefix):
            keys = list(dict.fromkeys(listed.key for listed in page if listed.latest and not listed.archived))
            if keys:
                rows = database.execute(
                    "SELECT key FROM ingest.objects WHERE bucket = %s AND key = ANY(%s)", (at.bucket, keys)
                )
                known = {row[0] for row in rows}
                yield from (key for key in keys if key not in known)


def queue_depth(sqs: Any, url: str) -> int:
    """Messages in a queue, hidden ones too."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes[name]) for name in names)


def spooled_readings(folder: Path) -> int:
    """Readings that the local Firehose process has taken in and not delivered."""
    return sum(count_readings(text) for text in _spooled(folder))


def _spooled(folder: Path | None) -> Iterator[bytes]:
    if folder is None:
        return
    for file in [*folder.glob("*/*.open"), *folder.glob("*/*.batch")]:
        try:
            yield file.read_bytes()
        except FileNotFoundError:  # renamed or delivered in the meantime
            continue
