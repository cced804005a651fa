"""One simulated device: its clockwork, its buffer and its account of what was published and acknowledged. No I/O."""

from collections import deque
from typing import Protocol

import orjson

from simulator.config import SimulatorConfig
from simulator.envelope import EnvelopePacker, Message
from simulator.seq_ranges import SeqRanges
from simulator.signals import DeviceSignals


class Link(Protocol):
    """A device's connection to the broker. Every call returns at once; what comes of it is told later."""

    def start(self) -> None:
        """Connect, and stay connected."""

    def publish(self, message: Message) -> None:
        """Send at QoS 1."""

    def stop(self) -> None:
        """Disconnect for good."""


class Device:
    """One device of the fleet."""

    __slots__ = (
        "_buffer_readings", "_interval_seconds", "_packer", "_phase_seconds", "_signals", "acknowledged", "answered",
        "backlog", "backlog_readings", "connected", "first_seq", "generated", "in_flight", "link", "published",
        "refusal", "resend", "retrying", "thing_name", "was_connected",
    )  # fmt: skip

    def __init__(
        self, config: SimulatorConfig, index: int, thing_name: str, *, fleet_size: int, first_seq: int
    ) -> None:
        self._buffer_readings = config.buffer_readings
        self._interval_seconds = config.interval_seconds
        # Spread evenly, so that the fleet as a whole is a steady stream.
        self._phase_seconds = config.interval_seconds * index / fleet_size
        self._packer = EnvelopePacker(config, index)
        self._signals = DeviceSignals(config, thing_name)
        self.thing_name = thing_name
        self.link: Link | None = None
        self.connected = False
        self.was_connected = False
        self.answered = False
        """Whether its first attempt to connect has come to an end, good or bad."""
        self.refusal: str | None = None
        """Why that attempt failed."""
        self.first_seq = first_seq
        self.generated = 0
        self.backlog: deque[Message] = deque()
        """Complete messages, never published, oldest first."""
        self.backlog_readings = 0
        self.resend: deque[Message] = deque()
        """Messages whose last attempt failed and whose time to be sent again has come."""
        self.in_flight = 0
        self.retrying = 0
        """Messages that wait for their time to be sent again."""
        self.published = SeqRanges()
        self.acknowledged = SeqRanges()

    @property
    def due(self) -> float:
        """When the next reading is due, in seconds since the start."""
        return self._phase_seconds + self.generated * self._interval_seconds

    @property
    def settled(self) -> bool:
        """Whether everything that is to be sent has been acknowledged."""
        return not (self.backlog or self.resend or self.in_flight or self.retrying)

    def take_reading(self, started_at_ms: int) -> bool:
        """Take the reading that is due; returns whether a message is complete."""
        due = self.due
        seq = self.first_seq + self.generated
        self.generated += 1
        reading = self._signals.reading(started_at_ms + round(due * 1000), seq)
        return self._keep(self._packer.add(orjson.dumps(reading), seq=seq, due=due, next_due=self.due))

    def flush(self) -> bool:
        """Close the open envelope; returns whether there was one."""
        return self._keep(self._packer.flush())

    def _keep(self, complete: list[Message]) -> bool:
        for message in complete:
            self.backlog.append(message)
            self.backlog_readings += message.readings
        return bool(complete)

    def drop_overflow(self) -> int:
        """Give up the oldest messages beyond what the buffer holds; returns the number of readings lost."""
        dropped = 0
        while self.backlog_readings > self._buffer_readings:
            oldest = self.backlog.popleft().readings
            self.backlog_readings -= oldest
            dropped += oldest
        return dropped

    def next_message(self) -> Message | None:
        """The message to publish next: what has to be sent again goes first."""
        if self.resend:
            return self.resend.popleft()
        if not self.backlog:
            return None
        message = self.backlog.popleft()
        self.backlog_readings -= message.readings
        self.published.add(message.first_seq, message.last_seq)
        return message
