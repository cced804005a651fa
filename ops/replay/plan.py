"""What a replay would do: which objects of the span, how many the ledger has, and how long the rest will take."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError, line_blocks
from lambdas.shared.listing import Listed, pages
from ops.replay.source import Source, UnavailableError, opened

_BATCH = 1000
_ROWS_PER_SECOND = 60_000.0
"""Of one worker, until the ledger knows better."""
_SECONDS_PER_OBJECT = 0.02


@dataclass(frozen=True)
class LedgerEntry:
    """What the ledger says of an object."""

    object_id: int
    status: str
    readings: int
    duplicates: int


Ledger = dict[tuple[str, str], LedgerEntry]
"""By key and version id."""


@dataclass(frozen=True)
class Estimate:
    """Of the objects to load."""

    readings: int
    seconds: float
    """With one worker."""
    basis: str


@dataclass(frozen=True)
class Plan:
    """The objects of a span, and those of them that are to be loaded."""

    listed: Sequence[Listed]
    ledger: Ledger
    chosen: Sequence[Listed]

    @property
    def rejected(self) -> int:
        """How many the ledger has as rejected."""
        return sum(entry.status == "rejected" for entry in self.ledger.values())

    @property
    def archived(self) -> int:
        """How many of those to load must be restored first."""
        return sum(listed.archived for listed in self.chosen)


def list_objects(
    s3: Any,
    bucket: str,
    prefixes: Iterable[str],
    *,
    all_versions: bool,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Listed]:
    """The objects under the prefixes in the order in which they arrived; of each key the latest version, or all."""
    found: list[Listed] = []
    for prefix in prefixes:
        for page, _ in pages(s3, bucket, prefix):
            found += [listed for listed in page if listed.latest or all_versions]
            progress(len(found))
    found.sort(key=lambda listed: (listed.arrived_at, listed.key))
    return found


def read_ledger(connection: psycopg.Connection, bucket: str, objects: Sequence[Listed]) -> Ledger:
    """What the ledger says of the objects that it has: a query per thousand."""
    ledger: Ledger = {}
    for start in range(0, len(objects), _BATCH):
        batch = objects[start : start + _BATCH]
        rows = connection.execute(
            "SELECT o.key, o.version_id, o.object_id, o.status, o.readings, o.duplicates "
            "FROM unnest(%s::text[], %s::text[]) AS listed(key, version_id) "
            "JOIN ingest.objects o ON o.bucket = %s AND o.key = listed.key AND o.version_id = listed.version_id",
            ([listed.key for listed in batch], [listed.version_id for listed in batch], bucket),
        )
        ledger |= {(key, version_id): LedgerEntry(*entry) for key, version_id, *entry in rows}
    return ledger


def estimate(connection: psycopg.Connection, s3: Any, source: Source, plan: Plan) -> Estimate:
    """How many readings the chosen objects hold, and how long one worker takes for them."""
    known = [plan.ledger.get((listed.key, listed.version_id)) for listed in plan.chosen]
    readings = float(sum(entry.readings for entry in known if entry))
    unknown_bytes = sum(listed.size_bytes for listed, entry in zip(plan.chosen, known, strict=True) if entry is None)
    basis = "counted in the ledger"
    per_byte, rate = _experience(connection)
    if unknown_bytes:
        basis = "by the readings per byte of the newest objects in the ledger"
        if per_byte is None:
            per_byte, basis = _sampled(s3, source, plan.chosen), "by the lines of one object"
        readings += unknown_bytes * per_byte
    seconds = readings / rate + len(plan.chosen) * _SECONDS_PER_OBJECT
    return Estimate(round(readings), seconds, basis)


def _experience(connection: psycopg.Connection) -> tuple[float | None, float]:
    """Readings per byte, and readings per second of one loader, of the newest thousand objects in the ledger."""
    row = connection.execute(
        "SELECT sum(readings) / nullif(sum(size_bytes), 0)::float8, "
        "sum(readings) FILTER (WHERE readings > 1000) "
        "/ nullif(sum(milliseconds) FILTER (WHERE readings > 1000), 0)::float8 * 1000 "
        "FROM (SELECT * FROM ingest.objects WHERE status = 'loaded' AND size_bytes > 0 "
        "ORDER BY object_id DESC LIMIT 1000) newest"
    ).fetchone()
    per_byte, rate = row if row else (None, None)
    return per_byte or None, rate or _ROWS_PER_SECOND


def _sampled(s3: Any, source: Source, chosen: Sequence[Listed]) -> float:
    """Readings per byte of the largest object; an envelope counts its `ts` members."""
    largest = max(
        (listed for listed in chosen if not listed.archived), key=lambda listed: listed.size_bytes, default=None
    )
    if largest is None or not largest.size_bytes:
        return 0.0
    version: ObjectVersion = source.version(largest)
    readings = 0
    try:
        with opened(s3, version) as body:
            for block in line_blocks(body):
                readings += sum(max(1, line.count(b'"ts"')) for line in block if isinstance(line, bytes))
    except (UnavailableError, UnreadableObjectError):
        return 0.0
    return readings / largest.size_bytes
