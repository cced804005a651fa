"""The fleet's one scheduler: connects the devices at a measured pace, takes their readings, publishes, accounts.

Nothing here waits, sleeps or touches a socket: `step` does what is due and says when to call it again. Links report
from threads of their own; what they say is queued and acted on in `step`, so that all state belongs to one thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from simulator.accounts.account import Account
from simulator.accounts.latency import LatencyHistogram
from simulator.accounts.report import Phase, Progress, RunReport
from simulator.devices.device import Act, Device
from simulator.devices.envelope import Message
from simulator.devices.link import Link
from simulator.devices.management import Management
from simulator.run.links import CONNECTS_AT_A_TIME, Links
from simulator.run.managed import ManagedDevices
from simulator.run.outbox import Clock, Outbox, Recorder
from simulator.run.wheel import TICK_SECONDS, TimingWheel
from simulator.scenario.config import SimulatorConfig

FINISH_SECONDS = 30.0
DISCONNECT_SECONDS = 5.0

IDLE_TICK_SECONDS = 0.02
BUSY_TICK_SECONDS = 0.01
BUSY_READINGS_PER_SECOND = 25_000
"""From here on readings are taken every 10 ms rather than every 2. The connections' thread stands still while they are, since
it needs Python's lock for the next acknowledgement; longer turns for both are worth a tenth of the rate."""
READINGS_PER_STEP = 100
"""So that acknowledgements are seen to even when readings are behind."""
YIELD_SECONDS = 0.0005
"""Pause between steps when readings are behind. Without one Python's lock would pass to the connections' thread, which
needs it for every acknowledgement, only once in 5 ms."""

# As plain numbers: an operation on an IntFlag costs more than a publish.
_PUBLISH, _READING = int(Act.PUBLISH), int(Act.READING)
_GO_OFFLINE, _GO_ONLINE, _REVOKE = int(Act.GO_OFFLINE), int(Act.GO_ONLINE), int(Act.REVOKE)
_BEHAVE = _GO_OFFLINE | _GO_ONLINE | _REVOKE


class NobodyConnectedError(Exception):
    """No device of the fleet came to be connected; the message is what the first one was told."""


