"""Spans of time as an operator writes them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from lambdas.shared.listing import hour_prefixes
from ops.errors import UserError
from ops.times import parse_time


@dataclass(frozen=True)
class Span:
    """From `start` to `end`, widened to whole hours, by the hour in the objects' keys."""

    start: datetime
    end: datetime

    @property
    def prefixes(self) -> list[str]:
        """The key prefixes of its hours."""
        return hour_prefixes(self.start, self.end)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M} UTC"


def parse_span(start: str, end: str, now: datetime) -> Span:
    """The span that `--from` and `--to` name. Raises UserError when one is not readable, or they are the wrong way round."""
    first, last = parse_time(start, "--from", now), parse_time(end, "--to", now)
    if first >= last:
        raise UserError(
            f"--from {start} is not before --to {end} ({first:%Y-%m-%d %H:%M} UTC, {last:%Y-%m-%d %H:%M} UTC)"
        )
    floor = first.replace(minute=0, second=0, microsecond=0)
    whole = last.replace(minute=0, second=0, microsecond=0)
    return Span(floor, whole if whole == last else whole + timedelta(hours=1))
