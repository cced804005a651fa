"""Readings of one device packed into MQTT messages: full, too old to wait, or as large as Firehose's billing unit."""

from simulator.config import ENVELOPE_MAX_BYTES, SimulatorConfig

_HEAD = b'{"readings":['
_TAIL = b"]}"


class Message:
    """One MQTT message and what has become of it."""

    __slots__ = ("attempts", "device", "first_seq", "last_seq", "payload", "sent_at")

    def __init__(self, device: int, payload: bytes, first_seq: int, last_seq: int) -> None:
        self.device = device
        """Index of the device in the fleet."""
        self.payload = payload
        self.first_seq = first_seq
        self.last_seq = last_seq
        self.attempts = 0
        self.sent_at = 0.0
        """Of the last attempt, on the monotonic clock."""

    @property
    def readings(self) -> int:
        """Number of readings in it; their sequence numbers follow each other."""
        return self.last_seq - self.first_seq + 1


class EnvelopePacker:
    """Packs the readings of one device, in order.

    A message is closed when it has `batch` readings, when the device's next reading would come later than the oldest
    one may linger, or before a reading that would make it larger than 5,000 bytes. No timer is needed: when a reading
    is taken it is known when the next one is due, and nothing is gained by waiting if that is too late.
    """

    __slots__ = ("_batch", "_device", "_first_seq", "_linger_seconds", "_opened_at", "_parts", "_size")

    def __init__(self, config: SimulatorConfig, device: int) -> None:
        self._batch = config.batch
        self._linger_seconds = config.linger_seconds
        self._device = device
        self._parts: list[bytes] = []
        self._size = 0
        self._opened_at = 0.0
        self._first_seq = 0

    def add(self, encoded: bytes, *, seq: int, due: float, next_due: float) -> list[Message]:
        """Take a reading due at `due`, the device's next being due at `next_due` (seconds); return what is complete."""
        if self._batch == 1:
            return [Message(self._device, encoded, seq, seq)]
        complete = []
        if self._parts and self._size + 1 + len(encoded) > ENVELOPE_MAX_BYTES:
            complete += self.flush()
        if not self._parts:
            self._opened_at, self._first_seq = due, seq
            self._size = len(_HEAD) + len(_TAIL) - 1
        self._parts.append(encoded)
        self._size += 1 + len(encoded)
        if len(self._parts) >= self._batch or next_due > self._opened_at + self._linger_seconds:
            complete += self.flush()
        return complete

    def flush(self) -> list[Message]:
        """Close the open envelope, if there is one."""
        if not self._parts:
            return []
        payload = _HEAD + b",".join(self._parts) + _TAIL
        message = Message(self._device, payload, self._first_seq, self._first_seq + len(self._parts) - 1)
        self._parts = []
        return [message]
