"""The books of a run: a reading is generated, then published, buffered or dropped; a message is acknowledged or not."""

from simulator.accounts.latency import LatencyHistogram
from simulator.accounts.report import Counts
from simulator.devices.envelope import Message, MessageKind

_TELEMETRY, _DUPLICATE = int(MessageKind.TELEMETRY), int(MessageKind.DUPLICATE)


class Account:
    """What has happened so far. Written by the scheduler's thread alone; other threads may read."""

    def __init__(self) -> None:
        self.connected = 0
        self.reconnects = 0
        self.readings_generated = 0
        self.readings_published = 0
        self.readings_acknowledged = 0
        self.readings_dropped = 0
        self.messages_published = 0
        self.messages_acknowledged = 0
        self.duplicates_published = 0
        self.malformed_published = 0
        self.malformed_acknowledged = 0
        self.publish_failures = 0
        self.retries = 0
        self.bytes = 0
        self.behind_seconds = 0.0
        self.latency = LatencyHistogram()
        self._told = LatencyHistogram()
        """As it was when `take_recent_latency` last told of it, and what it told."""
        self._recent = LatencyHistogram()
        self.first_publish_failure: str | None = None

    def publishing(self, message: Message) -> None:
        """Book an attempt to publish, before it is made."""
        if message.attempts:
            self.retries += 1
            return
        self.messages_published += 1
        if message.kind == _TELEMETRY:
            self.readings_published += message.readings
        elif message.kind == _DUPLICATE:
            self.duplicates_published += 1
        else:
            self.malformed_published += 1
        self.bytes += len(message.payload)

    def acknowledged(self, message: Message, seconds: float) -> None:
        """Book an acknowledgement, so many seconds after the attempt."""
        self.messages_acknowledged += 1
        if message.kind == _TELEMETRY:
            self.readings_acknowledged += message.readings
        elif message.kind != _DUPLICATE:
            self.malformed_acknowledged += 1
        self.latency.add(seconds)

    def failed(self, reason: str) -> None:
        """Book an attempt to publish that failed."""
        self.publish_failures += 1
        self.first_publish_failure = self.first_publish_failure or reason

    def counts(self, *, devices: int, connected: int) -> Counts:
        """The counts as they are now."""
        return Counts(
            devices=devices,
            connected=connected,
            readings_generated=self.readings_generated,
            readings_published=self.readings_published,
            readings_acknowledged=self.readings_acknowledged,
            readings_buffered=self.readings_generated - self.readings_published - self.readings_dropped,
            readings_dropped=self.readings_dropped,
            messages_published=self.messages_published,
            messages_acknowledged=self.messages_acknowledged,
            duplicates_published=self.duplicates_published,
            malformed_published=self.malformed_published,
            malformed_acknowledged=self.malformed_acknowledged,
            publish_failures=self.publish_failures,
            retries=self.retries,
            reconnects=self.reconnects,
            bytes=self.bytes,
        )

    def take_recent_latency(self) -> LatencyHistogram:
        """The acknowledgements since the last call; where there were none, those that were told then."""
        now = self.latency.copy()
        if now.count > self._told.count:
            self._told, self._recent = now, now.since(self._told)
        return self._recent
