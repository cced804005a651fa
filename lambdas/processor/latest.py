"""Keeps `device_latest`: the reading of each device with the greatest (timestamp, seq), noted while an object is parsed.

One statement per object, at its end, in the transaction that stores the readings. Only what is newer replaces a row, so
objects may come in any order and more than once. Rows are written in the order of the devices' names (code points, which is
collation "C"), so that parallel loaders wait for each other and cannot deadlock. As each holds its rows only for the moment
until its commit, they wait no longer than that.
"""

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from struct import Struct

import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from lambdas.processor.clean import Encoded, Reading
from lambdas.processor.parse import Row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000
_MICROSECOND = timedelta(microseconds=1)

_UPSERT = """
    INSERT INTO device_latest AS latest (
        device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at, object_id, first_seen
    )
    SELECT device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at, %b,
           coalesce(received_at, timestamp)
    FROM unnest(
        %b::text[], %b::timestamptz[], %b::int8[], %b::float4[], %b::float4[], %b::float4[], %b::float4[], %b::int2[],
        %b::timestamptz[]
    ) AS incoming(device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at)
    ORDER BY device_id COLLATE "C"
    ON CONFLICT (device_id) DO UPDATE SET
        timestamp = excluded.timestamp, seq = excluded.seq, temperature = excluded.temperature,
        humidity = excluded.humidity, pressure = excluded.pressure, battery = excluded.battery,
        quality = excluded.quality, received_at = excluded.received_at, object_id = excluded.object_id,
        updated_at = excluded.updated_at
    WHERE (excluded.timestamp, excluded.seq) > (latest.timestamp, latest.seq)
"""
_LOCK = 'SELECT FROM device_latest WHERE device_id = ANY (%s) ORDER BY device_id COLLATE "C" FOR UPDATE'

_Noted = tuple[int, int, int | None, Reading | Row]
"""Timestamp, seq, received_at and the reading; times in microseconds since the Unix epoch. Plain: it is made per message."""


class Latest:
    """The newest reading of each device of one object."""

    def __init__(self) -> None:
        self._newest: dict[str, _Noted] = {}
        self._unsure: set[str] = set()
        self._columns: Sequence[_Array] = ()

    def clean(self, message: Encoded) -> None:
        """Notes a message of the fast path."""
        device_id, timestamp, reading = message.device_id, message.last * 1000, message.newest
        if reading is None:
            self._unsure.add(device_id)
            return
        known = self._newest.get(device_id)
        if known is None or timestamp > known[0]:
            self._newest[device_id] = (timestamp, reading.seq, message.received_at * 1000, reading)
        elif timestamp == known[0]:
            self._compare(device_id, known, (timestamp, reading.seq, message.received_at * 1000, reading))

    def row(self, row: Row) -> None:
        """Notes a row of the other path."""
        received_at = None if row.received_at is None else _microseconds(row.received_at)
        noted = (_microseconds(row.timestamp), row.seq, received_at, row)
        known = self._newest.get(row.device_id)
        if known is None:
            self._newest[row.device_id] = noted
        else:
            self._compare(row.device_id, known, noted)

    def _compare(self, device_id: str, known: _Noted, noted: _Noted) -> None:
        if noted[:2] > known[:2]:
            self._newest[device_id] = noted
        elif noted[:2] == known[:2]:
            # Of two deliveries of one reading the loader stores the one that was received first.
            first, other = known[2], noted[2]
            if first == other:
                if _values(known[3]) != _values(noted[3]):
                    self._unsure.add(device_id)
            elif first is None or (other is not None and other < first):
                self._newest[device_id] = noted

    @property
    def devices(self) -> set[str]:
        """Every device with a reading."""
        return self._newest.keys() | self._unsure

    def encode(self) -> None:
        """Prepares what `keep` sends. To be called while the server is still busy with the last rows."""
        if self._newest:
            self._columns = _columns(self._newest)

    def keep(self, cursor: psycopg.Cursor, object_id: int) -> None:
        """Writes what is newer than what `device_latest` has. To be called after the object's readings are stored."""
        if self._unsure:
            # All at once and in order, since there are two statements that write.
            cursor.execute(_LOCK, (sorted(self.devices),))
        if self._columns:
            cursor.execute(_UPSERT, (object_id, *self._columns))
        # Of two different readings under one key, which breaks the contract, one was stored: only the table knows which.
        if self._unsure:
            refresh_latest(cursor, self._unsure)


def refresh_latest(cursor: psycopg.Cursor, devices: Set[str]) -> None:
    """Makes `device_latest` of these devices what `telemetry` says, a descent of its index each.

    To be called in the transaction that removed or replaced readings of theirs, after it did. A device without a reading
    loses its row. Safe beside loaders that store newer ones.
    """
    if devices:
        cursor.execute("SELECT ingest.refresh_latest(%s)", (sorted(devices),))


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


class _Array(bytes):
    """An array in PostgreSQL's binary format: psycopg's own way, element by element, takes longer than the statement."""

    oid: int


class _Texts(_Array):
    oid = psycopg.postgres.types["text"].array_oid


class _Times(_Array):
    oid = psycopg.postgres.types["timestamptz"].array_oid


class _Bigints(_Array):
    oid = psycopg.postgres.types["int8"].array_oid


class _Reals(_Array):
    oid = psycopg.postgres.types["float4"].array_oid


class _Smallints(_Array):
    oid = psycopg.postgres.types["int2"].array_oid


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: _Array) -> Buffer | None:
        return bytes(obj)


for _kind in (_Texts, _Times, _Bigints, _Reals, _Smallints):
    psycopg.adapters.register_dumper(_kind, type(f"{_kind.__name__}Dumper", (_ArrayDumper,), {"oid": _kind.oid}))

_header = Struct(">iiIii").pack
_length = Struct(">i").pack
_bigint = Struct(">iq").pack
_real = Struct(">if").pack
_smallint = Struct(">ih").pack
_NULL = b"\xff\xff\xff\xff"


def _values(reading: Reading | Row) -> tuple[float | int | None, ...]:
    """What else `device_latest` has of a reading: the metrics, and the quality, which is 0 on the fast path."""
    quality = reading.quality if isinstance(reading, Row) else 0
    return reading.temperature, reading.humidity, reading.pressure, reading.battery, quality


def _columns(newest: dict[str, _Noted]) -> Sequence[_Array]:
    """The columns of the upsert, in the order of the devices' names."""
    names = sorted(newest)
    encoded = [name.encode() for name in names]
    timestamps, seqs, received, readings = zip(*[newest[name] for name in names], strict=True)
    *metrics, qualities = zip(*map(_values, readings), strict=True)
    return (
        _array(_Texts, "text", [_length(len(name)) + name for name in encoded]),
        _times(timestamps),
        _array(_Bigints, "int8", [_bigint(8, seq) for seq in seqs]),
        *(
            _array(_Reals, "float4", [_NULL if value is None else _real(4, value) for value in column])
            for column in metrics
        ),
        _array(_Smallints, "int2", [_smallint(2, quality) for quality in qualities]),
        _times(received),
    )


def _times(column: Sequence[int | None]) -> _Array:
    items = [_NULL if at is None else _bigint(8, at - _POSTGRES_EPOCH_MICROSECONDS) for at in column]
    return _array(_Times, "timestamptz", items)


def _array(kind: type[_Array], element: str, items: Sequence[bytes]) -> _Array:
    """One dimension, from 1, perhaps with NULLs: array_send() in PostgreSQL's src/backend/utils/adt/arrayfuncs.c."""
    return kind(_header(1, 1, psycopg.postgres.types[element].oid, len(items), 1) + b"".join(items))
