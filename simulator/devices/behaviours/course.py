"""The course of one misbehaving device: what befalls it when, and what becomes of its readings and messages.

All of it follows from the scenario, the seed and the times at which things are due, so it is the same in every run.
"""

import random
from collections.abc import Iterator, Sequence
from enum import Enum
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from simulator.devices.behaviours.sensors import FaultySensors, Signals
from simulator.devices.behaviours.timeline import Window, dice, occurrences
from simulator.devices.envelope import Message, MessageKind
from simulator.scenario.behaviours import (
    Behaviour,
    DisconnectStorm,
    Duplicate,
    Malformed,
    Offline,
    Reboot,
    Reorder,
    Revoke,
)
from simulator.scenario.malformed import FORMS, payload


class Change(Enum):
    """What happens to a device as a whole."""

    DOWN = "down"
    UP = "up"
    REBOOT = "reboot"
    """As DOWN, and it measures nothing until `up_at`."""
    REVOKE = "revoke"


class Event(NamedTuple):
    """A change, and when; `number` keeps their order where times are the same."""

    at: float
    number: int
    change: Change
    abrupt: bool = True
    keep_backlog: bool = True
    up_at: float = inf


class Course:
    """What befalls one device. Its times, like the device's, are in seconds since the start and never run backwards."""

    def __init__(
        self,
        behaviours: Sequence[tuple[str, Behaviour]],
        *,
        seed: int,
        device: int,
        thing_name: str,
        signals: Signals,
    ) -> None:
        """`behaviours` are those that this device is chosen for, each with a key of its own for its random numbers."""
        self._device = device
        self._thing_name = thing_name
        self._seed = seed
        self._sensors = FaultySensors(signals)
        self._duplicates: list[tuple[Window, Duplicate, random.Random]] = []
        self._malformed: list[tuple[Window, Malformed, random.Random]] = []
        self._reorders: list[tuple[Window, Reorder, random.Random]] = []
        self._held: list[Message] = []
        """Messages that wait for others of their window, to leave in another order."""
        self._broken = 0
        self._sources: list[Iterator[Event]] = []
        for key, behaviour in behaviours:
            uniform = dice(seed, thing_name, key)
            self._take_on(behaviour, behaviour.spread_seconds * uniform.random(), uniform)
        self._events = [(event, source) for source, event in enumerate(map(_next, self._sources)) if event is not None]
        heapify(self._events)

    def _take_on(self, behaviour: Behaviour, delay: float, uniform: random.Random) -> None:
        number = len(self._sources)
        window = Window(behaviour, delay)
        match behaviour:
            case Offline() | DisconnectStorm():
                abrupt = not isinstance(behaviour, Offline) or behaviour.abrupt
                self._sources.append(_outages(behaviour, delay, number, abrupt=abrupt))
            case Reboot():
                self._sources.append(_reboots(behaviour, delay, number))
            case Revoke():
                self._sources.append(_revocation(behaviour, delay, number))
            case Duplicate():
                self._duplicates.append((window, behaviour, uniform))
            case Malformed():
                self._malformed.append((window, behaviour, uniform))
            case Reorder():
                self._reorders.append((window, behaviour, uniform))
            case _:
                self._sensors.suffer(behaviour, window, uniform)

    @property
    def next_at(self) -> float:
        """When the next event is, or infinity."""
        return self._events[0][0].at if self._events else inf

    def pop(self) -> Event:
        """The next event."""
        event, source = heappop(self._events)
        following = _next(self._sources[source])
        if following is not None:
            heappush(self._events, (following, source))
        return event

    def encode(self, due: float, ts: int, seq: int) -> bytes:
        """The reading that is due at `due`, taken at `ts` (epoch milliseconds), as JSON."""
        return self._sensors.encode(due, ts, seq)

    def leave(self, message: Message, due: float, ts: int) -> Sequence[Message]:
        """A message is complete: what leaves the device now, in order."""
        for window, duplicate, uniform in self._duplicates:
            drawn = uniform.random()
            if window.since(due) is not None and drawn < duplicate.probability and message.repeat_after < 0:
                message.repeat_after = duplicate.after
        leaving = [message]
        for window, malformed, uniform in self._malformed:
            drawn, form = uniform.random(), uniform.random()
            if window.since(due) is not None and drawn < malformed.probability:
                leaving.append(self._break(malformed, form, ts))
        active = [each for each in self._reorders if each[0].since(due) is not None]
        if not active:
            return [*self.release(), *leaving]
        self._held += leaving
        _, reorder, uniform = active[0]
        if len(self._held) < reorder.window:
            return ()
        _shuffle(self._held, uniform)
        return self.release()

    def release(self) -> Sequence[Message]:
        """Let go of what waits for others, as it is."""
        held, self._held = self._held, []
        return held

    @property
    def holds_messages(self) -> bool:
        """Whether messages wait for others of their window."""
        return bool(self._held)

    def _break(self, malformed: Malformed, drawn: float, ts: int) -> Message:
        forms = malformed.forms or tuple(FORMS)
        self._broken += 1
        token = f"broken-{self._seed}-{self._thing_name}-{self._broken}"
        text = payload(forms[int(drawn * len(forms))], token=token, ts=ts)
        return Message(self._device, text, kind=MessageKind.MALFORMED)


def _next(events: Iterator[Event]) -> Event | None:
    return next(events, None)


def _outages(behaviour: Behaviour, delay: float, number: int, *, abrupt: bool) -> Iterator[Event]:
    for begin, end in occurrences(behaviour, delay):
        yield Event(begin, number, Change.DOWN, abrupt)
        if end == inf:
            return
        yield Event(end, number, Change.UP)


def _reboots(behaviour: Reboot, delay: float, number: int) -> Iterator[Event]:
    for begin, end in occurrences(behaviour, delay):
        yield Event(begin, number, Change.REBOOT, keep_backlog=behaviour.keep_backlog, up_at=end)
        yield Event(end, number, Change.UP)


def _revocation(behaviour: Revoke, delay: float, number: int) -> Iterator[Event]:
    at = behaviour.at_seconds + delay
    lost_at = at + behaviour.reconnect_seconds
    yield Event(at, number, Change.REVOKE)
    yield Event(lost_at, number, Change.DOWN)
    yield Event(lost_at + 1.0, number, Change.UP)


def _shuffle(messages: list[Message], uniform: random.Random) -> None:
    for last in range(len(messages) - 1, 0, -1):
        other = int(uniform.random() * (last + 1))
        messages[last], messages[other] = messages[other], messages[last]
