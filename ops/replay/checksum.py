"""What readings are compared by.

The rule. Two databases hold the same telemetry when each day has the same readings, whatever the order in which they were
stored. A reading is `device_id, timestamp, seq, temperature, humidity, pressure, battery, extra, quality`. Two columns do
not count, because they depend on which of several deliveries of a reading was loaded first, and that is chance:
- `object_id`: the ledger's numbers, different in each database, and of two objects with the same reading either may own it;
- `received_at`: a QoS 1 redelivery is the same reading with a later stamp.
A redelivery is equal in everything else, so whichever copy is kept, the checksum is the same. A device that sends two
*different* readings under one `(device_id, timestamp, seq)` breaks the contract: the one loaded first is kept, and a rebuild
may keep the other. Such a day has the same keys and other values, which is reported as just that.

The checksum of a set is the sum of 64 bits of each reading's SHA-256: independent of order, and, keys being unique, no two
readings can cancel each other. It is computed by the server from text forms that do not depend on its version or settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import LiteralString

import psycopg

_KEY: LiteralString = "(extract(epoch FROM timestamp) * 1000000)::bigint, device_id, seq"
_VALUES: LiteralString = "temperature, humidity, pressure, battery, extra, quality"


def _sum(columns: LiteralString) -> LiteralString:
    row: LiteralString = "sha256(convert_to(ROW(" + columns + ")::text, 'UTF8'))"
    return "coalesce(sum(('x' || encode(substr(" + row + ", 1, 8), 'hex'))::bit(64)::bigint), 0)"


CHECKSUM: LiteralString = _sum(_KEY + ", " + _VALUES)
"""An SQL aggregate over rows of telemetry."""
_KEY_CHECKSUM: LiteralString = _sum(_KEY)


@dataclass(frozen=True)
class DaySum:
    """One chunk of the hypertable, which is a day (UTC)."""

    rows: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.checksum % 2**64:016x}"


def days_with_chunks(connection: psycopg.Connection) -> list[date]:
    """The days for which telemetry has a chunk."""
    chunks = connection.execute(
        "SELECT range_start, range_end FROM timescaledb_information.chunks WHERE hypertable_name = 'telemetry'"
    ).fetchall()
    days: set[date] = set()
    for start, end in chunks:
        day = start.astimezone(UTC).date()
        while datetime(day.year, day.month, day.day, tzinfo=UTC) < end:
            days.add(day)
            day += timedelta(days=1)
    return sorted(days)


def day_sums(
    connection: psycopg.Connection,
    days: Sequence[date],
    *,
    without_objects: Sequence[int] = (),
    keys_only: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> dict[date, DaySum]:
    """The checksum of each day that has rows, leaving out those of some objects (by the ledger's id)."""
    statement: LiteralString = (
        "SELECT count(*), " + (_KEY_CHECKSUM if keys_only else CHECKSUM) + " FROM telemetry "  # noqa: S608 - constants
        "WHERE timestamp >= %s AND timestamp < %s AND NOT object_id = ANY(%s)"
    )
    sums = {}
    for day in days:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        row = connection.execute(statement, (start, start + timedelta(days=1), list(without_objects))).fetchone()
        assert row is not None  # noqa: S101 - for the type checker: an aggregate has one row
        if row[0]:
            sums[day] = DaySum(row[0], int(row[1]))
        progress()
    return sums


@dataclass(frozen=True)
class Difference:
    """A day on which two databases hold other readings."""

    day: date
    ours: DaySum | None
    theirs: DaySum | None
    same_keys: bool
    """The readings are the same by device, timestamp and seq; only values differ."""


def differing(ours: dict[date, DaySum], theirs: dict[date, DaySum]) -> list[date]:
    """The days on which they differ."""
    return sorted(day for day in ours.keys() | theirs.keys() if ours.get(day) != theirs.get(day))
