"""The scheduler and its accounts, in virtual time and against links that do what a test tells them."""

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.accounts.report import Phase, RunReport
from simulator.devices.device import Act, Device
from simulator.devices.envelope import Message
from simulator.devices.management import Management
from simulator.run import fleet as fleet_module
from simulator.run.fleet import FINISH_SECONDS, YIELD_SECONDS, Fleet, NobodyConnectedError
from simulator.run.links import CONNECTS_AT_A_TIME, CONNECTS_PER_SECOND
from simulator.scenario.config import SimulatorConfig

START = 1_795_219_200.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Attempt:
    at: float
    device: int
    message: Message


@dataclass
class ScriptedBroker:
    """Takes every message at once, unless it is told otherwise."""

    clock: Clock
    refused: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    """Devices whose attempt to connect comes to no end."""
    on_publish: Callable[[Attempt], str | None] | None = None
    """Returns a failure, None for an acknowledgement, or raises `Held` to keep the sender waiting."""
    started: list[tuple[float, int]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    abrupt: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    sent: list[tuple[int, str, bytes]] = field(default_factory=list)
    """What the devices' management sent."""
    send_failure: str | None = None
    held: deque[Message] = field(default_factory=deque)
    fleet: Fleet | None = None

    def link(self, fleet: Fleet, index: int) -> "ScriptedLink":
        self.fleet = fleet
        return ScriptedLink(self, fleet, index)

    def release(self, failure: str | None = None) -> None:
        assert self.fleet is not None
        while self.held:
            self.fleet.on_completed(self.held.popleft(), failure)

    def arrived(self) -> Counter[tuple[int, int]]:
        return Counter((attempt.device, seq) for attempt in self.attempts for seq in seqs(attempt.message))


class Held(Exception):  # noqa: N818 -- not an error
    """No answer, for now."""


@dataclass
class ScriptedLink:
    broker: ScriptedBroker
    fleet: Fleet
    index: int

    def start(self) -> None:
        self.broker.started.append((self.broker.clock.now, self.index))
        if self.index in self.broker.refused:
            self.fleet.on_refused(self.index, "CONNACK NOT_AUTHORIZED")
        elif self.index not in self.broker.silent:
            self.fleet.on_connected(self.index)

    def publish(self, message: Message) -> None:
        attempt = Attempt(self.broker.clock.now, self.index, message)
        self.broker.attempts.append(attempt)
        try:
            failure = self.broker.on_publish(attempt) if self.broker.on_publish else None
        except Held:
            self.broker.held.append(message)
        else:
            self.fleet.on_completed(message, failure)

    def send(self, topic: str, payload: bytes) -> None:
        self.broker.sent.append((self.index, topic, payload))
        self.fleet.on_sent(self.index, self.broker.send_failure)

    def subscribe(self, topic: str) -> None:
        self.fleet.on_sent(self.index, None)

    def stop(self, *, abrupt: bool = False) -> None:
        self.broker.stopped.append(self.index)
        self.broker.abrupt += abrupt
        self.fleet.on_stopped(self.index)


@dataclass
class Run:
    """A fleet, its broker and the clock that both go by."""

    config: SimulatorConfig
    seq_start: dict[str, int] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    stop: threading.Event = field(default_factory=threading.Event)
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the fleet."""

    def __post_init__(self) -> None:
        self.broker = ScriptedBroker(self.clock)
        self.fleet = Fleet(
            self.config,
            self.config.thing_names(),
            link=self.broker.link,
            clock=self.clock,
            wall_clock=lambda: START,
            stop=self.stop,
            seq_start=self.seq_start,
            **self.options,
        )

    def until(self, reached: Callable[[], bool], *, limit_seconds: float = 600) -> None:
        deadline = self.clock.now + limit_seconds
        while not reached():
            pause = self.fleet.step()
            if pause is None:
                assert reached(), "the run is over"
                return
            self.clock.now += pause
            assert self.clock.now < deadline, self.fleet.phase

    def seconds(self, seconds: float) -> None:
        end = self.clock.now + seconds
        self.until(lambda: self.clock.now >= end)

    def to_the_end(self) -> RunReport:
        self.until(lambda: self.fleet.phase is Phase.DONE)
        return self.fleet.report()


def seqs(message: Message) -> range:
    return range(message.first_seq, message.last_seq + 1)


def hold(_: Attempt) -> str | None:
    raise Held


def rows(attempts: Iterable[Attempt]) -> list[dict[str, Any]]:
    return [row for attempt in attempts for row in json.loads(attempt.message.payload)["readings"]]


def books_balance(report: RunReport) -> bool:
    return report.readings_generated == (
        report.readings_published + report.readings_buffered + report.readings_dropped
    ) and sum(last - first + 1 for ranges in report.published.values() for first, last in ranges) == (
        report.readings_published
    )


TEN = SimulatorConfig(device_count=10, interval_seconds=0.1, duration_seconds=5)


def test_each_device_publishes_each_reading_once_and_the_report_says_so() -> None:
    run = Run(TEN)
    report = run.to_the_end()
    assert report.complete
    assert books_balance(report)
    assert report.readings_generated == report.readings_acknowledged == 10 * 50
    assert set(run.broker.arrived().values()) == {1}
    assert report.acknowledged == dict.fromkeys(TEN.thing_names(), ((0, 49),)) == report.published
    assert (report.connected, report.not_connected, report.unacknowledged, report.retries) == (10, 0, 0, 0)
    assert report.bytes == sum(len(attempt.message.payload) for attempt in run.broker.attempts)
    assert sorted(run.broker.stopped) == list(range(10))
    assert not any(device.link for device in run.fleet.devices)


def test_readings_carry_the_time_they_were_due_and_lie_within_the_report() -> None:
    run = Run(TEN)
    report = run.to_the_end()
    assert report.started_at.timestamp() == START
    first = [row["ts"] for row in rows(a for a in run.broker.attempts if a.device == 3)]
    assert first == [round(START * 1000) + 30 + 100 * n for n in range(50)]
    every = [row["ts"] / 1000 for row in rows(run.broker.attempts)]
    assert report.started_at.timestamp() <= min(every)
    assert max(every) <= report.ended_at.timestamp()
    assert report.run_seconds == pytest.approx(5, abs=0.05)


def test_the_same_seed_and_start_send_the_same_bytes() -> None:
    runs = [Run(TEN), Run(TEN), Run(replace(TEN, seed=2))]
    sent = []
    for run in runs:
        run.to_the_end()
        sent.append([attempt.message.payload for attempt in run.broker.attempts])
    assert sent[0] == sent[1] != sent[2]


def test_the_fleet_is_a_steady_stream() -> None:
    run = Run(SimulatorConfig(device_count=500, interval_seconds=1, duration_seconds=10, batch=1))
    run.to_the_end()
    begin = run.broker.attempts[0].at
    per_tenth = Counter(int((attempt.at - begin) * 10) for attempt in run.broker.attempts)
    assert set(per_tenth) == set(range(100))
    assert all(45 <= count <= 55 for count in per_tenth.values())


def test_sequence_numbers_begin_where_the_caller_says() -> None:
    run = Run(TEN, seq_start={"device-00002": 700})
    report = run.to_the_end()
    assert report.acknowledged["device-00002"] == ((700, 749),)
    assert report.acknowledged["device-00001"] == ((0, 49),)


def test_connects_are_paced_and_nothing_is_measured_before_the_last() -> None:
    run = Run(SimulatorConfig(device_count=1000, interval_seconds=1, duration_seconds=2))
    report = run.to_the_end()
    starts = [at for at, _ in run.broker.started]
    assert len(starts) == 1000
    for at in starts:
        assert sum(at <= other < at + 1 for other in starts) <= CONNECTS_AT_A_TIME + CONNECTS_PER_SECOND + 1
    assert run.broker.attempts[0].at >= max(starts)
    assert report.connect_seconds == pytest.approx((1000 - CONNECTS_AT_A_TIME) / CONNECTS_PER_SECOND, abs=0.2)


def test_no_more_than_a_hundred_attempts_to_connect_are_under_way() -> None:
    run = Run(SimulatorConfig(device_count=300, duration_seconds=1))
    run.broker.silent = set(range(50, 300))
    run.seconds(10)
    assert len(run.broker.started) == 50 + CONNECTS_AT_A_TIME
    assert run.fleet.progress()[0].phase == "connecting"


def test_a_fleet_of_which_nobody_can_connect_gives_up_and_says_why() -> None:
    run = Run(SimulatorConfig(device_count=3))
    run.broker.refused = {0, 1, 2}
    with pytest.raises(NobodyConnectedError, match="device-00001: CONNACK NOT_AUTHORIZED"):
        run.to_the_end()


def test_devices_that_cannot_connect_are_told_of_and_not_waited_for() -> None:
    run = Run(TEN)
    run.broker.refused = {2, 5}
    report = run.to_the_end()
    assert (report.connected, report.not_connected, report.complete) == (8, 2, False)
    assert report.first_connect_failure == "device-00003: CONNACK NOT_AUTHORIZED"
    assert report.readings_acknowledged == 400
    assert report.readings_buffered == 100
    assert report.acknowledged["device-00003"] == ()
    assert books_balance(report)
    assert (report.ended_at - report.started_at).total_seconds() < 6


def test_what_is_measured_offline_is_sent_later_with_the_time_it_was_measured() -> None:
    run = Run(replace(TEN, device_count=1))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.seconds(1)
    run.fleet.on_disconnected(0)
    run.seconds(2)
    before = len(run.broker.attempts)
    run.fleet.on_refused(0, "AWS_IO_SOCKET_CONNECTION_REFUSED")
    assert run.fleet.progress()[0].readings_buffered == pytest.approx(20, abs=11)
    run.fleet.on_connected(0)
    run.seconds(0.1)
    late = rows(run.broker.attempts[before:])
    assert late[0]["ts"] < (START + 1.2) * 1000
    report = run.to_the_end()
    assert report.complete
    assert (report.reconnects, report.readings_acknowledged) == (1, 50)
    assert (report.first_connect_failure, report.shut_out, report.first_shut_out) == (None, 0, None)
    assert [row["seq"] for row in rows(run.broker.attempts)] == list(range(50))


def test_devices_that_are_shut_out_in_the_middle_of_a_run_are_told_of_with_the_reason() -> None:
    run = Run(replace(TEN, device_count=3))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.seconds(1)
    for index in (1, 2):
        run.fleet.on_disconnected(index)
        run.fleet.on_refused(index, "CONNACK NOT_AUTHORIZED")
    report = run.to_the_end()
    assert (report.shut_out, report.first_shut_out) == (2, "device-00002: CONNACK NOT_AUTHORIZED")
    assert (report.not_connected, report.first_connect_failure, report.complete) == (0, None, False)


def test_a_full_buffer_drops_the_oldest_and_counts_them() -> None:
    run = Run(replace(TEN, device_count=1, batch=5, buffer_readings=10))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.fleet.on_disconnected(0)
    run.seconds(4)
    run.fleet.on_connected(0)
    report = run.to_the_end()
    assert report.readings_dropped == 30
    assert report.acknowledged == {"device-00001": ((30, 49),)}
    assert books_balance(report)
    assert not report.complete


def test_no_more_messages_are_in_flight_than_aws_allows() -> None:
    run = Run(SimulatorConfig(device_count=1, interval_seconds=0.01, batch=1, duration_seconds=3))
    run.broker.on_publish = hold
    run.until(lambda: run.fleet.phase is Phase.FINISHING)
    assert len(run.broker.held) == 100
    assert run.fleet.progress()[0].readings_buffered == 200
    run.broker.on_publish = None
    run.broker.release()
    report = run.to_the_end()
    assert report.complete
    assert [seq for attempt in run.broker.attempts for seq in seqs(attempt.message)] == list(range(300))


def test_mqtt_311_sends_a_backlog_no_faster_than_aws_takes_it() -> None:
    run = Run(SimulatorConfig(device_count=1, interval_seconds=0.02, batch=1, duration_seconds=6, protocol="mqtt311"))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.fleet.on_disconnected(0)
    run.seconds(5.9)
    assert not run.broker.attempts
    run.fleet.on_connected(0)
    assert run.to_the_end().complete
    times = [attempt.at for attempt in run.broker.attempts]
    assert len(times) == 300
    assert max(sum(at <= other < at + 1 for other in times) for at in times) <= 102


def test_a_failed_message_is_sent_again_unchanged_and_ever_more_patiently() -> None:
    run = Run(replace(TEN, device_count=1, duration_seconds=0.05))
    failures = iter(["PUBACK QUOTA_EXCEEDED"] * 4)
    run.broker.on_publish = lambda _: next(failures, None)
    report = run.to_the_end()
    assert len({attempt.message.payload for attempt in run.broker.attempts}) == 1
    times = [attempt.at for attempt in run.broker.attempts]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == pytest.approx([0.25, 0.5, 1, 2], abs=0.03)
    assert report.complete
    assert (report.publish_failures, report.retries, report.messages_published) == (4, 4, 1)
    assert report.first_publish_failure == "PUBACK QUOTA_EXCEEDED"


def test_what_is_never_acknowledged_is_given_up_after_the_deadline_and_reported() -> None:
    run = Run(replace(TEN, device_count=2, duration_seconds=1))
    run.broker.on_publish = lambda attempt: hold(attempt) if attempt.device == 1 else None
    report = run.to_the_end()
    assert not report.complete
    assert (report.unacknowledged, report.readings_buffered) == (10, 0)
    assert report.acknowledged == {"device-00001": ((0, 9),), "device-00002": ()}
    assert report.published["device-00002"] == ((0, 9),)
    assert (report.ended_at - report.started_at).total_seconds() == pytest.approx(1 + FINISH_SECONDS, abs=0.2)


def test_a_message_that_is_refused_to_the_end_is_not_acknowledged() -> None:
    run = Run(replace(TEN, device_count=1, duration_seconds=1))
    run.broker.on_publish = lambda _: "PUBACK NOT_AUTHORIZED"
    report = run.to_the_end()
    assert report.unacknowledged == 10
    assert report.publish_failures > 3
    assert report.acknowledged == {"device-00001": ()}


def test_an_acknowledgement_that_comes_while_disconnecting_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(replace(TEN, device_count=1, duration_seconds=0.05))
    run.broker.on_publish = hold
    monkeypatch.setattr(ScriptedLink, "stop", lambda _: None)
    run.until(lambda: run.fleet.phase is Phase.DISCONNECTING)
    run.broker.release()
    assert run.to_the_end().complete


def test_being_told_to_stop_sends_what_is_in_open_envelopes() -> None:
    run = Run(replace(TEN, duration_seconds=None))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.seconds(2.55)
    run.stop.set()
    report = run.to_the_end()
    assert report.complete
    assert report.readings_acknowledged == pytest.approx(256, abs=3)
    assert (report.ended_at - report.started_at).total_seconds() < 2.7


def test_being_told_to_stop_while_connecting_ends_without_a_reading() -> None:
    run = Run(TEN)
    run.broker.silent = {7}
    run.seconds(1)
    run.stop.set()
    report = run.to_the_end()
    assert (report.readings_generated, report.connected, report.not_connected) == (0, 9, 1)
    assert len(run.broker.stopped) == 10


def test_abort_does_not_wait_for_acknowledgements() -> None:
    run = Run(replace(TEN, duration_seconds=None))
    run.broker.on_publish = hold
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.seconds(2)
    run.fleet.abort()
    begin = run.clock.now
    report = run.to_the_end()
    assert run.clock.now - begin < 0.1
    assert report.readings_acknowledged == 0
    assert report.unacknowledged > 50
    assert books_balance(report)


def test_nothing_more_is_published_once_the_links_are_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(SimulatorConfig(device_count=1, interval_seconds=0.01, batch=1, duration_seconds=3))
    run.broker.on_publish = hold
    monkeypatch.setattr(ScriptedLink, "stop", lambda _: None)
    run.until(lambda: run.fleet.phase is Phase.DISCONNECTING)
    run.broker.release()
    report = run.to_the_end()
    assert len(run.broker.attempts) == report.messages_acknowledged == 100
    assert (report.unacknowledged, report.readings_buffered) == (0, 200)


def test_progress_adds_up_at_any_moment() -> None:
    run = Run(replace(TEN, duration_seconds=None))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    for _ in range(20):
        run.seconds(0.37)
        progress = run.fleet.progress()[0]
        assert progress.readings_generated == progress.readings_published + progress.readings_buffered
        assert progress.connected == progress.devices == 10
    assert progress.elapsed_seconds == pytest.approx(20 * 0.37, abs=0.1)


class Absent(Device):
    """Is away from second 1 to second 2; the second of the fleet is revoked then, the third sleeps to the end."""

    __slots__ = ("_acts", "_index")

    def __init__(self, config: SimulatorConfig, index: int, thing_name: str, **rest: Any) -> None:
        super().__init__(config, index, thing_name, **rest)
        self._index = index
        self._acts = deque([(1.0, Act.GO_OFFLINE), (2.0, Act.GO_ONLINE)])
        if index == 1:
            self._acts = deque([(1.0, Act.REVOKE | Act.GO_OFFLINE)])
        elif index == 2:
            self._acts.pop()

    def take(self, started_at_ms: int) -> Act:
        if not self._acts or self.due < self._acts[0][0]:
            return super().take(started_at_ms)
        act = self._acts.popleft()[1]
        self.revoked |= bool(act & Act.REVOKE)
        return act

    def finish(self) -> Act:
        return super().finish() | (Act.GO_ONLINE if self._index == 2 else Act.NOTHING)


@dataclass
class Ledger:
    settled_at: dict[Message, float | None] = field(default_factory=dict)

    def settled(self, message: Message, acknowledged_at: float | None) -> None:
        assert message not in self.settled_at
        self.settled_at[message] = acknowledged_at

    def step(self, now: float) -> None:
        """It keeps nothing back."""


@pytest.mark.parametrize("managed", [False, True])
def test_devices_go_offline_and_return_and_each_message_is_settled_once(managed: bool) -> None:
    ledger, revoked = Ledger(), list[int]()
    management = (lambda name: Management(name, firmware="1.0.0")) if managed else None
    run = Run(
        replace(TEN, device_count=4, batch=2),
        options={"make_device": Absent, "recorder": ledger, "revoke": revoked.append, "management": management},
    )
    run.broker.on_publish = lambda attempt: None if run.fleet.devices[attempt.device].connected else "offline"
    report = run.to_the_end()
    assert report.complete
    assert revoked == [1]
    # What is published while a device is away would be kept by its client, and be sent unseen some time later.
    assert report.publish_failures == report.management_failures == 0
    assert run.broker.abrupt == 4
    assert report.reconnects == 3
    assert report.readings_excused == report.readings_generated - report.readings_acknowledged > 30
    away = [attempt.at for attempt in run.broker.attempts if attempt.device == 2]
    started = report.connect_seconds + 1000
    assert not [at for at in away if started + 1.01 < at < started + 4.99]
    settled = [seq for message, at in ledger.settled_at.items() if at is not None for seq in seqs(message)]
    assert len(settled) == report.readings_acknowledged
    assert sum(message.readings for message in ledger.settled_at) == report.readings_generated
    said = Counter(index for index, topic, _ in run.broker.sent if topic.endswith("/shadow/update"))
    assert said == ({0: 3, 1: 1, 2: 3, 3: 3} if managed else {})


def test_what_management_cannot_say_never_stops_telemetry() -> None:
    run = Run(replace(TEN, device_count=2), options={"management": lambda name: Management(name, firmware="1.0.0")})
    run.broker.send_failure = "PUBACK NOT_AUTHORIZED"
    report = run.to_the_end()
    assert report.complete
    assert report.management_failures == 6  # twice shadow, jobs, and the last words


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_broker_does_the_books_balance_and_in_the_end_all_is_acknowledged(data: st.DataObject) -> None:
    config = SimulatorConfig(
        device_count=3,
        interval_seconds=data.draw(st.sampled_from([0.05, 0.3, 2])),
        batch=data.draw(st.sampled_from([1, 4, 25])),
        duration_seconds=None,
    )
    run = Run(config)
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    connected = [True] * 3
    answers = st.sampled_from(["acknowledge", "hold", "fail"])
    for _ in range(data.draw(st.integers(1, 12))):
        answer = data.draw(answers)
        run.broker.on_publish = {"acknowledge": None, "hold": hold, "fail": lambda _: "PUBACK BUSY"}[answer]
        event = data.draw(st.sampled_from(["pass", "release", "fail what is held", "drop", "reconnect"]))
        index = data.draw(st.integers(0, 2))
        if event == "release":
            run.broker.release()
        elif event == "fail what is held":
            run.broker.release("AWS_ERROR_MQTT5_OPERATION_FAILED_DUE_TO_OFFLINE_QUEUE_POLICY")
        elif event == "drop" and connected[index]:
            connected[index] = False
            run.fleet.on_disconnected(index)
        elif event == "reconnect" and not connected[index]:
            connected[index] = True
            run.fleet.on_connected(index)
        run.seconds(data.draw(st.floats(0.01, 3)))
        assert books_balance(run.fleet.report())
    for index in range(3):
        if not connected[index]:
            run.fleet.on_connected(index)
    run.broker.on_publish = None
    run.broker.release()
    run.stop.set()
    report = run.to_the_end()
    assert report.complete
    assert books_balance(report)
    for index, name in enumerate(config.thing_names()):
        count = run.fleet.devices[index].generated
        assert report.acknowledged[name] == report.published[name] == (((0, count - 1),) if count else ())
        arrived = {seq for device, seq in run.broker.arrived() if device == index}
        assert arrived == set(range(count))
    assert report.messages_published == len({id(attempt.message) for attempt in run.broker.attempts})
    assert report.retries == len(run.broker.attempts) - report.messages_published


def test_a_step_is_bounded_so_that_acknowledgements_are_seen_to() -> None:
    run = Run(SimulatorConfig(device_count=1, interval_seconds=0.001, duration_seconds=None))
    run.until(lambda: run.fleet.phase is Phase.RUNNING)
    run.clock.now += 10  # the machine was asleep
    assert run.fleet.step() == YIELD_SECONDS
    assert run.fleet.progress()[0].readings_generated <= fleet_module.READINGS_PER_STEP + 1
    assert run.fleet.progress()[0].behind_seconds == pytest.approx(10, abs=0.1)
