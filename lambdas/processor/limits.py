"""What lets a line in and a reading pass: the stamps, and the span of plausible device timestamps."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lambdas.shared.stamp import Stamps

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Limits:
    """Timestamps from `oldest` to `newest`, both included, in lines with one of `stamps`."""

    oldest: datetime
    newest: datetime
    oldest_milliseconds: int
    newest_milliseconds: int
    stamps: Stamps

    @classmethod
    def around(cls, now: datetime, *, retention_days: int, max_future_seconds: int, stamps: Stamps) -> "Limits":
        """From the retention's edge to a little in the future (a device's clock may be ahead)."""
        return cls.for_arrival(
            now, now, retention_days=retention_days, max_future_seconds=max_future_seconds, stamps=stamps
        )

    @classmethod
    def for_arrival(
        cls, arrived_at: datetime, now: datetime, *, retention_days: int, max_future_seconds: int, stamps: Stamps
    ) -> "Limits":
        """The same for an object that S3 stored at `arrived_at`, whenever it is loaded.

        What is in the future is judged against the arrival, so that an object loaded again months later is judged as it
        was the first time; what is past the retention, against now. S3's LastModified has whole seconds.
        """
        oldest = now - timedelta(days=retention_days)
        newest = arrived_at.replace(microsecond=0) + timedelta(seconds=max_future_seconds)
        # Rounded inwards, so that whole milliseconds are judged alike in both forms.
        earliest, latest = -((_EPOCH - oldest) // _MILLISECOND), (newest - _EPOCH) // _MILLISECOND
        return cls(oldest, newest, earliest, latest, stamps)
