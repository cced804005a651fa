"""Spans of time as an operator writes them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lambdas.shared.listing import hour_prefixes
from ops.errors import UserError

_RELATIVE = re.compile(r"-(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "ISO 8601 (2026-11-21T10:00Z; without an offset it is UTC), relative (-90m, -2h, -3d, -1w) or now"


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


def parse_time(text: str, option: str, now: datetime) -> datetime:
    """A time in UTC. Raises UserError when it is not readable."""
    if text == "now":
        return now
    if relative := _RELATIVE.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[relative[2]]: float(relative[1])})
        except OverflowError:
            raise UserError(f"{option} {text}: that long ago there was no calendar; use {_FORMS}") from None
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(f"{option} {text}: not a time; use {_FORMS}") from None
    return time
