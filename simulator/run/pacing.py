"""How fast the fleet may connect."""


class TokenBucket:
    """Lets `rate_per_second` through on average, and `burst` at once."""

    __slots__ = ("_burst", "_filled_at", "_rate_per_second", "_tokens")

    def __init__(self, *, rate_per_second: float, burst: int, now: float) -> None:
        self._rate_per_second = rate_per_second
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token, if there is one at the time `now` (seconds, never running backwards)."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate_per_second)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
