"""Raw objects of which every reading is known, and the one check after every fault: each is there, and once."""

import gzip
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from tests.stamping import STAMP

_START_MS = int(time.time() - 40 * 3600) * 1000
_STEP_MS = 13_000
_PER_MESSAGE = 25
_BROKEN = (
    b"not json",
    b'{"device_id": "device-00001", "readings": [], "stamp": "%s"}' % STAMP.encode(),
    b'{"seq": 1, "device_id": "device-00001", "stamp": "%s"}' % STAMP.encode(),
)

Row = tuple[str, datetime, int, float | None, float, float, float, Any, int]


@dataclass(frozen=True)
class Span:
    """The readings of one device with these sequence numbers."""

    device: str
    seqs: range


@dataclass(frozen=True)
class RawObject:
    """An object of the bucket."""

    key: str
    body: bytes
    rows: Sequence[Row]
    """The rows that its readings are, some of which may be in other objects, or in this one, too."""
    broken_lines: frozenset[int]

    @property
    def readings(self) -> int:
        """What the ledger must say that there was."""
        return len(self.rows) + len(self.broken_lines)


def raw_object(name: str, *spans: Span, broken: int = 3) -> RawObject:
    """An object with the readings of the spans in a shuffled order, and broken lines among them."""
    rng = random.Random(name)  # noqa: S311 - the same order in each run
    messages = [
        (span.device, span.seqs[start : start + _PER_MESSAGE])
        for span in spans
        for start in range(0, len(span.seqs), _PER_MESSAGE)
    ]
    lines = [_message(device, seqs) for device, seqs in messages] + [_BROKEN[n % len(_BROKEN)] for n in range(broken)]
    rng.shuffle(lines)
    return RawObject(
        # What S3 has to encode in its events.
        key=f"year=2026/month=11/day=21/hour=12/{name} +ü.gz",
        body=gzip.compress(b"\n".join(lines) + b"\n", 1),
        rows=[_row(device, seq) for device, seqs in messages for seq in seqs],
        broken_lines=frozenset(number for number, line in enumerate(lines, 1) if line in _BROKEN),
    )


def _message(device: str, seqs: range) -> bytes:
    readings = []
    for seq in seqs:
        _, _, _, temperature, humidity, pressure, battery, extra, _ = _row(device, seq)
        reading: dict[str, Any] = {
            "ts": _START_MS + seq * _STEP_MS,
            "seq": seq,
            "temperature": temperature,
            "humidity": humidity,
            "pressure": pressure,
            "battery": battery,
        }
        readings.append(reading | (extra or {}))
    line = {"readings": readings, "device_id": device, "received_at": _START_MS, "stamp": STAMP}
    return json.dumps(line).encode()


def _row(device: str, seq: int) -> Row:
    """What a reading must become; every 97th is one that the fast parser leaves to the slow one."""
    number = int(device[-5:])
    at = datetime.fromtimestamp(_START_MS / 1000, UTC) + timedelta(milliseconds=seq * _STEP_MS)
    # Of few enough digits that a real gives them back.
    values = (40 + seq % 500 / 10, 990 + seq % 300 / 10, round(100 - seq % 1000 / 10, 1))
    if seq % 97 == 0:
        return (device, at, seq, None, *values, {"temperature": "hot"}, 1)
    return (device, at, seq, round(number + seq / 1000, 3), *values, None, 0)


def assert_every_reading_once(dsn: str, objects: Iterable[RawObject]) -> None:
    """The table is exactly the readings of the objects, and the ledger agrees with it and with quarantine."""
    by_key = {known.key: known for known in objects}
    with psycopg.connect(dsn) as connection:
        # What is still rolling back is seen by nobody, but holds locks: this waits for it.
        connection.execute("SET LOCAL lock_timeout = '20s'")
        connection.execute("LOCK TABLE telemetry, ingest.objects, ingest.quarantine IN SHARE MODE")
        rows = connection.execute(
            "SELECT device_id, timestamp, seq, temperature, humidity, pressure, battery, extra, quality "
            "FROM telemetry ORDER BY device_id, timestamp, seq"
        ).fetchall()
        ledger = connection.execute(
            "SELECT key, status, readings, rows, duplicates, quarantined, "
            "(SELECT count(*) FROM telemetry WHERE telemetry.object_id = objects.object_id), "
            "ARRAY(SELECT line FROM ingest.quarantine WHERE quarantine.object_id = objects.object_id ORDER BY line) "
            "FROM ingest.objects"
        ).fetchall()
        quarantined = connection.execute("SELECT count(*) FROM ingest.quarantine").fetchone()
    expected = sorted({row[:3]: row for known in by_key.values() for row in known.rows}.values(), key=lambda r: r[:3])
    _assert_same_rows(rows, expected)
    assert sorted(key for key, *_ in ledger) == sorted(by_key), "one row of the ledger per object"
    for key, status, readings, stored, duplicates, refused, in_table, lines in ledger:
        assert status == "loaded", key
        assert readings == by_key[key].readings, key
        assert readings == stored + duplicates + refused, key
        assert stored == in_table, key
        assert refused == len(by_key[key].broken_lines), key
        assert frozenset(lines) == by_key[key].broken_lines, key
        assert len(lines) == refused, key
    assert sum(stored for _, _, _, stored, *_ in ledger) == len(rows)
    assert quarantined == (sum(len(known.broken_lines) for known in by_key.values()),)


def assert_nothing_stored(dsn: str, *, but: Iterable[RawObject] = ()) -> None:
    """Nothing of any other object is visible: not a row, not a claim, not a quarantined line."""
    assert_every_reading_once(dsn, but)


def _assert_same_rows(rows: Sequence[tuple[Any, ...]], expected: Sequence[Row]) -> None:
    """As `rows == expected`, but a difference of thousands of rows is told in a line."""
    if rows == expected:
        return
    found, wanted = {row[:3]: row for row in rows}, {row[:3]: row for row in expected}
    missing, surplus = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    differing = [key for key in wanted.keys() & found.keys() if wanted[key] != found[key]]
    raise AssertionError(
        f"{len(rows)} rows for {len(expected)} readings: {len(missing)} missing, {len(surplus)} unknown, "
        f"{len(rows) - len(found)} doubled, {len(differing)} with other values; "
        f"for example {next(iter(missing | surplus | set(differing)), None)}"
    )
