"""What befalls devices: in virtual time, whatever the machine's pace, with nothing unaccounted for."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row, parse_line
from lambdas.shared.quarantine import Quarantined
from lambdas.shared.stamp import STAMP, Stamps
from simulator.devices.device import Act, Device
from simulator.devices.envelope import Message, MessageKind
from simulator.scenario import behaviours as kinds
from simulator.scenario.behaviours import Behaviour
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.groups import DeviceGroup
from simulator.scenario.malformed import FORMS, payload
from simulator.scenario.placement import placement_of, revoked_things

START_MS = 1_795_219_200_000
CONFIG = SimulatorConfig(
    device_count=1, interval_seconds=0.5, duration_seconds=60, batch=3, linger_seconds=10, anomaly_probability=0
)


@dataclass
class Driven:
    """A device that was driven through a run, and what came of it."""

    device: Device
    acts: list[tuple[float, Act]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    left_at: list[float] = field(default_factory=list)
    dropped: list[Message] = field(default_factory=list)
    lost: int = 0

    def drain(self, at: float) -> None:
        while message := self.device.next_message():
            self.messages.append(message)
            self.left_at.append(at)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for message in self.of(MessageKind.TELEMETRY) for row in orjson.loads(message.payload)["readings"]]

    def of(self, kind: MessageKind) -> list[Message]:
        return [message for message in self.messages if message.kind is kind]

    def times(self, act: Act) -> list[float]:
        return [at for at, each in self.acts if act in each]


def drive(config: SimulatorConfig, *behaviours: Behaviour, pace: random.Random | None = None, index: int = 0) -> Driven:
    """Drive one device; with a pace, what is complete leaves it only now and then, as on a machine that stutters."""
    config = replace(config, behaviours=(*config.behaviours, *behaviours))
    names = config.thing_names()
    driven = Driven(Device(config, index, names[index], fleet_size=len(names), first_seq=0))
    device = driven.device
    while device.due < 1e9:
        at = device.due
        driven.acts.append((at, device.take(START_MS)))
        if pace is None or pace.random() < 0.2:
            driven.drain(at)
        driven.lost += device.drop_overflow()
        driven.dropped += device.dropped
        device.dropped.clear()
    driven.acts.append((1e9, device.finish()))
    driven.drain(1e9)
    assert device.settled
    return driven


def behaviours() -> st.SearchStrategy[Behaviour]:
    at, short = st.floats(0, 50), st.floats(0.1, 20)
    probability = st.floats(0, 1)
    when: dict[str, Any] = {"at_seconds": at, "for_seconds": short, "spread_seconds": st.floats(0, 5)}
    again: dict[str, Any] = {**when, "every_seconds": st.floats(21, 40)}
    return st.one_of(
        st.builds(kinds.Offline, **again, abrupt=st.booleans()),
        st.builds(kinds.Offline, at_seconds=at),
        st.builds(kinds.DisconnectStorm, **again),
        st.builds(kinds.Reboot, **again, keep_backlog=st.booleans()),
        st.builds(kinds.Revoke, at_seconds=at),
        st.builds(kinds.ClockSkew, **when, offset_seconds=st.floats(-1e6, 1e6)),
        st.builds(kinds.Duplicate, **when, probability=probability, after=st.integers(0, 5)),
        st.builds(kinds.Reorder, **when, window=st.integers(2, 6)),
        st.builds(kinds.Drift, **when, per_hour=st.floats(-1e4, 1e4)),
        st.builds(kinds.Stuck, **when, metric=st.just("humidity")),
        st.builds(kinds.Spike, **when, probability=probability, factor=st.floats(-10, 10)),
        st.builds(kinds.Malformed, **when, probability=probability),
    )


@settings(max_examples=150, deadline=None)
@given(
    befallen=st.lists(behaviours(), max_size=5),
    seed=st.integers(0, 1000),
    interval=st.floats(0.2, 5),
    batch=st.integers(1, 5),
    buffer=st.sampled_from([5, 50, 5000]),
)
def test_whatever_befalls_a_device_every_reading_is_accounted_for(
    befallen: list[Behaviour], seed: int, interval: float, batch: int, buffer: int
) -> None:
    config = replace(CONFIG, seed=seed, interval_seconds=interval, batch=batch, buffer_readings=buffer)
    driven = drive(config, *befallen)
    telemetry = driven.of(MessageKind.TELEMETRY)
    generated = sum(Act.READING in act for _, act in driven.acts)
    dropped = [message for message in driven.dropped if message.kind is MessageKind.TELEMETRY]
    assert generated == driven.device.generated
    assert driven.lost == sum(message.readings for message in dropped)
    assert generated == sum(message.readings for message in telemetry) + driven.lost
    assert driven.device.backlog_readings == 0
    for message in [*telemetry, *dropped]:
        document = orjson.loads(message.payload)
        rows = document["readings"] if batch > 1 else [document]
        assert [row["seq"] for row in rows] == list(range(message.first_seq, message.last_seq + 1))
        assert len(rows) == message.readings
    sent = {
        id(message): (message.payload, message.first_seq, message.last_seq, message.readings) for message in telemetry
    }
    for message in driven.of(MessageKind.DUPLICATE):
        assert (message.payload, message.first_seq, message.last_seq, message.readings) in sent.values()
    malformed = [m for m in [*driven.messages, *driven.dropped] if m.kind is MessageKind.MALFORMED]
    assert len({message.payload for message in malformed}) == len(malformed)
    assert {(m.readings, m.first_seq, m.last_seq) for m in malformed} <= {(1, -1, -1)}


@settings(max_examples=100, deadline=None)
@given(befallen=st.lists(behaviours(), max_size=5), seed=st.integers(0, 1000), pace=st.integers(0, 1000))
def test_a_machine_that_stutters_changes_no_byte_and_no_order(befallen: list[Behaviour], seed: int, pace: int) -> None:
    config = replace(CONFIG, seed=seed)
    steady, stuttering = drive(config, *befallen), drive(config, *befallen, pace=random.Random(pace))  # noqa: S311
    assert [(m.kind, m.payload) for m in steady.messages] == [(m.kind, m.payload) for m in stuttering.messages]
    assert [m.payload for m in steady.dropped] == [m.payload for m in stuttering.dropped]
    assert [at for at, _ in steady.acts] == [at for at, _ in stuttering.acts]


def test_another_seed_is_another_run() -> None:
    twice = kinds.Duplicate(probability=0.5)
    first, second = drive(CONFIG, twice), drive(replace(CONFIG, seed=2), twice)
    assert [m.kind for m in first.messages] != [m.kind for m in second.messages]


def test_offline_the_readings_wait_and_come_as_a_burst() -> None:
    driven = drive(CONFIG, kinds.Offline(at_seconds=10, for_seconds=20, abrupt=False))
    assert (driven.times(Act.GO_OFFLINE), driven.times(Act.GO_ONLINE)) == ([10], [30])
    assert not driven.device.abrupt
    assert not [at for at in driven.left_at if 10 < at < 30]
    assert Counter(driven.left_at)[30] >= 13
    assert [row["seq"] for row in driven.rows] == list(range(120))


def test_offline_to_the_end_comes_back_to_deliver() -> None:
    driven = drive(CONFIG, kinds.Offline(at_seconds=50))
    assert driven.times(Act.GO_ONLINE) == [1e9]
    assert len(driven.rows) == 120


def test_outages_that_overlap_are_one() -> None:
    driven = drive(
        CONFIG, kinds.Offline(at_seconds=10, for_seconds=10), kinds.DisconnectStorm(at_seconds=15, for_seconds=10)
    )
    assert (driven.times(Act.GO_OFFLINE), driven.times(Act.GO_ONLINE)) == ([10], [25])


def test_a_storm_takes_its_share_of_the_fleet_in_the_same_instant_again_and_again() -> None:
    config = replace(CONFIG, device_count=20)
    storm = kinds.DisconnectStorm(at_seconds=10, every_seconds=15, times=2, share=0.5)
    fleet = [drive(config, storm, index=index) for index in range(20)]
    struck = [driven for driven in fleet if driven.times(Act.GO_OFFLINE)]
    assert len(struck) == 10
    for driven in struck:
        assert (driven.times(Act.GO_OFFLINE), driven.times(Act.GO_ONLINE)) == ([10, 25], [11, 26])
        assert driven.device.abrupt


@pytest.mark.parametrize("keep", [True, False])
def test_a_reboot_sleeps_and_counts_from_zero(keep: bool) -> None:
    # 59 readings, so that one is in the open envelope besides those that wait.
    out = kinds.Offline(at_seconds=25.2, for_seconds=10)
    driven = drive(CONFIG, out, kinds.Reboot(at_seconds=29.2, for_seconds=5, keep_backlog=keep))
    seqs = [row["seq"] for row in driven.rows]
    again = seqs.index(0, 1)
    assert seqs[:again] == list(range(59 if keep else 51))
    assert seqs[again:] == list(range(120 - 69))
    assert driven.lost == (0 if keep else 8)
    assert driven.rows[again]["ts"] == START_MS + 34_500


def test_a_revoked_device_tries_again_in_vain_and_nobody_waits_for_it() -> None:
    driven = drive(CONFIG, kinds.Revoke(at_seconds=10))
    assert [at for at, act in driven.acts if Act.REVOKE in act] == [10]
    assert (driven.times(Act.GO_OFFLINE), driven.times(Act.GO_ONLINE)) == ([13], [14])
    assert driven.device.revoked
    away = drive(CONFIG, kinds.Revoke(at_seconds=10), kinds.Offline(at_seconds=12))
    assert not away.times(Act.GO_ONLINE)
    config = replace(CONFIG, device_count=10, behaviours=(kinds.Revoke(at_seconds=10, share=0.3),))
    assert len(revoked_things(config)) == 3


def test_a_skewed_clock_tells_another_time_and_measures_the_same() -> None:
    plain = drive(CONFIG).rows
    skewed = drive(CONFIG, kinds.ClockSkew(at_seconds=10, for_seconds=20, offset_seconds=-600)).rows
    for number, (true, told) in enumerate(zip(plain, skewed, strict=True)):
        offset = -600_000 if 20 <= number < 60 else 0
        assert told == {**true, "ts": true["ts"] + offset}


def test_duplicates_follow_so_many_messages_later() -> None:
    driven = drive(CONFIG, kinds.Duplicate(probability=1, after=2))
    assert len(driven.of(MessageKind.DUPLICATE)) == len(driven.of(MessageKind.TELEMETRY)) == 40
    payloads = [message.payload for message in driven.messages]
    second = payloads.index(payloads[0], 1)
    assert [message.kind for message in driven.messages[: second + 1]] == [
        *[MessageKind.TELEMETRY] * 3,
        MessageKind.DUPLICATE,
    ]


@pytest.mark.parametrize("for_seconds", [1000, 9.3])
def test_reordered_messages_stay_within_their_window(for_seconds: float) -> None:
    driven = drive(replace(CONFIG, batch=1), kinds.Reorder(window=4, for_seconds=for_seconds))
    seqs = [message.first_seq for message in driven.messages]
    assert sorted(seqs) == list(range(120))
    assert any(before > after for before, after in pairwise(seqs))
    assert max(abs(seq - position) for position, seq in enumerate(seqs)) == 3


def test_sensors_drift_stick_and_spike() -> None:
    plain = drive(CONFIG).rows
    away = drive(CONFIG, kinds.Drift(per_hour=3600, at_seconds=10, for_seconds=20)).rows
    for number, (before, after) in enumerate(zip(plain, away, strict=True)):
        expected = 0.5 * (number - 20) if 20 <= number < 60 else 0
        assert after["temperature"] - before["temperature"] == pytest.approx(expected, abs=0.011)
    held = drive(CONFIG, kinds.Stuck(metric="humidity", at_seconds=10, for_seconds=20)).rows
    assert {row["humidity"] for row in held[20:60]} == {plain[20]["humidity"]}
    assert [row["humidity"] for row in held[60:]] == [row["humidity"] for row in plain[60:]]
    wild = drive(CONFIG, kinds.Spike(metric="pressure", probability=0.25, factor=2)).rows
    spiked = [after for before, after in zip(plain, wild, strict=True) if after != before]
    assert 15 <= len(spiked) <= 45
    assert all(row["pressure"] > 1700 for row in spiked)


def as_the_rule_passes_it_on(text: bytes) -> bytes:
    """`SELECT *, topic(3) AS device_id, ...`: of what is no JSON object, `*` is nothing."""
    try:
        document = orjson.loads(text)
    except ValueError:
        document = None
    members = document if isinstance(document, dict) else {}
    return orjson.dumps({**members, "device_id": "device-00001", "received_at": START_MS, "stamp": STAMP})


@pytest.mark.parametrize("form", FORMS)
def test_each_malformed_payload_ends_as_exactly_one_quarantined_item(form: str) -> None:
    limits = Limits.around(
        datetime.fromtimestamp(START_MS / 1000, UTC), retention_days=30, max_future_seconds=3600, stamps=Stamps(STAMP)
    )
    text = payload(form, token="broken-1-device-00001-7", ts=START_MS)
    found: Sequence[Row | Quarantined] = list(parse_line(1, as_the_rule_passes_it_on(text), limits))
    assert [type(each) for each in found] == [Quarantined]
    [item] = found
    assert isinstance(item, Quarantined)
    assert text.startswith(b"{") == (b"broken-1-device-00001-7" in item.raw) or form == "truncated"
    # Also if it came through as it is.
    assert [type(each) for each in parse_line(1, text, limits)] == [Quarantined]


def test_malformed_payloads_have_every_form_and_none_twice() -> None:
    driven = drive(replace(CONFIG, duration_seconds=600), kinds.Malformed(probability=1))
    broken = [message.payload for message in driven.of(MessageKind.MALFORMED)]
    assert len(broken) == len(set(broken)) > 300
    assert len(driven.of(MessageKind.TELEMETRY)) - len(broken) <= 1
    only = drive(CONFIG, kinds.Malformed(probability=1, forms=("number",))).of(MessageKind.MALFORMED)
    assert all(message.payload.isdigit() for message in only)


def test_groups_have_their_own_interval_batch_names_and_behaviours() -> None:
    config = SimulatorConfig(
        device_count=5,
        duration_seconds=10,
        groups=(
            DeviceGroup(name="fast", count=2, interval_seconds=0.5, batch=2),
            DeviceGroup(name="slow", count=2, behaviours=(kinds.Offline(at_seconds=1, devices=(2,)),)),
            DeviceGroup(name="other", count=1, prefix="other-"),
        ),
    )
    names = [*(f"device-{n:05}" for n in range(1, 5)), "other-00001"]
    assert config.thing_names() == names
    fleet = [drive(config, index=index) for index in range(5)]
    assert [driven.device.generated for driven in fleet] == [20, 20, 2, 2, 2]
    assert [bool(driven.times(Act.GO_OFFLINE)) for driven in fleet] == [False, False, False, True, False]
    # In whatever order the devices are numbered, it is the name that decides.
    assert placement_of(config, 0, "device-00004").behaviours
