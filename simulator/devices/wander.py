"""Values that stray from zero and come back."""

import math

_UNIFORM_DEVIATION = 1 / math.sqrt(12)


class Wander:
    """An Ornstein-Uhlenbeck process, sampled at a fixed interval: a deviation, and for how long it remembers."""

    __slots__ = ("_keep", "_step", "value")

    def __init__(self, first: float, deviation: float, memory_seconds: float, interval_seconds: float) -> None:
        """`first` is a uniform number from 0 to 1, for where it begins."""
        self._keep = math.exp(-interval_seconds / memory_seconds)
        self._step = deviation * math.sqrt(1 - self._keep * self._keep) / _UNIFORM_DEVIATION
        self.value = deviation / _UNIFORM_DEVIATION * (first - 0.5)

    def next(self, uniform: float) -> float:
        """The next value, from a uniform number: many of them in a sum are a bell, however each is distributed."""
        self.value = value = self._keep * self.value + self._step * (uniform - 0.5)
        return value
