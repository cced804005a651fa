"""The loader's memory of what is usual for each device: in this process, and in `ingest.detector` for the next one.

What an object teaches counts only after its transaction has committed, so that one that is rolled back and loaded again is
judged by, and teaches, the same.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg

from lambdas.processor.clean import Encoded, Reading
from lambdas.processor.detection.findings import Findings
from lambdas.processor.detection.usual import Device, Found, Usual, observe
from lambdas.processor.parse import Row
from lambdas.shared.contract import METRICS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_VERSION = b"\x01"
_MOST_DEVICES = 20_000
"""About 1.4 KB each."""
_STORE_EVERY_SECONDS = 60.0
_MOST_DEFERRED_READINGS = 25_000
FLOORS = tuple((metric.high - metric.low) / 1000 for metric in METRICS)
"""Least scales: what is within half a per cent of a metric's plausible range is no anomaly, however still the device is."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Device).decode

_STORE = """
    INSERT INTO ingest.detector AS known (device_id, state, seen)
    SELECT * FROM unnest(%b::text[], %b::bytea[], %b::timestamptz[])
    ON CONFLICT (device_id) DO UPDATE SET state = excluded.state, seen = excluded.seen, updated_at = clock_timestamp()
    WHERE excluded.seen > known.seen
"""


class Detector:
    """What is usual for the devices that this process has heard of lately."""

    def __init__(self, *, most: int = _MOST_DEVICES, clock: Callable[[], float] = time.monotonic) -> None:
        self._devices: OrderedDict[str, tuple[Device, float]] = OrderedDict()
        self._most = most
        self._clock = clock
        self._pending: Detection | None = None

    def __len__(self) -> int:
        return len(self._devices)

    def begin(self, findings: Findings) -> "Detection":
        """For one pass over an object; what a pass before it learnt and did not commit is forgotten."""
        self._pending = Detection(self._devices, findings, self._clock())
        return self._pending

    def commit(self) -> None:
        """Keeps what the last pass learnt. To be called after its transaction has committed."""
        if self._pending is None:
            return
        for device_id, entry in self._pending.learnt():
            self._devices[device_id] = entry
            self._devices.move_to_end(device_id)
        while len(self._devices) > self._most:
            self._devices.popitem(last=False)
        self._pending = None


