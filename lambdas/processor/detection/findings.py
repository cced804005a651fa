"""What was found in one object: one finding per device, metric and kind, however many readings show it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import psycopg

from lambdas.processor.detection.usual import CRITICAL, Found
from lambdas.processor.parse import Row
from lambdas.shared.anomalies import Finding, Kind, Severity, record
from lambdas.shared.contract import METRICS, Metric

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
OUT_OF_RANGE = sum(metric.out_of_range for metric in METRICS)
"""The bits of `quality` that say so, of any metric."""


class _Episode:
    """Readings of one device that show one kind of anomaly in one metric; times in epoch milliseconds."""

    __slots__ = ("expected", "first", "last", "readings", "score", "value")

    def __init__(self, at: int) -> None:
        self.first = self.last = at
        self.readings = 0
        self.value = self.expected = 0.0
        self.score = -1.0

    def add(self, first: int, last: int, readings: int, value: float, expected: float, score: float) -> None:
        self.first = min(self.first, first)
        self.last = max(self.last, last)
        self.readings += readings
        if score > self.score:
            self.value, self.expected, self.score = value, expected, score


class Findings:
    """Collects findings and records them as episodes of `anomalies`."""

    def __init__(self) -> None:
        self._episodes: dict[tuple[str, int, Kind], _Episode] = {}
        self._in_order: set[tuple[str, int]] = set()
        self._clean: set[str] = set()

    def clean(self, device_id: str) -> None:
        """Notes that a message of a device is within all ranges."""
        self._clean.add(device_id)

    def check_ranges(self, device_id: str, at: int, values: Sequence[float | None], quality: int) -> None:
        """Notes what is out of range in one reading, by the bits of its quality."""
        for position, (metric, value) in enumerate(zip(METRICS, values, strict=True)):
            if quality & metric.out_of_range and value is not None:
                expected, score = _beyond(metric, value)
                self._episode(device_id, position, "out_of_range", at).add(at, at, 1, value, expected, score)
            elif value is not None:
                self._in_order.add((device_id, position))

    def check_row(self, row: Row) -> None:
        """The same of a row."""
        self.check_ranges(row.device_id, (row.timestamp - _EPOCH) // _MILLISECOND, row[3:7], row.quality)

    def add(self, device_id: str, found: Sequence[Found]) -> None:
        """Notes what is unusual."""
        for each in found:
            episode = self._episode(device_id, each.metric, each.kind, each.started)
            episode.add(each.started, each.at, each.readings, each.value, each.expected, each.score)

    def keep_ranges(self, readings: Iterable[tuple[str, int, Sequence[float | None], int]]) -> None:
        """Of what is out of range, keeps that of these readings: device, time, values, quality. Not asked for when none is."""
        noted = [key for key in self._episodes if key[2] == "out_of_range"]
        if not noted:
            return
        for key in noted:
            del self._episodes[key]
        for device_id, at, values, quality in readings:
            self.check_ranges(device_id, at, values, quality)

    def _episode(self, device_id: str, metric: int, kind: Kind, at: int) -> _Episode:
        key = device_id, metric, kind
        episode = self._episodes.get(key)
        if episode is None:
            episode = self._episodes[key] = _Episode(at)
        return episode

    def findings(self) -> list[Finding]:
        """One for each device, metric and kind."""
        return [
            Finding(
                device_id=device_id,
                metric=METRICS[metric].name,
                kind=kind,
                severity=self._severity(device_id, metric, kind, episode),
                started_at=_EPOCH + episode.first * _MILLISECOND,
                last_at=_EPOCH + episode.last * _MILLISECOND,
                readings=episode.readings,
                value=episode.value,
                expected=episode.expected,
                score=episode.score,
            )
            for (device_id, metric, kind), episode in self._episodes.items()
        ]

    def _severity(self, device_id: str, metric: int, kind: Kind, episode: _Episode) -> Severity:
        if kind == "out_of_range":
            critical = device_id not in self._clean and (device_id, metric) not in self._in_order
        else:
            critical = episode.score >= CRITICAL
        return "critical" if critical else "warning"

    def record(self, cursor: psycopg.Cursor) -> None:
        """Records them, in the transaction that stores the readings; nothing when nothing was found."""
        if self._episodes:
            record(cursor, self.findings())


def _beyond(metric: Metric, value: float) -> tuple[float, float]:
    """The bound that was passed, and by how many times the width of the range."""
    bound = metric.high if value > metric.high else metric.low
    return bound, abs(value - bound) / (metric.high - metric.low)
