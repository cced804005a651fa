"""From a line of a raw object to rows: pure, total (no input raises), the only place that knows the JSON's shape."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from lambdas.processor.limits import Limits
from lambdas.processor.raw_object import LongLine
from lambdas.shared.contract import MAX_LINE_BYTES, METRICS, NO_SEQ
from lambdas.shared.quarantine import MAX_RAW_BYTES, Quarantined
from lambdas.shared.stamp import STAMP

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BIGINT_MAX = 2**63 - 1
_REAL_MAX = (2 - 2**-23) * 2.0**127
_MAX_NAME_LENGTH = 128
"""Of a thing: https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html"""
_OWN_MEMBERS = frozenset({"ts", "seq", *(metric.name for metric in METRICS)})
_STAMPED_MEMBERS = frozenset({"device_id", "received_at", STAMP, "readings"})
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """A reading, in the order of the columns of `telemetry` (less object_id, which the loader knows)."""

    device_id: str
    timestamp: datetime
    seq: int
    temperature: float | None
    humidity: float | None
    pressure: float | None
    battery: float | None
    extra: str | None
    quality: int
    received_at: datetime | None


class _Refused(Exception):  # noqa: N818 - not an error: a verdict on one reading
    """The reason why a reading goes to quarantine."""


def parse_line(number: int, line: bytes | LongLine, limits: Limits) -> Iterator[Row | Quarantined]:
    """What line `number` (from 1) of an object holds: each of its readings is one row or one quarantined element.

    A line is one message: a reading, or an envelope `{"readings": [...]}` of one device, with `device_id`, `received_at`
    and the stamp put on by the rule. No input raises; reading the stamps again may (see KeptStamps).
    """
    device_id: str | None = None
    try:
        message = _message(line)
        _check_stamp(message, limits)  # before anything that the line claims is believed
        device_id = _device_id(message)
        received_at = _received_at(message)
    except _Refused as refused:
        yield _refuse_line(line, number, device_id, str(refused), limits)
        return
    assert isinstance(line, bytes)  # noqa: S101 - for the type checker: a longer one was refused
    readings = message.get("readings")
    if "readings" not in message:
        yield _reading(message, _surplus(message), number, None, device_id, received_at, limits, line)
        return
    if not isinstance(readings, list) or not readings:
        reason = "readings_not_an_array" if not isinstance(readings, list) else "envelope_without_readings"
        yield _refuse_line(line, number, device_id, reason, limits)
        return
    shared = {name: value for name, value in message.items() if name not in _STAMPED_MEMBERS}
    for element, reading in enumerate(readings):
        if isinstance(reading, dict):
            extra = shared | {name: value for name, value in reading.items() if name not in _OWN_MEMBERS}
            yield _reading(reading, extra, number, element, device_id, received_at, limits, None)
        else:
            yield _refuse_element(reading, number, element, device_id, "reading_not_an_object")


def _message(line: bytes | LongLine) -> dict[str, Any]:
    if isinstance(line, LongLine) or len(line) > MAX_LINE_BYTES:
        raise _Refused("too_large")
    if not line.strip():
        raise _Refused("empty")
    try:
        message = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = _decode_leniently(line)
    if not isinstance(message, dict):
        raise _Refused("not_a_json_object")
    return message


def _decode_leniently(line: bytes) -> Any:
    """NaN and Infinity are no JSON, but many devices send them: they cost a value, not the message."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise _Refused("invalid_json") from None


def _check_stamp(message: dict[str, Any], limits: Limits) -> None:
    if not limits.stamps.admits(message.get(STAMP)):
        raise _Refused("not_stamped")


def _device_id(message: dict[str, Any]) -> str:
    device_id = message.get("device_id")
    if not isinstance(device_id, str) or not 0 < len(device_id) <= _MAX_NAME_LENGTH or not device_id.isprintable():
        raise _Refused("no_device_id")
    return device_id


def _received_at(message: dict[str, Any]) -> datetime | None:
    """The rule's time (epoch milliseconds), if it is there."""
    at = message.get("received_at")
    try:
        return _from_milliseconds(at) if type(at) is int else None
    except _Refused:
        return None


def _surplus(message: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in message.items() if k not in _OWN_MEMBERS and k not in _STAMPED_MEMBERS}


