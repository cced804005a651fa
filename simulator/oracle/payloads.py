"""What a payload says: the columns of each reading in it. Quick for plain readings; whatever else there is, is kept too."""

from typing import Annotated, Any, NamedTuple

import msgspec
import orjson
from msgspec import Meta

_LEAST, _MOST = -(2**63), 2**63 - 1
_Int64 = Annotated[int, Meta(ge=_LEAST, le=_MOST)]
VALUES = ("temperature", "humidity", "pressure", "battery")


class Reading(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One row, but for what it shares with the others of its message."""

    ts: _Int64 | None = None
    seq: _Int64 | None = None
    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None
    battery: float | None = None


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    readings: list[Reading]


class Row(NamedTuple):
    """A reading that has more in it than plain ones, or a payload that holds no readings (`raw`)."""

    ts: int | None = None
    seq: int | None = None
    temperature: float | None = None
    humidity: float | None = None
    pressure: float | None = None
    battery: float | None = None
    extra: str | None = None
    raw: bytes | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_reading = msgspec.json.Decoder(Reading).decode


def rows_of(payload: bytes, *, malformed: bool) -> list[Reading] | list[Row]:
    """The rows of a message, never none. A malformed payload is one row that holds its bytes."""
    if malformed:
        return [Row(raw=payload)]
    try:
        if payload.startswith(b'{"readings"'):
            return _decode_envelope(payload).readings or [Row(raw=payload)]
        return [_decode_reading(payload)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _uncommon(payload)


def _uncommon(payload: bytes) -> list[Row]:
    """Readings with members or values of other kinds, which go to `extra` as they are."""
    try:
        message = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return [Row(raw=payload)]
    if not isinstance(message, dict):
        return [Row(raw=payload)]
    readings = message.pop("readings", None)
    if readings is None:
        return [_row(message)]
    if not isinstance(readings, list) or not readings or not all(isinstance(each, dict) for each in readings):
        return [Row(raw=payload)]
    return [_row(message | each) for each in readings]


def _row(reading: dict[str, Any]) -> Row:
    ts, seq = (_taken(reading, name, _is_int64) for name in ("ts", "seq"))
    numbers = (_taken(reading, name, _is_number) for name in VALUES)
    temperature, humidity, pressure, battery = (None if each is None else float(each) for each in numbers)
    extra = orjson.dumps(reading).decode() if reading else None
    return Row(ts, seq, temperature, humidity, pressure, battery, extra)


def _taken(reading: dict[str, Any], name: str, fits: Any) -> Any:
    """A member that fits its column, taken out of the reading; null counts as absent."""
    value = reading.get(name)
    if value is None or fits(value):
        return reading.pop(name, None)
    return None


def _is_int64(value: object) -> bool:
    return type(value) is int and _LEAST <= value <= _MOST


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
