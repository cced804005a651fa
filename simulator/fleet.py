"""The fleet's one scheduler: connects the devices at a measured pace, takes their readings, publishes, accounts.

Nothing here waits, sleeps or touches a socket: `step` does what is due and says when to call it again. Links report
from threads of their own; what they say is queued and acted on in `step`, so that all state belongs to one thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from simulator.account import Account
from simulator.config import SimulatorConfig
from simulator.device import Device, Link
from simulator.envelope import Message
from simulator.pacing import TokenBucket
from simulator.report import Progress, RunReport

# https://docs.aws.amazon.com/general/latest/gr/iot-core.html: 500 connects/s per account (reconnects count too), 100
# unacknowledged QoS 1 messages per client.
CONNECTS_PER_SECOND = 300
CONNECTS_AT_A_TIME = 100
AWS_UNACKNOWLEDGED = 100
UNTHROTTLED_UNACKNOWLEDGED = 1_000

FINISH_SECONDS = 30.0
DISCONNECT_SECONDS = 5.0
RETRY_SECONDS = (0.25, 8.0)
"""Pause before a failed message is sent again: the first, doubled each time, and the longest."""

TICK_SECONDS = 0.002
IDLE_TICK_SECONDS = 0.02
READINGS_PER_STEP = 500
"""So that acknowledgements are seen to even when readings are behind."""

Clock = Callable[[], float]


class Phase(StrEnum):
    """Where a run is."""

    CONNECTING = "connecting"
    RUNNING = "running"
    FINISHING = "finishing"
    DISCONNECTING = "disconnecting"
    DONE = "done"


class NobodyConnectedError(Exception):
    """No device of the fleet came to be connected; the message is what the first one was told."""


class Fleet:
    """All devices of a run. `step` belongs to one thread; the `on_` methods may be called from any."""

    def __init__(
        self,
        config: SimulatorConfig,
        thing_names: Sequence[str],
        *,
        link: Callable[["Fleet", int], Link],
        clock: Clock,
        wall_clock: Clock,
        stop: threading.Event,
        seq_start: Mapping[str, int],
    ) -> None:
        self.config = config
        self.devices = [
            Device(config, index, name, fleet_size=len(thing_names), first_seq=seq_start.get(name, 0))
            for index, name in enumerate(thing_names)
        ]
        self.phase = Phase.CONNECTING
        self._account = Account()
        self._link = link
        self._clock = clock
        self._wall_clock = wall_clock
        self._stop = stop
        self._aborted = False
        self._window = UNTHROTTLED_UNACKNOWLEDGED if config.unthrottled else AWS_UNACKNOWLEDGED
        self._duration = inf if config.duration_seconds is None else config.duration_seconds
        self._link_events: deque[tuple[Callable[[Device, str], None], int, str]] = deque()
        self._completions: deque[tuple[Message, str | None, float]] = deque()
        self._due: list[tuple[float, int]] = []
        """Of each device, when its next reading is due, in seconds since the start, and its index: a heap."""
        self._retries: list[tuple[float, int, Message]] = []
        """When to send it again, a number that keeps their order, and the message: a heap."""
        self._bucket = TokenBucket(rate_per_second=CONNECTS_PER_SECOND, burst=CONNECTS_AT_A_TIME, now=clock())
        self._links_started = self._links_answered = self._links_stopped = 0
        self._created_at = clock()
        self._started_at = self._stopped_at = self._ended_at = 0.0
        self._started_at_ms = 0
        self._deadline = 0.0

    # What links report, from their threads.

    def on_connected(self, index: int) -> None:
        """A device's connection has been accepted."""
        self._link_events.append((self._connected, index, ""))

    def on_refused(self, index: int, reason: str) -> None:
        """A device's attempt to connect has failed; its link tries again by itself."""
        self._link_events.append((self._refused, index, reason))

    def on_disconnected(self, index: int) -> None:
        """A device's connection is gone; its link connects again by itself."""
        self._link_events.append((self._disconnected, index, ""))

    def on_stopped(self, index: int) -> None:
        """A link that was told to stop has stopped."""
        self._link_events.append((self._stopped, index, ""))

    def on_completed(self, message: Message, failure: str | None) -> None:
        """An attempt to publish has ended: acknowledged, or failed for a reason."""
        self._completions.append((message, failure, self._clock()))

    def abort(self) -> None:
        """Disconnect now; what is in flight stays in doubt."""
        self._aborted = True

    # The scheduler.

    def step(self) -> float | None:
        """Do what is due; returns for how many seconds nothing more is, or None when the run is over.

        Raises `NobodyConnectedError`.
        """
        now = self._clock()
        while self._link_events:
            handle, index, reason = self._link_events.popleft()
            handle(self.devices[index], reason)
        while self._completions:
            self._complete(*self._completions.popleft())
        while self._retries and self._retries[0][0] <= now:
            self._send_again(heappop(self._retries)[2])
        if self._aborted and self.phase not in {Phase.DISCONNECTING, Phase.DONE}:
            self._disconnect(now)
        match self.phase:
            case Phase.CONNECTING:
                return self._connect(now)
            case Phase.RUNNING:
                return self._take_readings(now)
            case Phase.FINISHING:
                return self._finish(now)
            case Phase.DISCONNECTING:
                return self._await_stopped(now)
            case Phase.DONE:
                return None

    def _connect(self, now: float) -> float:
        if self._stop.is_set():
            self._start(now)
            return 0
        while (
            self._links_started < len(self.devices)
            and self._links_started - self._links_answered < CONNECTS_AT_A_TIME
            and self._bucket.take(now)
        ):
            device = self.devices[self._links_started]
            device.link = self._link(self, self._links_started)
            self._links_started += 1
            device.link.start()
        if self._links_answered >= min(len(self.devices), CONNECTS_AT_A_TIME) and not self._ever_connected():
            raise NobodyConnectedError(self._first_refusal())
        if self._links_answered == len(self.devices):
            self._start(now)
            return 0
        return TICK_SECONDS

    def _start(self, now: float) -> None:
        self.phase = Phase.RUNNING
        self._started_at = now
        self._started_at_ms = int(self._wall_clock() * 1000)
        self._due = [(device.due, index) for index, device in enumerate(self.devices) if device.due < self._duration]
        heapify(self._due)

    def _take_readings(self, now: float) -> float:
        elapsed, due = now - self._started_at, self._due
        for _ in range(READINGS_PER_STEP):
            if self._stop.is_set() or not due:
                self._end(now)
                return 0
            was_due, index = due[0]
            if was_due > elapsed:
                # Never shorter than a tick: waking up costs more than a reading, so a tick's readings are taken together.
                return max(TICK_SECONDS, min(was_due - elapsed, self._tick()))
            self._account.behind_seconds = max(self._account.behind_seconds, elapsed - was_due)
            device = self.devices[index]
            complete = device.take_reading(self._started_at_ms)
            self._account.readings_generated += 1
            if device.due < self._duration:
                heapreplace(due, (device.due, index))
            else:
                heappop(due)
            if complete:
                self._publish(device)
                self._account.readings_dropped += device.drop_overflow()
        return 0

    def _end(self, now: float) -> None:
        self.phase = Phase.FINISHING
        self._stopped_at = now
        self._deadline = now + FINISH_SECONDS
        for device in self.devices:
            if device.flush():
                self._publish(device)

    def _finish(self, now: float) -> float:
        # A device that never got through is not waited for: its certificate will not become valid in these seconds.
        if now >= self._deadline or all(device.settled for device in self.devices if device.was_connected):
            self._disconnect(now)
            return 0
        return self._tick()

    def _disconnect(self, now: float) -> None:
        if self.phase is Phase.CONNECTING:
            self._start(now)
        if self.phase is Phase.RUNNING:
            self._stopped_at = now
        self.phase = Phase.DISCONNECTING
        self._ended_at = now
        self._deadline = now + DISCONNECT_SECONDS
        for device in self.devices:
            if device.link is not None:
                device.link.stop()

    def _await_stopped(self, now: float) -> float:
        if self._links_stopped == self._links_started or now >= self._deadline:
            self.phase = Phase.DONE
            for device in self.devices:
                device.link = None  # or the connections would live as long as this account of them
            return 0
        return TICK_SECONDS

    def _tick(self) -> float:
        waiting = self._account.messages_published > self._account.messages_acknowledged
        return TICK_SECONDS if waiting else IDLE_TICK_SECONDS

    # What becomes of links and messages.

    def _connected(self, device: Device, _: str) -> None:
        self._answered(device)
        self._account.connected += 1
        self._account.reconnects += device.was_connected
        device.connected = device.was_connected = True
        self._publish(device)

    def _refused(self, device: Device, reason: str) -> None:
        if not device.answered:
            device.refusal = reason
        self._answered(device)

    def _answered(self, device: Device) -> None:
        self._links_answered += not device.answered
        device.answered = True

    def _disconnected(self, device: Device, _: str) -> None:
        self._account.connected -= device.connected
        device.connected = False

    def _stopped(self, _: Device, __: str) -> None:
        self._links_stopped += 1

    def _ever_connected(self) -> bool:
        return any(device.was_connected for device in self.devices)

    def _first_refusal(self) -> str | None:
        left_out = (device for device in self.devices if device.refusal and not device.was_connected)
        return next((f"{device.thing_name}: {device.refusal}" for device in left_out), None)

    def _publish(self, device: Device) -> None:
        link = device.link
        if link is None or self.phase is Phase.DISCONNECTING:
            return
        while device.connected and device.in_flight < self._window:
            message = device.next_message()
            if message is None:
                return
            self._account.publishing(message)
            message.attempts += 1
            message.sent_at = self._clock()
            device.in_flight += 1
            link.publish(message)

    def _complete(self, message: Message, failure: str | None, at: float) -> None:
        device = self.devices[message.device]
        device.in_flight -= 1
        if failure is None:
            device.acknowledged.add(message.first_seq, message.last_seq)
            self._account.acknowledged(message, at - message.sent_at)
            self._publish(device)
        elif self.phase is not Phase.DISCONNECTING:
            # Once links are told to stop, whatever is in flight "fails", which is nobody's fault.
            self._account.failed(failure)
            first, longest = RETRY_SECONDS
            pause = min(longest, first * 2 ** min(message.attempts - 1, 10))
            heappush(self._retries, (at + pause, self._account.publish_failures, message))
            device.retrying += 1

    def _send_again(self, message: Message) -> None:
        device = self.devices[message.device]
        device.retrying -= 1
        device.resend.append(message)
        self._publish(device)

    # What is told of it.

    def progress(self) -> Progress:
        """How it stands; latencies are those since about the last call. May be called from another thread than `step`."""
        recent = self._account.take_recent_latency()
        elapsed = 0.0 if self.phase is Phase.CONNECTING else self._clock() - self._started_at
        return Progress(
            **asdict(self._account.counts(devices=len(self.devices), connected=self._account.connected)),
            phase=self.phase.value,
            elapsed_seconds=elapsed,
            ack_p50_ms=recent.percentile_ms(50),
            ack_p95_ms=recent.percentile_ms(95),
            behind_seconds=self._account.behind_seconds,
        )

    def report(self) -> RunReport:
        """The account of a run that is over."""
        account = self._account
        ever_connected = sum(device.was_connected for device in self.devices)
        started_at = datetime.fromtimestamp(self._started_at_ms / 1000, UTC)
        return RunReport(
            **asdict(account.counts(devices=len(self.devices), connected=ever_connected)),
            started_at=started_at,
            ended_at=started_at + timedelta(seconds=self._ended_at - self._started_at),
            run_seconds=self._stopped_at - self._started_at,
            connect_seconds=self._started_at - self._created_at,
            seed=self.config.seed,
            not_connected=len(self.devices) - ever_connected,
            first_connect_failure=self._first_refusal(),
            first_publish_failure=account.first_publish_failure,
            ack_p50_ms=account.latency.percentile_ms(50),
            ack_p95_ms=account.latency.percentile_ms(95),
            ack_max_ms=account.latency.max_seconds * 1000 if account.latency.count else None,
            behind_seconds=account.behind_seconds,
            acknowledged={device.thing_name: device.acknowledged.as_tuple() for device in self.devices},
            published={device.thing_name: device.published.as_tuple() for device in self.devices},
        )
