"""Packing readings into messages: by number, by size, by time."""

import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from simulator.devices.envelope import EnvelopePacker, Message
from simulator.scenario.config import ENVELOPE_MAX_BYTES, SimulatorConfig


def pack(config: SimulatorConfig, encoded: list[bytes]) -> list[Message]:
    packer = EnvelopePacker(config, device=3)
    messages: list[Message] = []
    for seq, reading in enumerate(encoded):
        due = seq * config.interval_seconds
        messages += packer.add(reading, seq=seq, due=due, next_due=due + config.interval_seconds)
    return [*messages, *packer.flush()]


def sizes(config: SimulatorConfig, readings: int) -> list[int]:
    return [message.readings for message in pack(config, [b'{"ts":1}'] * readings)]


def test_an_envelope_is_closed_when_it_has_the_batch() -> None:
    assert sizes(SimulatorConfig(interval_seconds=0.01, batch=25), 60) == [25, 25, 10]


def test_a_batch_of_one_is_a_reading_without_an_envelope() -> None:
    (message, _) = pack(SimulatorConfig(batch=1), [b'{"ts":1}', b'{"ts":2}'])
    assert (message.payload, message.device, message.first_seq, message.last_seq) == (b'{"ts":1}', 3, 0, 0)


def test_a_reading_waits_no_longer_than_it_may_linger() -> None:
    # At 0, 0.4 and 0.8 s; the one at 1.2 s would come too late.
    assert sizes(SimulatorConfig(interval_seconds=0.4, linger_seconds=1), 9) == [3, 3, 3]


def test_a_reading_goes_at_once_when_none_can_join_it_in_time() -> None:
    packer = EnvelopePacker(SimulatorConfig(interval_seconds=5, linger_seconds=1), device=0)
    (message,) = packer.add(b"{}", seq=0, due=0, next_due=5)
    assert message.payload == b'{"readings":[{}]}'
    assert not packer.flush()


def test_an_envelope_stays_within_the_unit_that_firehose_bills() -> None:
    config = SimulatorConfig(interval_seconds=0.001, batch=1000)
    (first, second) = pack(config, [b"1" * 1000] * 8)
    assert [first.readings, second.readings] == [4, 4]
    assert len(first.payload) == len('{"readings":[]}') + 4 * 1000 + 3 <= ENVELOPE_MAX_BYTES
    # One that fits to the byte is taken.
    exact = ENVELOPE_MAX_BYTES - len('{"readings":[]}') - 1
    assert [m.readings for m in pack(config, [b"1" * 1000, b"2" * (exact - 1000)])] == [2]
    assert [m.readings for m in pack(config, [b"1" * 1000, b"2" * (exact - 999)])] == [1, 1]


@given(
    lengths=st.lists(st.integers(2, 400), min_size=1, max_size=200),
    batch=st.integers(2, 60),
    interval=st.floats(0.001, 2),
)
def test_every_reading_is_in_one_message_in_order_and_no_limit_is_passed(
    lengths: list[int], batch: int, interval: float
) -> None:
    config = SimulatorConfig(interval_seconds=interval, batch=batch)
    readings = [orjson.dumps({"n": n, "pad": "x" * length}) for n, length in enumerate(lengths)]
    messages = pack(config, readings)
    seen = []
    for message in messages:
        rows = json.loads(message.payload)["readings"]
        assert [row["n"] for row in rows] == list(range(message.first_seq, message.last_seq + 1))
        assert message.readings == len(rows) <= batch
        assert len(message.payload) <= ENVELOPE_MAX_BYTES
        assert (message.readings - 1) * interval <= config.linger_seconds + 1e-9
        seen += [row["n"] for row in rows]
    assert seen == list(range(len(lengths)))
