"""Which table answers for which range of time: raw readings for minutes, rollups for hours, days and months.

A query is written once, and becomes one branch per level, of which the planner leaves but one: both ends of the range
are constants by the time PostgreSQL reads them, so the condition of every other branch is constantly false.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_RANGE = "$__timeTo()::timestamptz - $__timeFrom()::timestamptz"


@dataclass(frozen=True)
class Level:
    """A view of rollups, and the longest range that is read from it; None: any."""

    view: str
    width: str
    up_to: str | None


# All devices of the fleet: a thousand of them are 60 rows of a thousand minutes, or 24 of a thousand hours.
FLEET = (
    Level("telemetry_1m", "1 minute", "2 hours"),
    Level("telemetry_hourly", "1 hour", "8 days"),
    Level("telemetry_daily", "1 day", None),
)
# One device: a row per bucket.
DEVICE = (
    Level("telemetry_1m", "1 minute", "2 days"),
    Level("telemetry_hourly", "1 hour", "90 days"),
    Level("telemetry_daily", "1 day", None),
)


def by_range(sql: str, levels: Sequence[Level]) -> str:
    """`sql` for each level, of which one is read; in it @view, @width of its buckets, and @chosen, a condition."""
    branches: list[str] = []
    above: str | None = None
    for level in levels:
        chosen = [f"{_RANGE} > interval '{above}'"] if above else []
        chosen += [f"{_RANGE} <= interval '{level.up_to}'"] if level.up_to else []
        branch = sql.strip().replace("@view", level.view).replace("@width", f"interval '{level.width}'")
        branches.append(branch.replace("@chosen", " AND ".join(chosen) or "true"))
        above = level.up_to
    return "\nUNION ALL\n".join(branches)
