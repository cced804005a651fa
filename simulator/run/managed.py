"""The management side of a run's devices, driven: shadow, jobs and last words go out over the devices' own links.

What fails here is counted and never keeps telemetry from being sent.
"""

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from math import inf

from simulator.devices.device import Device
from simulator.devices.link import Link
from simulator.devices.management import Management, Packet, Restart, Send, Subscribe

FAREWELL_SECONDS = 2.0
"""How long a device's last words may take before its link is stopped all the same."""


class ManagedDevices:
    """Every managed device's state machine. All but `on_message` belongs to the scheduler's thread."""

    def __init__(self, managements: Mapping[int, Management]) -> None:
        self._managements = managements
        self._messages: deque[tuple[int, str, bytes]] = deque()
        self._ticks: list[tuple[float, int]] = []
        """When a device's next step may be due; an entry may be out of date."""
        self._leaving: dict[int, float] = {}
        """Devices that say their last words, and until when these are waited for."""
        self._unanswered: dict[int, int] = dict.fromkeys(managements, 0)
        self._returning: set[int] = set()
        self.failures = 0
        """Packets that were refused or broke off with the connection."""

    @property
    def active(self) -> bool:
        """Whether any device is managed."""
        return bool(self._managements)

    def will(self, index: int) -> tuple[str, bytes] | None:
        """Topic and payload of a device's last will."""
        management = self._managements.get(index)
        return management.will() if management else None

    def on_message(self, index: int, topic: str, payload: bytes) -> None:
        """A message for a device; may be called from any thread."""
        self._messages.append((index, topic, payload))

    def connected(self, index: int, link: Link, now: float) -> None:
        """Say what a device says first."""
        management = self._managements.get(index)
        if management:
            self._unanswered[index] = 0
            self._do(index, link, management.connected(), now)

    def leave(self, index: int, link: Link, now: float) -> None:
        """Say a device's last words; its link is to be stopped when `step` says so."""
        management = self._managements.get(index)
        if management and index not in self._leaving:
            self._leaving[index] = now + FAREWELL_SECONDS
            self._returning.discard(index)
            self._do(index, link, management.disconnecting(), now)

    def is_leaving(self, index: int) -> bool:
        """Whether the device is saying its last words."""
        return index in self._leaving

    def come_back(self, index: int) -> None:
        """Let a device that is leaving be connected again after that."""
        self._returning.add(index)

    def sent(self, index: int, *, failed: bool) -> None:
        """A packet was acknowledged or failed."""
        self.failures += failed
        self._unanswered[index] = max(0, self._unanswered.get(index, 0) - 1)

    def step(self, now: float, device: Callable[[int], Device]) -> list[tuple[int, bool]]:
        """Take messages and steps that are due.

        Returns the devices whose links are to be stopped now, and whether each is to be started again after that.
        """
        stops: list[tuple[int, bool]] = []
        while self._messages:
            index, topic, payload = self._messages.popleft()
            stops += self._perform(index, device(index), self._managements[index].received(topic, payload, now), now)
        while self._ticks and self._ticks[0][0] <= now:
            index = heappop(self._ticks)[1]
            stops += self._perform(index, device(index), self._managements[index].tick(now), now)
        for index in [i for i, until in self._leaving.items() if until <= now or not self._unanswered[i]]:
            del self._leaving[index]
            stops.append((index, index in self._returning))
            self._returning.discard(index)
        return stops

    def _perform(self, index: int, device: Device, packets: list[Packet], now: float) -> list[tuple[int, bool]]:
        if not device.connected or device.link is None:
            return []  # the next connection takes up what is interrupted
        return [(index, True)] if self._do(index, device.link, packets, now) else []

    def _do(self, index: int, link: Link, packets: list[Packet], now: float) -> bool:
        """Hand the packets to the link; returns whether the device reboots."""
        reboots = False
        for packet in packets:
            match packet:
                case Subscribe(topic):
                    self._unanswered[index] += 1
                    link.subscribe(topic)
                case Send(topic, payload):
                    self._unanswered[index] += 1
                    link.send(topic, payload)
                case Restart():
                    reboots = True
        due = self._managements[index].due
        if due != inf:
            heappush(self._ticks, (max(due, now), index))
        return reboots
