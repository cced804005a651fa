"""Times as an operator writes them."""

import re
from datetime import UTC, datetime, timedelta

from ops.errors import UserError

_AGO = re.compile(r"-?([0-9]+(?:\.[0-9]+)?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "ISO 8601 (2026-11-21T10:00Z; without an offset it is UTC), how long ago (-90m, -2h, -3d, -1w; or 90m) or now"


def parse_time(text: str, option: str, now: datetime) -> datetime:
    """A time in UTC. Raises UserError, which names `option`, when it is not readable."""
    if text == "now":
        return now
    if ago := _AGO.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        except OverflowError:
            raise UserError(f"{option} {text}: that long ago there was no calendar; use {_FORMS}") from None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UserError(f"{option} {text}: not a time; use {_FORMS}") from None
