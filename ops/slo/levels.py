"""The service levels (docs/runbook.md, "Service levels"), and what a measurement says of each: pure."""

from dataclasses import dataclass
from enum import StrEnum

INGESTION_PER_SECOND = 1000.0
LATENCY_SECONDS = 5.0
LOSS_PPM = 100.0
CONNECTED_PERCENT = 99.5
QUERY_SECONDS = 2.0
REFRESH_SECONDS = 3.0
DETECTION_SECONDS = 30.0
UNARCHIVED_SECONDS = 300.0


class Verdict(StrEnum):
    """What can be said of a level."""

    MET = "met"
    MISSED = "missed"
    NOT_TESTED = "not tested"
    """What was asked of the system does not show whether it could do more."""
    NO_DATA = "no data"


@dataclass(frozen=True, kw_only=True)
class Level:
    """One service level, and how it stands."""

    name: str
    target: str
    """With its comparison and unit."""
    value: float | None
    unit: str
    verdict: Verdict
    over: str
    """Of which time, and how much of it was looked at."""
    how: str
    """What was measured."""
    note: str = ""
    """What to know of the figure, or what to do where there is none."""


def verdict_of(value: float | None, *, below: float | None = None, at_least: float | None = None) -> Verdict:
    """Of a figure that is to be below a limit, or at least one."""
    if value is None:
        return Verdict.NO_DATA
    good = (below is None or value < below) and (at_least is None or value >= at_least)
    return Verdict.MET if good else Verdict.MISSED


def dashboards(seconds: float | None, *, below: float, holds_readings: bool, left_out: int = 0) -> tuple[Verdict, str]:
    """Of how many seconds queries take. Quick answers are a pass only of all queries, and with something to read."""
    verdict = verdict_of(seconds, below=below)
    if verdict is Verdict.MET and not holds_readings:
        return Verdict.NOT_TESTED, "nothing was read: there is no reading of the day before the span's end"
    if verdict is Verdict.MET and left_out:
        return Verdict.NOT_TESTED, "not every query was asked"
    return verdict, ""


def ingestion(per_second: float | None, *, wait_seconds: float | None, limit_seconds: float) -> tuple[Verdict, str]:
    """Of the highest rate that was sustained. A lower one than the target is a miss only where readings had to wait.

    `wait_seconds` is the 95th percentile from AWS IoT Core to the row, `limit_seconds` from when on that is late.
    """
    if per_second is None:
        return Verdict.NO_DATA, "nothing was loaded: let devices send, or look further back with --from"
    if per_second > INGESTION_PER_SECOND:
        return Verdict.MET, ""
    offered = f"offered {per_second:,.1f}/s"
    if wait_seconds is not None and wait_seconds > limit_seconds:
        return Verdict.MISSED, f"{offered} or more, and readings waited {wait_seconds:,.0f} s (p95) to be loaded"
    return Verdict.NOT_TESTED, f"{offered}, and that was kept up with: only a higher load tells (fleet simulate)"
