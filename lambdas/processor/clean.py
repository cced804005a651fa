"""The fast path: messages in perfect order go from JSON to binary COPY without an object per value in between.

A message is clean when it carries the rule's stamp, every member is known, every metric is a number in its plausible
range, and every timestamp is epoch milliseconds within the limits: msgspec's compiled decoder checks all of that but the
stamp and the timestamps. Whatever is not clean is left to `parse`, which is slower and knows a verdict for everything.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from lambdas.processor.binary_copy import Encoder
from lambdas.processor.limits import Limits
from lambdas.shared.contract import METRICS

_BIGINT_MAX = 2**63 - 1
_Seq = Annotated[int, Meta(ge=-_BIGINT_MAX, le=_BIGINT_MAX)]
_DeviceId = Annotated[str, Meta(min_length=1, max_length=128)]
_MAX_MILLISECONDS = 253_402_300_799_999  # the year 9999
_ReceivedAt = Annotated[int, Meta(ge=0, le=_MAX_MILLISECONDS)]


def _range(name: str) -> Meta:
    metric = next(metric for metric in METRICS if metric.name == name)
    return Meta(ge=metric.low, le=metric.high)


_Temperature = Annotated[float, _range("temperature")]
_Humidity = Annotated[float, _range("humidity")]
_Pressure = Annotated[float, _range("pressure")]
_Battery = Annotated[float, _range("battery")]


class Reading(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A reading in perfect order."""

    ts: int
    seq: _Seq
    temperature: _Temperature | None = None
    humidity: _Humidity | None = None
    pressure: _Pressure | None = None
    battery: _Battery | None = None


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    readings: Annotated[list[Reading], Meta(min_length=1)]
    device_id: _DeviceId
    received_at: _ReceivedAt
    stamp: str


class _Single(Reading, forbid_unknown_fields=True, gc=False, kw_only=True):
    device_id: _DeviceId
    received_at: _ReceivedAt
    stamp: str


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_single = msgspec.json.Decoder(_Single).decode
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Encoded(NamedTuple):
    """The rows of one clean message, ready for COPY."""

    rows: int
    data: bytes
    first: int
    """Smallest timestamp, in epoch milliseconds."""
    last: int
    """Greatest timestamp, in epoch milliseconds."""
    device_id: str
    received_at: int
    """In epoch milliseconds."""
    newest: Reading | None
    """The reading with the greatest (ts, seq); None when several with other values are it."""
    times: Sequence[int]
    """Of each row, in epoch milliseconds."""
    readings: Sequence[Reading]


def encode_clean(line: bytes, limits: Limits, encoder: Encoder) -> Encoded | None:
    """The rows of a message, or None when it is not clean and must be parsed."""
    try:
        if line.startswith(b'{"readings"'):
            envelope = _decode_envelope(line)
            message: _Envelope | _Single = envelope
            readings: Sequence[Reading] = envelope.readings
        else:
            single = _decode_single(line)
            message, readings = single, (single,)
    except _REFUSED:
        return None
    if message.stamp not in limits.stamps.valid:
        return None
    times = [reading.ts for reading in readings]
    first, last = min(times), max(times)
    device_id = message.device_id
    if first < limits.oldest_milliseconds or last > limits.newest_milliseconds or not device_id.isprintable():
        return None
    newest: Reading | None = readings[-1]
    if times[-1] != last or times.count(last) > 1:
        newest = _newest(readings)
    rows = encoder.clean_rows(device_id, message.received_at, readings)
    return Encoded(len(times), rows, first, last, device_id, message.received_at, newest, times, readings)


def _newest(readings: Sequence[Reading]) -> Reading | None:
    order = max((reading.ts, reading.seq) for reading in readings)
    newest, *others = (reading for reading in readings if (reading.ts, reading.seq) == order)
    return newest if all(_values(other) == _values(newest) for other in others) else None


def _values(reading: Reading) -> tuple[float | None, ...]:
    return reading.temperature, reading.humidity, reading.pressure, reading.battery
