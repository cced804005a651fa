"""Which devices and hours a transaction touches, so that the rollups of just these are computed anew.

Whoever stores or removes rows of `telemetry` marks them in `ingest.touched`, in the same transaction; lambdas/maintenance
and, on the Community edition, a job of the database work the marks off.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import psycopg

_HOUR = 3_600_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Touched:
    """Devices by the hour of their readings, and from when to when within the hour; times in epoch milliseconds."""

    def __init__(self) -> None:
        self._hours: dict[int, _Hour] = {}
        self._last = _NEVER

    def add(self, device_id: str, first: int, last: int) -> None:
        """Readings of a device from `first` to `last`, which lie within one hour."""
        hour = self._last
        if not hour.begin <= first < hour.begin + _HOUR:
            hour = self._of(first)
        hour.first = min(hour.first, first)
        hour.last = max(hour.last, last)
        hour.devices.add(device_id)

    def add_all(self, device_id: str, times: Sequence[int], first: int, last: int) -> None:
        """Readings of a device at these times, the smallest and the greatest of which may be hours apart."""
        if first // _HOUR == last // _HOUR:
            self.add(device_id, first, last)
        else:
            for at in times:
                self.add(device_id, at, at)

    def add_rows(self, rows: Iterable[tuple[str, datetime]]) -> None:
        """Device and timestamp of each."""
        for device_id, timestamp in rows:
            at = (timestamp - _EPOCH) // _MILLISECOND
            self.add(device_id, at, at)

    def _of(self, at: int) -> "_Hour":
        begin = at - at % _HOUR
        self._last = self._hours.setdefault(begin, _Hour(begin, at, at))
        return self._last

    def mark(self, cursor: psycopg.Cursor) -> None:
        """Writes the marks, one per hour."""
        if not self._hours:
            return
        cursor.executemany(
            "INSERT INTO ingest.touched (first, last, device_ids) VALUES (%s, %s, %s)",
            [
                (_EPOCH + hour.first * _MILLISECOND, _EPOCH + hour.last * _MILLISECOND, sorted(hour.devices))
                for hour in self._hours.values()
            ],
        )


class _Hour:
    __slots__ = ("begin", "devices", "first", "last")

    def __init__(self, begin: int, first: int, last: int) -> None:
        self.begin, self.first, self.last = begin, first, last
        self.devices: set[str] = set()


_NEVER = _Hour(-(2**62), 0, 0)
