"""The connections of a fleet: started at a measured pace, stopped and started again as devices come and go."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from simulator.devices.device import Device
from simulator.run.pacing import TokenBucket

# https://docs.aws.amazon.com/general/latest/gr/iot-core.html: 500 connects/s per account (reconnects count too).
CONNECTS_PER_SECOND = 300
CONNECTS_AT_A_TIME = 100
UNTHROTTLED_CONNECTS_PER_SECOND = 5_000
RESTART_SECONDS = (1.0, 30.0)
"""Pause before a link that gave up by itself is started again: the first, doubled each time, and the longest."""


class Links:
    """Which links are under way, open or on their way down. Belongs to the scheduler's thread."""

    def __init__(self, start: Callable[[int], None], *, unthrottled: bool, workers: int, now: float) -> None:
        """`start` starts the link of a device by its index. The pace is shared by so many worker processes."""
        rate = UNTHROTTLED_CONNECTS_PER_SECOND if unthrottled else CONNECTS_PER_SECOND
        self._start = start
        self._at_a_time = max(1, CONNECTS_AT_A_TIME // workers)
        self._bucket = TokenBucket(rate_per_second=rate / workers, burst=self._at_a_time, now=now)
        self._waiting: deque[int] = deque()
        self._restarts: list[tuple[float, int]] = []
        self._failures: dict[int, int] = {}
        self._under_way: set[int] = set()
        self._open: set[int] = set()
        self._stopping: set[int] = set()
        self._wanted: set[int] = set()
        self._closing = False

    @property
    def all_stopped(self) -> bool:
        """Whether no link is left that has been started and has not said that it has stopped."""
        return not self._open

    def is_wanted(self, index: int) -> bool:
        """Whether the device is to be connected."""
        return index in self._wanted

    def want(self, index: int) -> None:
        """Start the device's link as soon as the pace, and its own stopping, allow."""
        if self._closing or index in self._wanted:
            return
        self._wanted.add(index)
        if index not in self._stopping:
            self._waiting.append(index)

    def start_due(self, now: float) -> None:
        """Start links, as many as may be under way and the pace allows."""
        while self._restarts and self._restarts[0][0] <= now:
            self._waiting.append(heappop(self._restarts)[1])
        while self._waiting and len(self._under_way) < self._at_a_time and self._bucket.take(now):
            index = self._waiting.popleft()
            if index in self._wanted and index not in self._open:
                self._under_way.add(index)
                self._open.add(index)
                self._start(index)

    def answered(self, index: int, *, accepted: bool) -> None:
        """An attempt to connect has come to an end."""
        self._under_way.discard(index)
        if accepted:
            self._failures.pop(index, None)

    def drop(self, device: Device, index: int, *, abrupt: bool) -> None:
        """Stop the device's link until it is wanted again; abruptly, so that the broker sends its last will."""
        self._wanted.discard(index)
        if index in self._open and index not in self._stopping and device.link is not None:
            self._stopping.add(index)
            if abrupt:
                device.link.stop(abrupt=True)
            else:
                device.link.stop()

    def close(self) -> None:
        """Start no link any more."""
        self._closing = True
        self._waiting.clear()
        self._restarts.clear()

    def stopped(self, index: int, now: float) -> None:
        """A link has stopped: as told, or because it gave up."""
        self._open.discard(index)
        self._under_way.discard(index)
        told = index in self._stopping
        self._stopping.discard(index)
        if self._closing or index not in self._wanted:
            return
        if told:
            self._waiting.append(index)
            return
        failures = self._failures[index] = self._failures.get(index, 0) + 1
        first, longest = RESTART_SECONDS
        heappush(self._restarts, (now + min(longest, first * 2.0 ** min(failures - 1, 10)), index))