class Detection:
    """Judges the readings of one object; a fault of its own costs a finding and never a reading."""

    def __init__(self, known: OrderedDict[str, tuple[Device, float]], findings: Findings, now: float) -> None:
        self._known = known
        self._findings = findings
        self._now = now
        self._working: dict[str, Device] = {}
        self._noted: list[Encoded | Sequence[Row]] = []
        self._deferred: list[tuple[str, Sequence[int], Sequence[Sequence[float | None]]]] = []
        self._deferred_readings = 0
        self._unknown: set[str] = set()
        self._stored: set[str] = set()
        self.checked = 0
        """Readings that were looked at."""
        self.faults = 0
        self.fault: BaseException | None = None
        """The first one."""

    @property
    def waits(self) -> bool:
        """Whether so much waits for what is usual to be read that it should be read now."""
        return self._deferred_readings >= _MOST_DEFERRED_READINGS

    def note(self, message: Encoded) -> None:
        """Takes note of a message of the fast path, to be judged with the next ones."""
        self._noted.append(message)

    def note_rows(self, rows: Sequence[Row]) -> None:
        """Takes note of the rows of one line, which are of one device."""
        self._noted.append(rows)

    def judge(self) -> None:
        """Judges what was noted, in that order."""
        noted, self._noted = self._noted, []
        for each in noted:
            if isinstance(each, Encoded):
                self._clean(each.device_id, each.times, each.readings)
            else:
                self._rows(each)

    def _clean(self, device_id: str, times: Sequence[int], readings: Sequence[Reading]) -> None:
        try:
            columns = (
                [reading.temperature for reading in readings],
                [reading.humidity for reading in readings],
                [reading.pressure for reading in readings],
                [reading.battery for reading in readings],
            )
            device = self._working.get(device_id) or self._begin(device_id)
            if device is None:
                self._defer(device_id, times, columns)
            else:
                found = observe(device, times, columns, FLOORS)
                if found:
                    self._findings.add(device_id, found)
                self.checked += len(times)
        except Exception as error:  # whatever is wrong here, the readings are stored
            self._fault(device_id, error)

    def _rows(self, rows: Sequence[Row]) -> None:
        """Values out of range are no part of what is usual."""
        device_id = rows[0].device_id
        try:
            times = [(row.timestamp - _EPOCH) // _MILLISECOND for row in rows]
            columns = [
                [None if row.quality & metric.out_of_range else value for row, value in zip(rows, column, strict=True)]
                for metric, column in zip(METRICS, zip(*[row[3:7] for row in rows], strict=True), strict=True)
            ]
            device = self._working.get(device_id) or self._begin(device_id)
            if device is None:
                self._defer(device_id, times, columns)
            else:
                self._judge(device_id, device, times, columns)
        except Exception as error:
            self._fault(device_id, error)

    def _begin(self, device_id: str) -> Device | None:
        """A copy of what is known of a device, to work with; None when it must be read first."""
        entry = self._known.get(device_id)
        if entry is None:
            return None
        device = self._working[device_id] = _copy(entry[0])
        return device

    def _defer(self, device_id: str, times: Sequence[int], columns: Sequence[Sequence[float | None]]) -> None:
        self._deferred.append((device_id, times, columns))
        self._deferred_readings += len(times)
        self._unknown.add(device_id)

    def _judge(
        self, device_id: str, device: Device, times: Sequence[int], columns: Sequence[Sequence[float | None]]
    ) -> None:
        found: Sequence[Found] = observe(device, times, columns, FLOORS)
        if found:
            self._findings.add(device_id, found)
        self.checked += len(times)

    def _fault(self, device_id: str, error: Exception) -> None:
        self.faults += 1
        self.fault = self.fault or error
        # Whatever led to it is not to lead to it again.
        self._working[device_id] = _new()

    def read(self, cursor: psycopg.Cursor) -> None:
        """Reads what is usual for the devices that this process did not know, and judges what waits for it."""
        if not self._deferred:
            return
        cursor.execute(
            "SELECT device_id, state FROM ingest.detector WHERE device_id = ANY (%s)",
            (sorted(self._unknown),),
            binary=True,
        )
        stored: dict[str, bytes] = dict(cursor.fetchall())
        for device_id in self._unknown:
            self._working[device_id] = _decoded(stored.get(device_id))
        deferred, self._deferred, self._deferred_readings, self._unknown = self._deferred, [], 0, set()
        for device_id, times, columns in deferred:
            try:
                self._judge(device_id, self._working[device_id], times, columns)
            except Exception as error:
                self._fault(device_id, error)

    def store(self, cursor: psycopg.Cursor) -> None:
        """Writes what is usual for the devices of which the database has nothing, or nothing of the last minute."""
        due = sorted(device_id for device_id in self._working if self._is_due(device_id))
        if due:
            devices = [self._working[device_id] for device_id in due]
            states = [_VERSION + _encode(device) for device in devices]
            cursor.execute(_STORE, (due, states, [_EPOCH + device.seen * _MILLISECOND for device in devices]))
        self._stored = set(due)

    def _is_due(self, device_id: str) -> bool:
        entry = self._known.get(device_id)
        return entry is None or self._now - entry[1] >= _STORE_EVERY_SECONDS

    def learnt(self) -> list[tuple[str, tuple[Device, float]]]:
        """What is usual for each device of the object now, and when that was last stored."""
        return [
            (device_id, (device, self._now if device_id in self._stored else self._known[device_id][1]))
            for device_id, device in self._working.items()
        ]


def _new() -> Device:
    return Device([Usual() for _ in METRICS])


def _decoded(state: bytes | None) -> Device:
    """A stored state; one of another version, or that cannot be read, is learnt anew."""
    if state is None or not state.startswith(_VERSION):
        return _new()
    try:
        device = _decode(state[len(_VERSION) :])
    except msgspec.MsgspecError:
        return _new()
    return device if len(device.metrics) == len(METRICS) else _new()


def _copy(device: Device) -> Device:
    # What copy.copy() calls, without its detour: this is done for each device of each object.
    metrics = [usual.__copy__() for usual in device.metrics]  # type: ignore[attr-defined]
    for usual in metrics:
        if usual.run is not None:
            usual.run = usual.run.__copy__()
    return Device(metrics, device.seen, device.gap)
