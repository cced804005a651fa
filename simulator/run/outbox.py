"""What a fleet has sent, or is to send: handed to links within AWS's limits, acknowledged, sent again, accounted for."""

from collections import deque
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import Protocol

from simulator.accounts.account import Account
from simulator.devices.device import Device
from simulator.devices.envelope import Message, MessageKind
from simulator.run.pacing import TokenBucket
from simulator.scenario.config import AWS_PUBLISHES_PER_SECOND, SimulatorConfig

# https://docs.aws.amazon.com/general/latest/gr/iot-core.html: 100 unacknowledged QoS 1 messages per client.
AWS_UNACKNOWLEDGED = 100
UNTHROTTLED_UNACKNOWLEDGED = 1_000

RETRY_SECONDS = (0.25, 8.0)
"""Pause before a failed message is sent again: the first, doubled each time, and the longest."""

# As plain numbers: an operation on an IntFlag costs more than a publish.
_TELEMETRY, _MALFORMED = int(MessageKind.TELEMETRY), int(MessageKind.MALFORMED)

Clock = Callable[[], float]


class Recorder(Protocol):
    """Is told once, in the scheduler's thread, what became of each message."""

    def settled(self, message: Message, acknowledged_at: float | None) -> None:
        """Acknowledged at this time (seconds since the epoch), or never."""

    def step(self, now: float) -> None:
        """Is called now and then, with the scheduler's clock, so that what it has been told is not kept for long."""


