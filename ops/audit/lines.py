"""What a raw line, or what quarantine keeps of one, holds: which readings, or which payload. Pure; no input raises.

Written for itself rather than with the loader's own parser: what it shares with the loader it could not find wrong.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from lambdas.shared.quarantine import storable
from lambdas.shared.stamp import STAMP

_OF_THE_RULE = ("device_id", "received_at", STAMP)
_LATEST_MS = 2**47
"""In the year 6429: within what a datetime can be."""


class Key(NamedTuple):
    """A reading, by what is unique of it."""

    device_id: str
    ts: int
    """Epoch milliseconds."""
    seq: int


class Bare(NamedTuple):
    """A message of which nothing came but what the rule adds: its payload was no JSON object."""

    device_id: str
    received_at_ms: int
    """Epoch milliseconds, by the rule's clock."""


class Line(NamedTuple):
    """A line of NDJSON."""

    device_id: str | None
    readings: int
    """As the ledger counts them: a line that is none counts as one."""
    keys: tuple[Key, ...]
    """Of those that have a time and a number."""
    prints: frozenset[str]
    """By which its payload is known again."""
    bare: Bare | None = None
    """Where there is nothing to know it by."""
    received_at_ms: int | None = None
    """Epoch milliseconds, by the rule's clock; None where it says nothing of it."""


def line_of(text: bytes, device_id: str | None = None) -> Line:
    """Reads one line; `device_id` is for a text that does not name its device."""
    message = _decoded(text)
    if not isinstance(message, dict):
        return Line(device_id, 1, (), prints(text))
    named = message.get("device_id")
    device = named if isinstance(named, str) else device_id
    readings = message.get("readings")
    elements = readings if isinstance(readings, list) and readings else [message]
    keys = tuple(_keys(device, elements)) if device is not None else ()
    at = message.get("received_at")
    at = at if type(at) is int and 0 <= at < _LATEST_MS else None
    bare = None if device is None or at is None or message.keys() - set(_OF_THE_RULE) else Bare(device, at)
    return Line(device, len(elements), keys, prints(text, message), bare, at)


def is_object(payload: bytes) -> bool:
    """Whether a payload is a JSON object, which is what the rule can pass on."""
    return isinstance(_decoded(payload), dict)


def _keys(device: str, elements: list[Any]) -> Iterator[Key]:
    for element in elements:
        if isinstance(element, dict) and type(ts := element.get("ts")) is int:
            seq = element.get("seq")
            yield Key(device, ts, seq if type(seq) is int else 0)


def prints(payload: bytes, decoded: object = ...) -> frozenset[str]:
    """What a payload is known by wherever it ends: its text, and its JSON without what the rule adds.

    An envelope of one element is quarantined as that element.
    """
    found = {storable(payload)}
    message = _decoded(payload) if decoded is ... else decoded
    if message is not None:
        if isinstance(message, dict):
            message = {name: value for name, value in message.items() if name not in _OF_THE_RULE}
        found.add(_canonical(message))
        readings = message.get("readings") if isinstance(message, dict) else None
        if isinstance(readings, list) and len(readings) == 1:
            found.add(_canonical(readings[0]))
    return frozenset(found)


def _canonical(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return ""


def _decoded(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(text)  # NaN and Infinity
    except (ValueError, RecursionError):
        return None


def text_of(body: bytes, *, gzipped: bool) -> bytes:
    """The lines of an object; of one that is broken none, as nobody can read it."""
    try:
        return gzip.decompress(body) if gzipped else body
    except (OSError, EOFError, ValueError):
        return b""


def lines_of(body: bytes) -> Iterator[Line]:
    """The lines of NDJSON. A line ends at a line feed and nowhere else, as the loader has it."""
    lines = body.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return map(line_of, lines)


def count_readings(body: bytes) -> int:
    """Readings in NDJSON: each line is one, or an envelope of several; a line that is no JSON is one as well."""
    return sum(line.readings for line in lines_of(body))
