"""The detector on the simulator's readings, with the spikes of the runbook: one in twenty, 2.5 times the value."""

import pytest

from lambdas.processor.detection.detector import FLOORS
from lambdas.processor.detection.usual import WARM_UP_READINGS, Device, Usual, observe
from lambdas.shared.contract import METRICS
from simulator.devices.signals import DeviceSignals
from simulator.scenario.config import SimulatorConfig

START = 1_795_219_200_000
NAMES = [metric.name for metric in METRICS]


@pytest.mark.parametrize(
    ("probability", "batch", "interval"), [(0.05, 1, 1), (0.05, 25, 1), (0.05, 2, 5), (0.002, 25, 1), (0, 1, 60)]
)
def test_each_spike_is_found_and_nothing_else(probability: float, batch: int, interval: int) -> None:
    injected: set[tuple[str, int]] = set()
    found: set[tuple[str, int]] = set()
    for name in ("device-00001", "device-00002", "device-00004", "device-00005"):
        plain, spiked = (
            DeviceSignals(SimulatorConfig(interval_seconds=interval, anomaly_probability=share), name)
            for share in (0, probability)
        )
        device = Device([Usual() for _ in METRICS])
        for at in range(0, 2000, batch):
            times = [START + number * interval * 1000 for number in range(at, at + batch)]
            readings = [spiked.reading(time, time) for time in times]
            injected |= {
                (name, time)
                for time, reading in zip(times, readings, strict=True)
                if reading != plain.reading(time, time)
            }
            columns = [[reading[metric] for reading in readings] for metric in NAMES]
            found |= {(name, each.at) for each in observe(device, times, columns, FLOORS)}
    known = START + (WARM_UP_READINGS + 50) * interval * 1000
    injected = {each for each in injected if each[1] >= known}
    assert len(injected) >= 4 * 1700 * probability * 0.7
    assert len(injected - found) <= 0.005 * len(injected)
    assert {each for each in found if each[1] >= known} <= injected
