"""What is wrong with sensors and clocks: applied to what a device measures, before it is encoded."""

import random
from collections.abc import Sequence
from typing import Protocol

from simulator.devices.behaviours.timeline import Window
from simulator.scenario.behaviours import Behaviour, ClockSkew, Drift, Spike, Stuck


class Signals(Protocol):
    """What the sensors of one device measure, and how it is written."""

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics, in order."""

    @property
    def template(self) -> bytes:
        """A `%` format for the time, the sequence number and the values."""

    def measure(self, ts: int) -> Sequence[float]:
        """The values at `ts` (epoch milliseconds). To be called once for each reading, in order."""

    def encode(self, ts: int, seq: int) -> bytes:
        """The reading taken at `ts` as JSON."""


class _Fault(Protocol):
    def __call__(self, due: float, values: list[float]) -> None:
        """Change the values of the reading that is due at `due`."""


class FaultySensors:
    """The signals of a device with its faults over them, in the order in which the scenario has them."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._faults: list[_Fault] = []
        self._skews: list[tuple[Window, int]] = []

    def suffer(self, behaviour: Behaviour, window: Window, uniform: random.Random) -> None:
        """Take on a behaviour of a clock, or of a sensor where the device has that one; others change nothing."""
        if isinstance(behaviour, ClockSkew):
            self._skews.append((window, round(behaviour.offset_seconds * 1000)))
        if not isinstance(behaviour, Drift | Stuck | Spike) or behaviour.metric not in self._signals.names:
            return
        position = self._signals.names.index(behaviour.metric)
        match behaviour:
            case Drift():
                self._faults.append(_Drift(window, position, behaviour.per_hour / 3600))
            case Stuck():
                self._faults.append(_Stuck(window, position))
            case Spike():
                self._faults.append(_Spike(window, position, behaviour, uniform))

    def encode(self, due: float, ts: int, seq: int) -> bytes:
        """The reading due at `due` (seconds since the start), truly taken at `ts` (epoch milliseconds)."""
        told = ts + sum(offset for window, offset in self._skews if window.since(due) is not None)
        if not self._faults:
            return self._signals.template % (told, seq, *self._signals.measure(ts))
        values = list(self._signals.measure(ts))
        for fault in self._faults:
            fault(due, values)
        return self._signals.template % (told, seq, *values)


class _Drift:
    def __init__(self, window: Window, position: int, per_second: float) -> None:
        self._window, self._position, self._per_second = window, position, per_second

    def __call__(self, due: float, values: list[float]) -> None:
        since = self._window.since(due)
        if since is not None:
            values[self._position] += self._per_second * (due - since)


class _Stuck:
    def __init__(self, window: Window, position: int) -> None:
        self._window, self._position = window, position
        self._since: float | None = None
        self._value = 0.0

    def __call__(self, due: float, values: list[float]) -> None:
        since = self._window.since(due)
        if since is None:
            return
        if since != self._since:
            self._since, self._value = since, values[self._position]
        values[self._position] = self._value


class _Spike:
    def __init__(self, window: Window, position: int, spike: Spike, uniform: random.Random) -> None:
        self._window, self._position, self._spike, self._uniform = window, position, spike, uniform

    def __call__(self, due: float, values: list[float]) -> None:
        drawn = self._uniform.random()
        if self._window.since(due) is not None and drawn < self._spike.probability:
            values[self._position] *= self._spike.factor
