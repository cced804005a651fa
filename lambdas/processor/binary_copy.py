"""PostgreSQL's binary COPY format for the columns of `telemetry`.

https://www.postgresql.org/docs/current/sql-copy.html ("Binary Format"). A row is its number of columns and, for each
column, a length (-1: NULL) and the value in network byte order.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any

from lambdas.processor.parse import Row

COLUMNS = (
    "device_id", "timestamp", "seq", "temperature", "humidity", "pressure", "battery",
    "extra", "quality", "received_at", "object_id",
)  # fmt: skip
HEADER = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8
TRAILER = b"\xff\xff"

_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH_MILLISECONDS = 946_684_800_000
_MICROSECOND = timedelta(microseconds=1)
_NULL = b"\xff\xff\xff\xff"
_JSONB_VERSION = b"\x01"

_head = Struct(">hi").pack
_length = Struct(">i").pack
_bigint = Struct(">iq").pack
_smallint = Struct(">ih").pack
_real = Struct(">if").pack
# timestamp, seq and the four metrics, each but the first with its length: one call for most of a row.
_measured = Struct(">qiqifififif").pack


class Encoder:
    """Encodes rows that come from one object."""

    def __init__(self, object_id: int) -> None:
        self._object_id = _bigint(8, object_id)
        self._clean_tail = _NULL + _smallint(2, 0)  # no extra, quality 0

    def clean_rows(self, device_id: str, received_at: int, readings: Sequence[Any]) -> bytes:
        """Rows of one device with quality 0 and no extra; `received_at` in epoch milliseconds."""
        name = device_id.encode()
        before = _head(len(COLUMNS), len(name)) + name + b"\x00\x00\x00\x08"
        after = self._clean_tail + _bigint(8, (received_at - _POSTGRES_EPOCH_MILLISECONDS) * 1000) + self._object_id
        middles = []
        for reading in readings:
            microseconds = (reading.ts - _POSTGRES_EPOCH_MILLISECONDS) * 1000
            temperature, humidity = reading.temperature, reading.humidity
            pressure, battery = reading.pressure, reading.battery
            if temperature is None or humidity is None or pressure is None or battery is None:
                values = b"".join(
                    [
                        _NULL if value is None else _real(4, value)
                        for value in (temperature, humidity, pressure, battery)
                    ]
                )
                middles.append(_bigint(8, microseconds)[4:] + _bigint(8, reading.seq) + values)
            else:
                middles.append(
                    _measured(microseconds, 8, reading.seq, 4, temperature, 4, humidity, 4, pressure, 4, battery)
                )
        return before + (after + before).join(middles) + after

    def row(self, row: Row) -> bytes:
        """Any row."""
        name = row.device_id.encode()
        extra = row.extra.encode() if row.extra is not None else None
        metrics = (row.temperature, row.humidity, row.pressure, row.battery)
        return b"".join(
            [
                _head(len(COLUMNS), len(name)),
                name,
                _timestamp(row.timestamp),
                _bigint(8, row.seq),
                *[_NULL if value is None else _real(4, value) for value in metrics],
                _NULL if extra is None else _length(len(extra) + 1) + _JSONB_VERSION + extra,
                _smallint(2, row.quality),
                _NULL if row.received_at is None else _timestamp(row.received_at),
                self._object_id,
            ]
        )


def _timestamp(at: datetime) -> bytes:
    return _bigint(8, (at - _POSTGRES_EPOCH) // _MICROSECOND)
