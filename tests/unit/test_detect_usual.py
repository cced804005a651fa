"""What is usual for a device, and what is not: the core of the detector, without a database."""

import math
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambdas.processor.detection.usual import (
    CRITICAL,
    EDGE,
    JUMP_READINGS,
    WARM_UP_READINGS,
    Device,
    Found,
    Usual,
    observe,
)

SECOND = 1000


def one() -> Device:
    return Device([Usual()])


def feed(
    device: Device,
    values: Sequence[float],
    start: int = 1,
    *,
    each: int = 1,
    step: int = 5 * SECOND,
    floor: float = 0.0,
) -> list[Found]:
    """Values `step` milliseconds apart, from position `start`, `each` at a time."""
    found: list[Found] = []
    for at in range(0, len(values), each):
        chunk = values[at : at + each]
        times = [(start + at + n) * step for n in range(len(chunk))]
        found += observe(device, times, (chunk,), (floor,))
    return found


def noise(count: int, level: float = 20.0, scale: float = 0.1, seed: int = 1) -> list[float]:
    dice = random.Random(seed)  # noqa: S311
    return [level + dice.gauss(0, scale) for _ in range(count)]


@pytest.mark.parametrize("each", [1, 25])
def test_a_spike_is_found_once_and_teaches_little(each: int) -> None:
    device = one()
    assert feed(device, noise(2000), each=each) == []
    level = device.metrics[0].level
    values = noise(100, seed=2)
    values[30] = 35.0
    [spike] = feed(device, values, 2001, each=each)
    assert (spike.kind, spike.at, spike.value, spike.readings) == ("spike", 2031 * 5 * SECOND, 35.0, 1)
    assert spike.score > CRITICAL
    assert abs(spike.expected - 20) < 1
    assert abs(device.metrics[0].level - level) < 1
    assert feed(device, noise(100, seed=3), 2101, each=each) == []


@pytest.mark.parametrize("each", [1, 25])
def test_a_jump_is_found_once_and_is_the_new_level(each: int) -> None:
    device = one()
    feed(device, noise(2000), each=each)
    found = feed(device, noise(500, level=25), 2001, each=each)
    [jump] = [found for found in found if found.kind == "jump"]
    assert (jump.started, jump.readings) == (2001 * 5 * SECOND, JUMP_READINGS)
    spikes = [found for found in found if found.kind == "spike"]
    # Value by value nobody knows yet that it will stay; in one message it is plain.
    assert len(spikes) == (JUMP_READINGS - 1 if each == 1 else 0)
    assert sum(spike.fresh for spike in spikes) <= 1
    assert abs(device.metrics[0].level - 25) < 0.5


def test_nothing_is_judged_before_enough_is_known() -> None:
    device = one()
    values = noise(WARM_UP_READINGS)
    values[50] = 90.0
    assert feed(device, values) == []


def test_late_readings_are_left_out() -> None:
    device = one()
    feed(device, noise(1000))
    before = msgspec.msgpack.encode(device)
    assert feed(device, [90.0] * 50, 100, each=25) == []
    assert msgspec.msgpack.encode(device) == before
    # Of a message that is partly late, the late part.
    times = [500 * 5 * SECOND, 1001 * 5 * SECOND]
    assert observe(device, times, ([90.0, 20.0],), (0.0,)) == []
    assert device.seen == 1001 * 5 * SECOND


def test_after_a_long_silence_the_level_is_taken_anew() -> None:
    device = one()
    feed(device, noise(1000))
    assert feed(device, noise(50, level=30), 10_000) == []
    assert abs(device.metrics[0].level - 30) < 1


def test_a_device_that_often_sends_bursts_is_not_reported_for_one_more() -> None:
    device = one()
    values = noise(6000)
    values[100::100] = [30.0] * len(values[100::100])
    assert len([found for found in feed(device, values) if found.at > 1000 * 5 * SECOND]) == 0


def test_missing_values_are_no_values() -> None:
    device = Device([Usual(), Usual()])
    for at, value in enumerate(noise(500)):
        assert observe(device, (at + 1,), ((value,), (None,)), (0.0, 0.0)) == []
    assert device.metrics[1] == Usual()


def test_what_was_stored_goes_on_where_it_was() -> None:
    values = noise(600)
    values[450:] = [28.0] * 150
    whole, first = one(), one()
    expected = feed(whole, values)
    found = feed(first, values[:455])
    second = msgspec.msgpack.decode(msgspec.msgpack.encode(first), type=Device)
    assert found + feed(second, values[455:], 456) == expected
    assert second == whole


numbers = st.floats(allow_nan=True, allow_infinity=True)
messages = st.lists(
    st.tuples(st.integers(0, 2**45), st.lists(st.one_of(st.none(), numbers), min_size=1, max_size=5)), max_size=60
)


@settings(max_examples=200)
@given(messages, st.sampled_from([0.0, 0.1]))
def test_no_input_raises_and_nothing_found_is_no_number(
    sent: list[tuple[int, list[float | None]]], floor: float
) -> None:
    device = one()
    # As if it were warm, so that everything is judged.
    device.metrics[0].readings = WARM_UP_READINGS
    for at, values in sent:
        for found in observe(device, [at + n for n in range(len(values))], (values,), (floor,)):
            assert all(math.isfinite(number) for number in (found.value, found.expected, found.score))
            assert found.score >= 0
    usual = device.metrics[0]
    kept = (usual.level, usual.above, usual.below, usual.record_above, usual.record_below)
    assert all(math.isfinite(number) for number in kept)


@given(st.floats(-1e30, 1e30), st.integers(1, 30), st.integers(201, 400))
def test_a_constant_series_has_no_anomalies(value: float, each: int, count: int) -> None:
    assert feed(one(), [value] * count, each=each) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**20]), st.integers(1, 30))
def test_units_make_no_difference(seed: int, factor: float, each: int) -> None:
    dice = random.Random(seed)  # noqa: S311
    values = [dice.gauss(0, 1) * dice.choice([1, 1, 1, 10]) for _ in range(600)]
    plain = feed(one(), values, each=each, floor=0.1)
    scaled = feed(one(), [value * factor for value in values], each=each, floor=0.1 * factor)
    assert [(f.kind, f.at, f.fresh) for f in scaled] == [(f.kind, f.at, f.fresh) for f in plain]
    assert [f.score for f in scaled] == pytest.approx([f.score for f in plain])
    assert all(f.score >= EDGE for f in plain if f.kind == "spike")
