"""What `fleet bench simulator` and each client say to each other: one line of JSON per step, on its standard streams."""

import sys
from collections.abc import Iterator

import msgspec

PAYLOAD_BYTES = 205
READINGS_PER_ENVELOPE = 25
SETTLE_SECONDS = 0.7
"""Before a step is measured, so that every device has taken up its new pace."""
DRAIN_SECONDS = 10.0


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is started with."""

    kind: str
    port: int
    folder: str
    devices: int
    window: int = 1


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says first."""

    connected: int
    seconds: float
    memory_bytes: int
    """How much its memory grew."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is told: the pace of the whole fleet."""

    messages_per_second: float
    seconds: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a step, in the part of it that was measured."""

    acknowledged: int
    readings: int
    seconds: float
    cpu_seconds: float


def steps() -> Iterator[Step]:
    """The steps that a client is told to do, until there are no more."""
    for line in sys.stdin:
        yield msgspec.json.decode(line, type=Step)


def say(what: Connected | Measured) -> None:
    """Tell the benchmark."""
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()
