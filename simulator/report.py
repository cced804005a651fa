"""What a run tells while it goes on, and what it accounts for at its end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from simulator.seq_ranges import SeqRange


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the fleet has done so far. Readings: generated = published + buffered + dropped."""

    devices: int = 0
    connected: int = 0
    """Devices connected now; at the end of a run, devices that were connected at any time."""
    readings_generated: int = 0
    readings_published: int = 0
    """Handed to the broker at least once."""
    readings_acknowledged: int = 0
    readings_buffered: int = 0
    """Waiting in a device: in an open envelope, or for a connection."""
    readings_dropped: int = 0
    """Given up because the buffer of an offline device was full; they were never published."""
    messages_published: int = 0
    messages_acknowledged: int = 0
    publish_failures: int = 0
    """Attempts that were refused, timed out or broke off with the connection."""
    retries: int = 0
    """Attempts beyond the first of a message."""
    reconnects: int = 0
    bytes: int = 0
    """Payload of the messages published, each counted once."""

    @property
    def messages_unacknowledged(self) -> int:
        """Messages published and not acknowledged: in flight, or in the end, in doubt."""
        return self.messages_published - self.messages_acknowledged

    @property
    def unacknowledged(self) -> int:
        """Readings published and not acknowledged: in flight, or in the end, in doubt."""
        return self.readings_published - self.readings_acknowledged


@dataclass(frozen=True, kw_only=True)
class Progress(Counts):
    """The state of a run at one moment."""

    phase: str
    """`connecting`, `running`, `finishing` or `disconnecting`."""
    elapsed_seconds: float
    """Since the first reading was due."""
    ack_p50_ms: float | None
    ack_p95_ms: float | None
    behind_seconds: float
    """By how much the scheduler was late at most: this machine's fault, not the broker's."""


@dataclass(frozen=True, kw_only=True)
class RunReport(Counts):
    """What a run has sent, and what of it the broker has taken over, down to the sequence number."""

    started_at: datetime
    """UTC, when the first reading was due; no reading's `ts` is before this or after `ended_at`."""
    ended_at: datetime
    """UTC, when the last acknowledgement was in, or was given up."""
    run_seconds: float
    """How long readings were taken."""
    seed: int
    connect_seconds: float
    not_connected: int
    """Devices that never came to be connected."""
    first_connect_failure: str | None
    """Why the first of those was refused."""
    first_publish_failure: str | None
    ack_p50_ms: float | None
    ack_p95_ms: float | None
    ack_max_ms: float | None
    behind_seconds: float
    acknowledged: Mapping[str, tuple[SeqRange, ...]]
    """By thing name, sequence numbers that the broker has acknowledged: first and last of each range."""
    published: Mapping[str, tuple[SeqRange, ...]]
    """By thing name, sequence numbers that were handed to the broker; what is not acknowledged may yet have arrived."""

    @property
    def complete(self) -> bool:
        """Whether the broker has acknowledged every reading that any device has generated."""
        return self.readings_acknowledged == self.readings_generated and not self.not_connected

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; times in ISO 8601."""
        return {
            **asdict(self),
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "unacknowledged": self.unacknowledged,
            "messages_unacknowledged": self.messages_unacknowledged,
            "complete": self.complete,
        }
