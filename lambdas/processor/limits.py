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
        return cls.for_arrival(now, now, retention_days=retention_days, max_future_seconds=max_future_seconds)

    @classmethod
    def for_arrival(
        cls, arrived_at: datetime, now: datetime, *, retention_days: int, max_future_seconds: int
    ) -> "Limits":
        """The same for an object that S3 stored at `arrived_at`, whenever it is loaded.

        What is in the future is judged against the arrival, so that an object loaded again months later is judged as it
        was the first time; what is past the retention, against now. S3's LastModified has whole seconds.
        """
        oldest = now - timedelta(days=retention_days)
        newest = arrived_at.replace(microsecond=0) + timedelta(seconds=max_future_seconds)
        # Rounded inwards, so that whole milliseconds are judged alike in both forms.
        return cls(oldest, newest, -((_EPOCH - oldest) // _MILLISECOND), (newest - _EPOCH) // _MILLISECOND)
