"""What a run tells while it goes on, and what it accounts for at its end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from simulator.accounts.latency import LatencyHistogram
from simulator.devices.seq_ranges import SeqRange


class Phase(StrEnum):
    """Where a run is."""

    CONNECTING = "connecting"
    RUNNING = "running"
    FINISHING = "finishing"
    DISCONNECTING = "disconnecting"
    DONE = "done"


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
    duplicates_published: int = 0
    """Messages that a behaviour sent a second time on purpose; their readings are counted with the first."""
    malformed_published: int = 0
    """Messages broken on purpose: each is to end in quarantine, and none has readings."""
    malformed_acknowledged: int = 0
    management_failures: int = 0
    """Packets of shadow and jobs that were refused or broke off; telemetry does not depend on them."""
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
    malformed_excused: int = 0
    """Malformed messages that a device could not get through because its certificate was revoked on purpose."""
    readings_excused: int = 0
    """Generated and not acknowledged, by devices whose certificate was revoked, or lost in a reboot, on purpose."""
    not_connected: int
    """Devices that never came to be connected."""
    first_connect_failure: str | None
    """Why the first of those was refused."""
    shut_out: int = 0
    """Devices that had been connected, and were refused, or found nobody, until the end."""
    first_shut_out: str | None = None
    """Why the first of those was not let in."""
    first_publish_failure: str | None
    first_revocation_failure: str | None = None
    """Why the first certificate that was to be revoked was not."""
    oracle_fault: str | None = None
    """Why the ground truth is not complete; None: it is, or none was asked for."""
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
        """Whether the broker has acknowledged every reading that any device has generated and could send."""
        return (
            self.readings_acknowledged + self.readings_excused == self.readings_generated
            and self.malformed_acknowledged + self.malformed_excused == self.malformed_published
            and not self.not_connected
        )

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


_PHASES = [phase.value for phase in Phase]


def merged_progress(told: Sequence[tuple[Progress, LatencyHistogram]]) -> Progress:
    """The state of a run whose parts stand so; it is in the earliest phase that any part is in."""
    parts = [progress for progress, _ in told]
    latency = LatencyHistogram()
    for _, recent in told:
        latency.merge(recent)
    last = min(parts, key=lambda progress: (_PHASES.index(progress.phase), progress.elapsed_seconds))
    return Progress(
        **_sums(parts),
        phase=last.phase,
        elapsed_seconds=last.elapsed_seconds,
        ack_p50_ms=latency.percentile_ms(50),
        ack_p95_ms=latency.percentile_ms(95),
        behind_seconds=max(progress.behind_seconds for progress in parts),
    )


def merged_report(reports: Sequence[RunReport], latency: LatencyHistogram) -> RunReport:
    """The account of a run whose parts gave these; `latency` is that of all."""
    return RunReport(
        **_sums(reports),
        started_at=min(report.started_at for report in reports),
        ended_at=max(report.ended_at for report in reports),
        run_seconds=max(report.run_seconds for report in reports),
        seed=reports[0].seed,
        connect_seconds=max(report.connect_seconds for report in reports),
        readings_excused=sum(report.readings_excused for report in reports),
        malformed_excused=sum(report.malformed_excused for report in reports),
        not_connected=sum(report.not_connected for report in reports),
        first_connect_failure=_first(report.first_connect_failure for report in reports),
        shut_out=sum(report.shut_out for report in reports),
        first_shut_out=_first(report.first_shut_out for report in reports),
        first_publish_failure=_first(report.first_publish_failure for report in reports),
        oracle_fault=_first(report.oracle_fault for report in reports),
        ack_p50_ms=latency.percentile_ms(50),
        ack_p95_ms=latency.percentile_ms(95),
        ack_max_ms=latency.max_seconds * 1000 if latency.count else None,
        behind_seconds=max(report.behind_seconds for report in reports),
        acknowledged={name: pairs for report in reports for name, pairs in report.acknowledged.items()},
        published={name: pairs for report in reports for name, pairs in report.published.items()},
    )


def _sums(parts: Sequence[Counts]) -> dict[str, Any]:
    return {each.name: sum(getattr(part, each.name) for part in parts) for each in fields(Counts)}


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason), None)
