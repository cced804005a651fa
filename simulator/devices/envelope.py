"""Readings of one device packed into MQTT messages: full, too old to wait, or as large as Firehose's billing unit."""

from collections.abc import Sequence
from enum import IntEnum

from simulator.scenario.config import ENVELOPE_MAX_BYTES, SimulatorConfig

_HEAD = b'{"readings":['
_TAIL = b"]}"
_EMPTY_BYTES = len(_HEAD) + len(_TAIL)


class MessageKind(IntEnum):
    """What a message is meant to be."""

    TELEMETRY = 0
    DUPLICATE = 1
    """A deliberate second sending of an earlier payload."""
    MALFORMED = 2
    """Broken on purpose: it must end as exactly one quarantined item."""


class Message:
    """One MQTT message and what has become of it."""

    __slots__ = (
        "attempts", "device", "first_sent_at", "first_seq", "kind", "last_seq", "listed", "payload", "readings",
        "repeat_after", "sent_at",
    )  # fmt: skip

    def __init__(
        self,
        device: int,
        payload: bytes,
        first_seq: int = -1,
        last_seq: int = -1,
        *,
        readings: int = 1,
        kind: MessageKind = MessageKind.TELEMETRY,
    ) -> None:
        self.device = device
        """Index of the device in the fleet."""
        self.payload = payload
        self.readings = readings
        """Number of readings in it, whose sequence numbers follow each other; 1 for a malformed payload."""
        self.first_seq = first_seq
        self.last_seq = last_seq
        """Inclusive; -1, as `first_seq`, where there is none."""
        self.kind = kind
        self.repeat_after = -1
        """So many messages after this one its duplicate is sent; -1: never."""
        self.attempts = 0
        self.listed = False
        """Whether it is among what its device has sent once and has no answer to; kept only for a recorder."""
        self.sent_at = 0.0
        """Of the last attempt, on the monotonic clock."""
        self.first_sent_at = 0.0
        """Of the first attempt, epoch seconds; 0 before."""


class EnvelopePacker:
    """Packs the readings of one device, in order.

    A message is closed when it has `batch` readings, when the device's next reading would come later than the oldest
    one may linger, or before a reading that would make it larger than 5,000 bytes. No timer is needed: when a reading
    is taken it is known when the next one is due, and nothing is gained by waiting if that is too late.
    """

    __slots__ = ("_batch", "_closes_at", "_device", "_first_seq", "_linger_seconds", "_parts", "_size")

    def __init__(self, config: SimulatorConfig, device: int, *, batch: int | None = None) -> None:
        self._batch = config.batch if batch is None else batch
        self._linger_seconds = config.linger_seconds
        self._device = device
        self._parts: list[bytes] = []
        self._size = 0
        self._closes_at = 0.0
        self._first_seq = 0

    @property
    def open_readings(self) -> int:
        """Readings in the open envelope."""
        return len(self._parts)

    def add(self, encoded: bytes, *, seq: int, due: float, next_due: float) -> Sequence[Message]:
        """Take a reading due at `due`, the device's next being due at `next_due` (seconds); return what is complete."""
        parts = self._parts
        if parts:
            size = self._size + 1 + len(encoded)
            if size <= ENVELOPE_MAX_BYTES:
                parts.append(encoded)
                self._size = size
                if len(parts) < self._batch and next_due <= self._closes_at:
                    return ()
                return self.flush()
        elif self._batch == 1:
            return (Message(self._device, encoded, seq, seq),)
        complete = self.flush()
        self._parts = [encoded]
        self._size = _EMPTY_BYTES + len(encoded)
        self._first_seq = seq
        self._closes_at = due + self._linger_seconds
        if next_due > self._closes_at:
            return [*complete, *self.flush()]
        return complete

    def flush(self) -> Sequence[Message]:
        """Close the open envelope, if there is one."""
        parts = self._parts
        if not parts:
            return ()
        payload = _HEAD + b",".join(parts) + _TAIL
        count = len(parts)
        self._parts = []
        return (Message(self._device, payload, self._first_seq, self._first_seq + count - 1, readings=count),)
