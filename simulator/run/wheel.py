"""A timing wheel: what is due when, in slots of a fixed width. Adding and firing cost the same whatever the number.

A heap keeps an order within a tick that nobody needs, and costs its logarithm for each reading.
"""

from collections.abc import Sequence
from math import inf

TICK_SECONDS = 0.002
"""Waking up costs more than a reading, so a tick's readings are taken together."""


class TimingWheel:
    """Items by the tick in which they are due. An item fires when its tick is over: up to one tick late, never early."""

    __slots__ = ("_current", "_slots", "_tick_seconds", "count")

    def __init__(self, tick_seconds: float = TICK_SECONDS) -> None:
        self._tick_seconds = tick_seconds
        # By tick rather than a ring: a device that sleeps for a day needs no second wheel.
        self._slots: dict[int, list[int]] = {}
        self._current = 0
        self.count = 0
        """Items that have not fired."""

    def add(self, due_seconds: float, item: int) -> None:
        """Fire `item` at `due_seconds` (never if infinite); with the current tick if that has passed."""
        if due_seconds == inf:
            return
        tick = int(due_seconds / self._tick_seconds)
        if tick < self._current:  # noqa: PLR1730 -- max() costs three times as much
            tick = self._current
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = [item]
        else:
            slot.append(item)
        self.count += 1

    def take(self, now_seconds: float) -> Sequence[int]:
        """The items of the earliest tick that is over; none when there is no more. Call it until then.

        What is added meanwhile for a tick that is over, too, comes with the next call, so who is behind catches up in order.
        """
        ended = int(now_seconds / self._tick_seconds)
        while self.count and self._current < ended:
            slot = self._slots.pop(self._current, None)
            if slot is not None:
                self.count -= len(slot)
                return slot
            self._current += 1
        return ()

    def quiet_seconds(self, now_seconds: float, at_most: float) -> float:
        """For how long nothing fires, looking ahead so far at most."""
        first = int(now_seconds / self._tick_seconds)
        for tick in range(min(first, self._current), first + int(at_most / self._tick_seconds)):
            if tick in self._slots:
                return max(0.0, (tick + 1) * self._tick_seconds - now_seconds)
        return at_most