def _reading(
    reading: dict[str, Any],
    extra: dict[str, Any],
    number: int,
    element: int | None,
    device_id: str,
    received_at: datetime | None,
    limits: Limits,
    line: bytes | None,
) -> Row | Quarantined:
    try:
        timestamp = _timestamp(reading.get("ts"), limits)
    except _Refused as refused:
        if line is not None:
            return _refuse_line(line, number, device_id, str(refused), limits)
        return _refuse_element(reading, number, element, device_id, str(refused))
    quality = 0
    values: dict[str, float | None] = {}
    for metric in METRICS:
        original = reading.get(metric.name)
        value = _number(original)
        values[metric.name] = value
        if value is None:
            if original is not None:
                quality |= metric.wrong_type
                extra[metric.name] = original
        elif not metric.low <= value <= metric.high:
            quality |= metric.out_of_range
    seq = reading.get("seq")
    if type(seq) is not int or not -_BIGINT_MAX <= seq <= _BIGINT_MAX:
        quality |= NO_SEQ
        if seq is not None:
            extra["seq"] = seq
        seq = 0
    return Row(
        device_id=device_id,
        timestamp=timestamp,
        seq=seq,
        extra=_extra(extra),
        quality=quality,
        received_at=received_at,
        **values,
    )


def _refuse_line(
    line: bytes | LongLine, number: int, device_id: str | None, reason: str, limits: Limits
) -> Quarantined:
    """A line as a whole; what is kept of it is without the stamp, which is nobody's to read."""
    text = line.start if isinstance(line, LongLine) else line
    raw = limits.stamps.without(text)
    length = line.length_bytes if isinstance(line, LongLine) else len(raw)
    return Quarantined(number, None, device_id, reason, raw[:MAX_RAW_BYTES], length)


def _refuse_element(
    reading: object, number: int, element: int | None, device_id: str | None, reason: str
) -> Quarantined:
    raw = _json(reading)
    return Quarantined(number, element, device_id, reason, raw[:MAX_RAW_BYTES], len(raw))


def _number(value: object) -> float | None:
    """The value if the column, single precision, can hold it; else None. `true` is not 1, and NaN is within nothing."""
    if type(value) is not float and type(value) is not int:
        return None
    return float(value) if -_REAL_MAX <= value <= _REAL_MAX else None


def _timestamp(ts: object, limits: Limits) -> datetime:
    """A device's time: epoch milliseconds, or ISO 8601 with an offset; within the limits."""
    if ts is None:
        raise _Refused("no_timestamp")
    if type(ts) is int:
        timestamp = _from_milliseconds(ts)
    elif type(ts) is float and ts.is_integer():
        timestamp = _from_milliseconds(int(ts))
    elif isinstance(ts, str):
        try:
            timestamp = datetime.fromisoformat(ts)
        except ValueError:
            raise _Refused("unreadable_timestamp") from None
        if timestamp.tzinfo is None:
            raise _Refused("timestamp_without_offset")
        try:
            timestamp = timestamp.astimezone(UTC)
        except OverflowError:
            raise _Refused("unreadable_timestamp") from None
    else:
        raise _Refused("unreadable_timestamp")
    if timestamp > limits.newest:
        raise _Refused("timestamp_in_the_future")
    if timestamp < limits.oldest:
        raise _Refused("timestamp_older_than_retention")
    return timestamp


def _from_milliseconds(milliseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        raise _Refused("unreadable_timestamp") from None


def _extra(extra: dict[str, Any]) -> str | None:
    """The surplus members as text that jsonb accepts, or None when there are none."""
    return _json(extra).decode() if extra else None


def _json(value: object) -> bytes:
    """JSON that PostgreSQL can store: no NaN, no lone surrogates, no U+0000, no integers beyond double's range.

    https://www.postgresql.org/docs/current/datatype-json.html
    """
    try:
        text = _encode(value)
        if b"\\u0000" not in text and b"null" not in text:
            return text
    except (ValueError, TypeError, RecursionError, OverflowError, msgspec.MsgspecError):
        pass
    try:
        return _encode(_storable(value))
    except RecursionError:
        return b'{"unreadable": "nested too deeply"}'


def _storable(value: object) -> object:
    """`value` with what JSON or jsonb cannot hold spelt out as text."""
    if isinstance(value, dict):
        return {str(_storable(name)): _storable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_storable(member) for member in value]
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, int) and abs(value) > _BIGINT_MAX:
        return hex(value)
    return value