class Outbox:
    """The messages of a fleet. Belongs to the scheduler's thread, but for `on_completed`."""

    def __init__(
        self,
        config: SimulatorConfig,
        devices: Mapping[int, Device],
        account: Account,
        *,
        clock: Clock,
        recorder: Recorder | None,
    ) -> None:
        """Of the devices by index. All times are of `clock`, but for what a recorder is told."""
        self.epoch = 0.0
        """What makes a time of `clock` one since 1970; set when the run begins, before which nothing is sent."""
        self.closed = False
        """Nothing more is handed to a link: what is in flight from here on "fails", which is nobody's fault."""
        self._by_index = devices
        self._account = account
        self._clock = clock
        self._recorder = recorder
        self._readings_of = dict.fromkeys(devices, 0)
        """Readings acknowledged, by device."""
        self._malformed_open = dict.fromkeys(devices, 0)
        """Malformed messages published and not acknowledged, by device."""
        # For a recorder, what is published and not settled. Answers come in the order of sending, but for those that a set
        # is for: at 200,000 messages in flight one of all of them would cost more than anything else that a recorder does.
        self._sent: dict[int, deque[Message]] = {index: deque() for index in devices}
        """By device, sent once; in front of those that are `listed` there are none that are not."""
        self._failed: set[Message] = set()
        """Sent again, or to be."""
        self._window = UNTHROTTLED_UNACKNOWLEDGED if config.unthrottled else AWS_UNACKNOWLEDGED
        self._completions: deque[tuple[Message, str | None, float]] = deque()
        # The MQTT 5 client keeps to AWS's rates by itself. Envelopes of 5,000 bytes at this rate are below 512 KB/s.
        paced = config.protocol == "mqtt311" and not config.unthrottled
        self._pace = {device: _aws_pace(clock()) for device in devices.values()} if paced else {}
        self._held_back: set[Device] = set()
        """Devices with something to send that have used up their rate."""
        self._retries: list[tuple[float, int, Message]] = []
        """When to send it again, a number that keeps their order, and the message: a heap."""

    def on_completed(self, message: Message, failure: str | None) -> None:
        """An attempt to publish has ended: acknowledged, or failed for a reason. May be called from any thread."""
        self._completions.append((message, failure, self._clock()))

    def step(self, now: float) -> None:
        """Account for what has been acknowledged or has failed; send what is due again, or was held back."""
        completions, retries = self._completions, self._retries
        while completions:
            self._complete(*completions.popleft())
        while retries and retries[0][0] <= now:
            self._send_again(heappop(retries)[2])
        for device in tuple(self._held_back):
            self._held_back.discard(device)
            self.publish(device)
        if self._recorder:
            self._recorder.step(now)

    def publish(self, device: Device) -> None:
        """Hand the device's messages to its link, as many as may be in flight. Part of the hot path of a run."""
        link = device.link
        if link is None or self.closed:
            return
        pace = self._pace.get(device) if self._pace else None
        while device.connected and device.in_flight < self._window:
            if pace is not None and not self._is_in_pace(device, pace):
                return
            message = device.next_message()
            if message is None:
                return
            self._account.publishing(message)
            message.sent_at = now = self._clock()
            if not message.attempts:
                message.first_sent_at = now + self.epoch
                if message.kind == _MALFORMED:
                    self._malformed_open[message.device] += 1
                if self._recorder:
                    message.listed = True
                    self._sent[message.device].append(message)
            message.attempts += 1
            device.in_flight += 1
            link.publish(message)
            if not device.has_more:
                return

    def drop_overflow(self, device: Device) -> None:
        """Give up what the device's buffer does not hold, or a reboot has lost."""
        self._account.readings_dropped += device.drop_overflow()
        if device.dropped:
            if self._recorder:
                for message in device.dropped:
                    self._recorder.settled(message, None)
            device.dropped.clear()

    def settle_the_rest(self) -> None:
        """At the end of a run: whatever was not acknowledged never was."""
        if self._recorder is None:
            return
        in_doubt = [message for sent in self._sent.values() for message in sent if message.listed]
        for message in (*in_doubt, *self._failed):
            self._recorder.settled(message, None)
        self._sent.clear()
        self._failed.clear()
        for device in self._by_index.values():
            device.flush()
            for message in device.backlog:
                self._recorder.settled(message, None)

    def readings_excused(self) -> int:
        """Generated and not acknowledged, by devices that a scenario revoked or made lose them."""
        return sum(
            device.generated - self._readings_of[index] if device.revoked else device.lost_on_purpose
            for index, device in self._by_index.items()
        )

    def malformed_excused(self) -> int:
        """Malformed messages not acknowledged, by devices that a scenario revoked."""
        return sum(self._malformed_open[index] for index, device in self._by_index.items() if device.revoked)

    def _is_in_pace(self, device: Device, pace: TokenBucket) -> bool:
        if device.settled or pace.take(self._clock()):
            return True
        self._held_back.add(device)
        return False

    def _complete(self, message: Message, failure: str | None, at: float) -> None:
        device = self._by_index[message.device]
        device.in_flight -= 1
        if failure is None:
            if message.kind == _TELEMETRY:
                device.acknowledged.add(message.first_seq, message.last_seq)
                self._readings_of[message.device] += message.readings
            elif message.kind == _MALFORMED:
                self._malformed_open[message.device] -= 1
            self._account.acknowledged(message, at - message.sent_at)
            if self._recorder:
                self._unlist(message)
                self._failed.discard(message)
                self._recorder.settled(message, at + self.epoch)
            if device.backlog or device.resend or device.finished:
                self.publish(device)
        elif not self.closed:
            self._account.failed(failure)
            first, longest = RETRY_SECONDS
            pause = min(longest, first * 2 ** min(message.attempts - 1, 10))
            heappush(self._retries, (at + pause, self._account.publish_failures, message))
            device.retrying += 1
            if self._recorder:
                self._unlist(message)
                self._failed.add(message)

    def _unlist(self, message: Message) -> None:
        message.listed = False
        sent = self._sent[message.device]
        while sent and not sent[0].listed:
            sent.popleft()

    def _send_again(self, message: Message) -> None:
        device = self._by_index[message.device]
        device.retrying -= 1
        device.resend.append(message)
        self.publish(device)


def _aws_pace(now: float) -> TokenBucket:
    return TokenBucket(rate_per_second=AWS_PUBLISHES_PER_SECOND, burst=1, now=now)
