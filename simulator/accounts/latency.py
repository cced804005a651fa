"""How long acknowledgements take: a histogram of constant size, whatever the number of messages."""

from math import ceil, log2

_LOWEST_SECONDS = 1e-4
_PER_DOUBLING = 10  # buckets 7 % wide
_BUCKETS = 240  # up to about 25 minutes


class LatencyHistogram:
    """Counts latencies in buckets 7 % wide."""

    __slots__ = ("_counts", "count", "max_seconds")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        # Once for each message of a run: min() and max() would cost more than all the rest.
        bucket = int(log2(seconds / _LOWEST_SECONDS) * _PER_DOUBLING) + 1 if seconds > _LOWEST_SECONDS else 0
        self._counts[bucket if bucket < _BUCKETS else -1] += 1
        self.count += 1
        if seconds > self.max_seconds:  # noqa: PLR1730
            self.max_seconds = seconds

    def copy(self) -> "LatencyHistogram":
        """As it is now."""
        found = LatencyHistogram()
        found.merge(self)
        return found

    def since(self, earlier: "LatencyHistogram") -> "LatencyHistogram":
        """What was counted after `earlier`, a copy; its greatest is that of all."""
        found = self.copy()
        found._counts = [now - then for now, then in zip(found._counts, earlier._counts, strict=True)]
        found.count -= earlier.count
        return found

    def percentile_ms(self, percent: float) -> float | None:
        """Milliseconds that `percent` of the latencies did not exceed (upper edge of a bucket); None before the first."""
        wanted = ceil(self.count * percent / 100)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return min(_LOWEST_SECONDS * 2 ** (bucket / _PER_DOUBLING), self.max_seconds) * 1000
        return None

    def merge(self, other: "LatencyHistogram") -> None:
        """Add what another one has counted."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self.count += other.count
        self.max_seconds = max(self.max_seconds, other.max_seconds)