class Fleet:
    """The devices of a run, or a worker's share of them. `step` belongs to one thread; `on_` methods to any."""

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
        share: tuple[int, int] = (0, 1),
        may_start: Callable[[], bool] = lambda: True,
        recorder: Recorder | None = None,
        management: Callable[[str], Management] | None = None,
        revoke: Callable[[int], None] = lambda _: None,
        make_device: Callable[..., Device] = Device,
    ) -> None:
        """A `share` (worker, workers) has the devices worker, worker + workers and so on; names are always all names.

        Once all links have answered, readings wait for `may_start`.
        """
        self.config = config
        worker, workers = share
        self._by_index = {
            index: make_device(
                config,
                index,
                thing_names[index],
                fleet_size=len(thing_names),
                first_seq=seq_start.get(thing_names[index], 0),
            )
            for index in range(worker, len(thing_names), workers)
        }
        self.devices = list(self._by_index.values())
        self.phase = Phase.CONNECTING
        self._account = Account()
        self._make_link = link
        self._clock = clock
        self._wall_clock = wall_clock
        self._stop = stop
        self._may_start = may_start
        self._revoke = revoke
        self._aborted = False
        self._duration = inf if config.duration_seconds is None else config.duration_seconds
        self._link_events: deque[tuple[Callable[[int, Device, str], None], int, str]] = deque()
        self._tick_seconds = _tick_seconds(config)
        self._wheel = TimingWheel(self._tick_seconds)
        self._created_at = clock()
        self._outbox = Outbox(config, self._by_index, self._account, clock=clock, recorder=recorder)
        self._links = Links(self._start_link, unthrottled=config.unthrottled, workers=workers, now=self._created_at)
        self._managed = ManagedDevices(
            {index: management(device.thing_name) for index, device in self._by_index.items()} if management else {}
        )
        self._links_answered = 0
        self._started_at = self._stopped_at = self._ended_at = 0.0
        self._started_at_ms = 0
        self._deadline = 0.0
        for index in self._by_index:
            self._links.want(index)

    # What links report, from their threads.

    def on_connected(self, index: int) -> None:
        """A device's connection has been accepted."""
        self._link_events.append((self._connected, index, ""))

    def on_refused(self, index: int, reason: str) -> None:
        """A device's attempt to connect has failed; its link tries again by itself, unless it says that it stopped."""
        self._link_events.append((self._refused, index, reason))

    def on_disconnected(self, index: int) -> None:
        """A device's connection is gone; its link connects again by itself."""
        self._link_events.append((self._disconnected, index, ""))

    def on_stopped(self, index: int) -> None:
        """A link has stopped, as it was told, or because it does not try again by itself."""
        self._link_events.append((self._stopped, index, ""))

    def on_completed(self, message: Message, failure: str | None) -> None:
        """An attempt to publish has ended: acknowledged, or failed for a reason."""
        self._outbox.on_completed(message, failure)

    def on_sent(self, index: int, failure: str | None) -> None:
        """A packet of the device's management has been acknowledged, or has failed."""
        self._link_events.append((self._sent, index, failure or ""))

    def on_message(self, index: int, topic: str, payload: bytes) -> None:
        """A message has come that the device's management subscribed to."""
        self._managed.on_message(index, topic, payload)

    def will(self, index: int) -> tuple[str, bytes] | None:
        """Topic and payload of the device's last will, if it has one."""
        return self._managed.will(index)

    def abort(self) -> None:
        """Disconnect now; what is in flight stays in doubt."""
        self._aborted = True

    # The scheduler.

    @property
    def all_answered(self) -> bool:
        """Whether every device has connected or been refused once."""
        return self._links_answered == len(self.devices)

    def step(self) -> float | None:
        """Do what is due; returns for how many seconds nothing more is, or None when the run is over.

        Raises `NobodyConnectedError`.
        """
        now = self._clock()
        events = self._link_events
        while events:
            handle, index, reason = events.popleft()
            handle(index, self._by_index[index], reason)
        self._outbox.step(now)
        if self._aborted and self.phase not in {Phase.DISCONNECTING, Phase.DONE}:
            self._disconnect(now)
        if self.phase is not Phase.DONE:
            self._links.start_due(now)
            self._manage(now)
        match self.phase:
            case Phase.CONNECTING:
                return self._connect(now)
            case Phase.RUNNING:
                return self._run_due(now)
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
        if self._links_answered >= min(len(self.devices), CONNECTS_AT_A_TIME) and not self._ever_connected():
            raise NobodyConnectedError(self._first_refusal())
        if self.all_answered and self._may_start():
            self._start(now)
            return 0
        return TICK_SECONDS

    def _start(self, now: float) -> None:
        self.phase = Phase.RUNNING
        self._started_at = now
        self._outbox.epoch = self._wall_clock() - now
        start = self.config.start
        self._started_at_ms = int((now + self._outbox.epoch if start is None else start.timestamp()) * 1000)
        for index, device in self._by_index.items():
            if device.due < self._duration:
                self._wheel.add(device.due, index)

    def _run_due(self, now: float) -> float:
        elapsed, wheel = now - self._started_at, self._wheel
        if self._stop.is_set() or not wheel.count:
            self._end(now)
            return 0
        taken = 0
        while due := wheel.take(elapsed):
            self._take(due, elapsed)
            taken += len(due)
            if taken >= READINGS_PER_STEP:
                return YIELD_SECONDS
        tick = self._tick_seconds
        return tick if taken else max(tick, wheel.quiet_seconds(elapsed, self._tick()))

    def _take(self, indices: Sequence[int], elapsed: float) -> None:
        """Do the event that is due of each of these devices. This and what it calls is the hot path of a run."""
        wheel, account, by_index, duration = self._wheel, self._account, self._by_index, self._duration
        outbox = self._outbox
        started_at_ms = self._started_at_ms
        for index in indices:
            device = by_index[index]
            late = elapsed - device.due
            if late > account.behind_seconds:  # noqa: PLR1730 -- max() costs three times as much
                account.behind_seconds = late
            act = int(device.take(started_at_ms))
            due = device.due
            if due < duration:
                wheel.add(due, index)
            if act & _READING:
                account.readings_generated += 1
            if act & _PUBLISH:
                outbox.publish(device)
                if device.backlog or device.dropped:
                    outbox.drop_overflow(device)
            if act & _BEHAVE:
                self._behave(index, device, act)

    def _behave(self, index: int, device: Device, act: int) -> None:
        if act & _REVOKE:
            self._revoke(index)
        if act & _GO_OFFLINE:
            self._take_offline(index, device, abrupt=device.abrupt)
        if act & _GO_ONLINE:
            if self._managed.is_leaving(index):
                self._managed.come_back(index)
            else:
                self._links.want(index)

    def _take_offline(self, index: int, device: Device, *, abrupt: bool) -> None:
        if not abrupt and device.connected and device.link is not None:
            self._managed.leave(index, device.link, self._clock())
        if not self._managed.is_leaving(index):
            self._links.drop(device, index, abrupt=abrupt)
        self._offline(device)

    def _end(self, now: float) -> None:
        self.phase = Phase.FINISHING
        self._stopped_at = now
        self._deadline = now + FINISH_SECONDS
        for index, device in self._by_index.items():
            self._behave(index, device, int(device.finish()))
            device.flush()
            self._outbox.publish(device)

    def _finish(self, now: float) -> float:
        # A device that never got through is not waited for: its certificate will not become valid in these seconds.
        if now >= self._deadline or all(
            device.settled for device in self.devices if device.was_connected and not device.revoked
        ):
            self._disconnect(now)
            return 0
        return self._tick()

    def _disconnect(self, now: float) -> None:
        if self.phase is Phase.CONNECTING:
            self._start(now)
        if self.phase is Phase.RUNNING:
            self._stopped_at = now
        self.phase = Phase.DISCONNECTING
        self._outbox.closed = True
        self._ended_at = now
        self._deadline = now + DISCONNECT_SECONDS
        self._links.close()
        for index, device in self._by_index.items():
            self._take_offline(index, device, abrupt=False)

    def _await_stopped(self, now: float) -> float:
        if self._links.all_stopped or now >= self._deadline:
            self.phase = Phase.DONE
            self._outbox.settle_the_rest()
            for device in self.devices:
                device.link = None  # or the connections would live as long as this account of them
            return 0
        return TICK_SECONDS

    def _tick(self) -> float:
        waiting = self._account.messages_published > self._account.messages_acknowledged
        return TICK_SECONDS if waiting else IDLE_TICK_SECONDS

    # What becomes of links and messages.

    def _start_link(self, index: int) -> None:
        device = self._by_index[index]
        if device.link is None:
            device.link = self._make_link(self, index)
        device.link.start()

    def _connected(self, index: int, device: Device, _: str) -> None:
        self._answered(index, device, accepted=True)
        if not self._links.is_wanted(index) or self.phase is Phase.DISCONNECTING:
            return  # it had been told to stop when it got through
        self._account.connected += not device.connected
        self._account.reconnects += device.was_connected
        device.connected = device.was_connected = True
        device.refusal = None
        if device.link is not None:
            self._managed.connected(index, device.link, self._clock())
        self._outbox.publish(device)

    def _refused(self, index: int, device: Device, reason: str) -> None:
        device.refusal = reason
        self._answered(index, device, accepted=False)

    def _answered(self, index: int, device: Device, *, accepted: bool) -> None:
        self._links.answered(index, accepted=accepted)
        self._links_answered += not device.answered
        device.answered = True

    def _disconnected(self, _: int, device: Device, __: str) -> None:
        self._offline(device)

    def _offline(self, device: Device) -> None:
        self._account.connected -= device.connected
        device.connected = False

    def _stopped(self, index: int, device: Device, _: str) -> None:
        self._offline(device)
        self._links.stopped(index, self._clock())

    def _sent(self, index: int, _: Device, failure: str) -> None:
        self._managed.sent(index, failed=bool(failure))

    def _manage(self, now: float) -> None:
        if not self._managed.active:
            return
        for index, returns in self._managed.step(now, self._by_index.__getitem__):
            device = self._by_index[index]
            self._links.drop(device, index, abrupt=False)
            self._offline(device)
            if returns:
                self._links.want(index)

    def _ever_connected(self) -> bool:
        return any(device.was_connected for device in self.devices)

    def _first_refusal(self) -> str | None:
        return _first_of([device for device in self.devices if device.refusal and not device.was_connected])

    # What is told of it.

    def progress(self) -> tuple[Progress, LatencyHistogram]:
        """How it stands, and the latencies since about the last call. May be called from another thread than `step`."""
        recent = self._account.take_recent_latency()
        elapsed = 0.0 if self.phase is Phase.CONNECTING else self._clock() - self._started_at
        return Progress(
            **self._counts(self._account.connected),
            phase=self.phase.value,
            elapsed_seconds=elapsed,
            ack_p50_ms=recent.percentile_ms(50),
            ack_p95_ms=recent.percentile_ms(95),
            behind_seconds=self._account.behind_seconds,
        ), recent

    def _counts(self, connected: int) -> dict[str, Any]:
        counts = self._account.counts(devices=len(self.devices), connected=connected)
        return {**asdict(counts), "management_failures": self._managed.failures}

    @property
    def latency(self) -> LatencyHistogram:
        """How long acknowledgements took."""
        return self._account.latency

    def report(self) -> RunReport:
        """The account of a run that is over."""
        account = self._account
        shut_out = [each for each in self.devices if each.refusal and each.was_connected and not each.revoked]
        ever_connected = sum(device.was_connected for device in self.devices)
        started_at = datetime.fromtimestamp(self._started_at_ms / 1000, UTC)
        return RunReport(
            **self._counts(ever_connected),
            malformed_excused=self._outbox.malformed_excused(),
            readings_excused=self._outbox.readings_excused(),
            started_at=started_at,
            ended_at=started_at + timedelta(seconds=self._ended_at - self._started_at),
            run_seconds=self._stopped_at - self._started_at,
            connect_seconds=self._started_at - self._created_at,
            seed=self.config.seed,
            not_connected=len(self.devices) - ever_connected,
            first_connect_failure=self._first_refusal(),
            shut_out=len(shut_out),
            first_shut_out=_first_of(shut_out),
            first_publish_failure=account.first_publish_failure,
            ack_p50_ms=account.latency.percentile_ms(50),
            ack_p95_ms=account.latency.percentile_ms(95),
            ack_max_ms=account.latency.max_seconds * 1000 if account.latency.count else None,
            behind_seconds=account.behind_seconds,
            acknowledged={device.thing_name: device.acknowledged.as_tuple() for device in self.devices},
            published={device.thing_name: device.published.as_tuple() for device in self.devices},
        )


def _first_of(refused: Sequence[Device]) -> str | None:
    return f"{refused[0].thing_name}: {refused[0].refusal}" if refused else None


def _tick_seconds(config: SimulatorConfig) -> float:
    """How far apart the moments are at which readings are taken, by the rate of the whole fleet."""
    rate = config.device_count / config.interval_seconds
    return BUSY_TICK_SECONDS if rate >= BUSY_READINGS_PER_SECOND else TICK_SECONDS
