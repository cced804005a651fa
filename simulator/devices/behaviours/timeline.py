"""When a behaviour befalls a device, which follows from the scenario, the seed and the device's name alone."""

import random
from collections.abc import Iterator
from math import inf

from simulator.scenario.behaviours import Behaviour


def dice(seed: int, thing_name: str, what: str) -> random.Random:
    """Random numbers for one purpose of one device. Use `random()` only: Python promises its sequence for a seed."""
    return random.Random(f"{seed}/{thing_name}/{what}")  # noqa: S311  (no secret)


def occurrences(behaviour: Behaviour, delay_seconds: float) -> Iterator[tuple[float, float]]:
    """Beginning and end of each time, in order; endless where the behaviour is."""
    number = 0
    while behaviour.times is None or number < behaviour.times:
        begin = behaviour.at_seconds + delay_seconds + number * (behaviour.every_seconds or 0.0)
        yield begin, begin + behaviour.for_seconds
        if behaviour.every_seconds is None:
            return
        number += 1


class Window:
    """Whether a behaviour is going on. To be asked with times that never run backwards."""

    __slots__ = ("_begin", "_end", "_occurrences")

    def __init__(self, behaviour: Behaviour, delay_seconds: float) -> None:
        self._occurrences = occurrences(behaviour, delay_seconds)
        self._begin, self._end = next(self._occurrences)

    def since(self, due: float) -> float | None:
        """When the time that `due` is in began, or None outside of all."""
        while due >= self._end:
            self._begin, self._end = next(self._occurrences, (inf, inf))
        return self._begin if due >= self._begin else None
