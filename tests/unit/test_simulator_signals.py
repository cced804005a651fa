"""What the sensors measure: the same for the same seed, plausible, and spiked as often as asked for."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import correlation, pstdev
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.devices.signals import DeviceSignals
from simulator.scenario.config import SimulatorConfig

START_MS = 1_795_219_200_000  # midnight, UTC
CALM = SimulatorConfig(anomaly_probability=0)


def readings(config: SimulatorConfig, count: int, *, device: str = "device-00001") -> list[dict[str, Any]]:
    signals = DeviceSignals(config, device)
    return [signals.reading(START_MS + round(n * config.interval_seconds * 1000), n) for n in range(count)]


def column(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows]


def test_the_same_seed_and_start_give_the_same_bytes() -> None:
    first, second = (b"".join(map(orjson.dumps, readings(SimulatorConfig(seed=7), 500))) for _ in range(2))
    assert first == second


def test_the_bytes_of_a_seed_are_those_of_every_release() -> None:
    signals = DeviceSignals(SimulatorConfig(seed=7), "device-00001")
    assert [signals.encode(START_MS + number * 5000, number).decode() for number in range(2)] == GOLDEN


def test_a_reading_is_encoded_as_it_is_told() -> None:
    config = SimulatorConfig(seed=3, interval_seconds=0.7, temperature_range=(-20, 20), anomaly_probability=0.1)
    signals = DeviceSignals(config, "device-00001")
    rows = readings(config, 500)
    assert [orjson.loads(signals.encode(row["ts"], row["seq"])) for row in rows] == rows


def test_another_seed_or_device_measures_something_else() -> None:
    values = column(readings(CALM, 50), "temperature")
    assert values != column(readings(replace(CALM, seed=2), 50), "temperature")
    assert values != column(readings(CALM, 50, device="device-00002"), "temperature")


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    low=st.floats(-40, 60),
    span=st.floats(0.5, 60),
    interval=st.floats(0.001, 86_400),
    device=st.text("abc-0123", min_size=1, max_size=8),
)
def test_without_spikes_every_value_is_plausible(
    seed: int, low: float, span: float, interval: float, device: str
) -> None:
    config = replace(CALM, seed=seed, temperature_range=(low, low + span), interval_seconds=interval)
    for row in readings(config, 50, device=device):
        assert round(low, 2) <= row["temperature"] <= round(low + span, 2)
        assert 30 <= row["humidity"] <= 80
        assert 870 <= row["pressure"] <= 1085
        assert 0 <= row["battery"] <= 100
        assert all(round(row[name], 2) == row[name] for name in ("temperature", "humidity", "pressure", "battery"))
        assert list(row) == ["ts", "seq", "temperature", "humidity", "pressure", "battery"]


def test_a_reading_is_at_most_200_bytes() -> None:
    wild = SimulatorConfig(spike_factor=1000, anomaly_probability=0.5, temperature_range=(-100, 200))
    signals = DeviceSignals(wild, "device-00001")
    assert max(len(orjson.dumps(signals.reading(START_MS, 2**53))) for _ in range(200)) <= 200


def test_spikes_come_as_often_as_asked_for_and_change_nothing_else() -> None:
    config = SimulatorConfig(interval_seconds=1, anomaly_probability=0.05, spike_factor=2.5)
    calm, spiked = readings(replace(config, anomaly_probability=0), 20_000), readings(config, 20_000)
    pairs = list(zip(calm, spiked, strict=True))
    spikes = [(before, after) for before, after in pairs if before != after]
    assert 0.045 < len(spikes) / len(pairs) < 0.055
    for before, after in spikes:
        assert abs(after["temperature"] - before["temperature"] * 2.5) < 0.02
        assert {**after, "temperature": before["temperature"]} == before


def test_no_probability_no_spike_and_certainty_every_time() -> None:
    always = readings(replace(CALM, anomaly_probability=1, spike_factor=10), 100)
    assert min(column(always, "temperature")) >= 150
    assert max(column(readings(CALM, 100), "temperature")) <= 35


def test_the_day_is_warmest_in_the_afternoon_and_driest_then() -> None:
    day = readings(replace(CALM, interval_seconds=600), 144 * 7)
    warmest = max(range(144), key=lambda n: sum(row["temperature"] for row in day[n::144]))
    assert 13 <= warmest / 6 <= 17
    assert correlation(column(day, "temperature"), column(day, "humidity")) < -0.9
    assert pstdev(column(day, "temperature")) > 2


def test_neighbouring_readings_are_alike() -> None:
    values = column(readings(replace(CALM, interval_seconds=1), 1000), "temperature")
    steps = [abs(after - before) for before, after in pairwise(values)]
    assert 0 < max(steps) < 1


def test_the_battery_runs_down_and_is_changed_some_day() -> None:
    level = column(readings(replace(CALM, interval_seconds=86_400), 365), "battery")
    changes = sum(after > before for before, after in pairwise(level))
    assert 2 <= changes <= 7
    assert min(level) >= 5


GOLDEN = [
    '{"ts":1795219200000,"seq":0,"temperature":20.45,"humidity":64.72,"pressure":999.39,"battery":93.11}',
    '{"ts":1795219205000,"seq":1,"temperature":20.58,"humidity":65.35,"pressure":999.40,"battery":93.11}',
]
