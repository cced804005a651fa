"""The span of plausible device timestamps."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Limits:
    """From `oldest` to `newest`, both included."""

    oldest: datetime
    newest: datetime
    oldest_milliseconds: int
    newest_milliseconds: int

    @classmethod
    def around(cls, now: datetime, *, retention_days: int, max_future_seconds: int) -> "Limits":
        """From the retention's edge to a little in the future (a device's clock may be ahead)."""
        oldest = now - timedelta(days=retention_days)
        newest = now + timedelta(seconds=max_future_seconds)
        # Rounded inwards, so that whole milliseconds are judged alike in both forms.
        return cls(oldest, newest, -((_EPOCH - oldest) // _MILLISECOND), (newest - _EPOCH) // _MILLISECOND)
