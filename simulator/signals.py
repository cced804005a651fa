"""What the sensors of one device measure: plausible, and the same for the same seed, device, start and interval.

Temperature follows the day, drifts over hours and is noisy over seconds; humidity moves against it; pressure wanders
as the weather does; the battery runs down over weeks until somebody changes it. Each reading costs a few microseconds.
"""

import math
import random
from typing import Any

from simulator.config import SimulatorConfig

_DAY_MS = 86_400_000
# Lowest and highest ever measured at sea level, which is narrower than what a sensor may plausibly report anywhere.
_PRESSURE_LIMITS_HPA = (870.0, 1085.0)


class _Wander:
    """A value that strays from zero and comes back: an Ornstein-Uhlenbeck process, sampled at a fixed interval."""

    __slots__ = ("_keep", "_step", "value")

    def __init__(
        self, uniform: random.Random, *, deviation: float, memory_seconds: float, interval_seconds: float
    ) -> None:
        self._keep = math.exp(-interval_seconds / memory_seconds)
        self._step = deviation * math.sqrt(1 - self._keep * self._keep) * 2
        self.value = deviation * 2 * (uniform.random() + uniform.random() + uniform.random() - 1.5)

    def next(self, uniform: random.Random) -> float:
        # Three uniform numbers make a bell of variance 1/4. `random()` is the one method of `Random` whose sequence for
        # a seed Python promises to keep, so the same seed gives the same bytes on every version.
        draw = uniform.random
        self.value = value = self._keep * self.value + self._step * (draw() + draw() + draw() - 1.5)
        return value


class DeviceSignals:
    """The sensors of one device. `reading` is to be called once for each reading, in order."""

    __slots__ = (
        "_altitude_hpa", "_battery_life_ms", "_battery_phase", "_day_shift_ms", "_drift", "_humidity_limits",
        "_humidity_middle", "_humidity_noise", "_humidity_swing", "_noise", "_offset", "_spike_factor",
        "_spike_probability", "_spikes", "_temperature_limits", "_temperature_middle", "_temperature_swing", "_uniform",
        "_weather",
    )  # fmt: skip

    def __init__(self, config: SimulatorConfig, thing_name: str) -> None:
        # Text seeds go through SHA-512; spikes have a source of their own, so that another probability moves only them.
        self._uniform = uniform = random.Random(f"{config.seed}/{thing_name}")  # noqa: S311  (no secret)
        self._spikes = random.Random(f"{config.seed}/{thing_name}/spikes")  # noqa: S311
        self._spike_probability = config.anomaly_probability
        self._spike_factor = config.spike_factor

        interval = config.interval_seconds
        low, high = self._temperature_limits = config.temperature_range
        half = (high - low) / 2
        self._temperature_middle = (low + high) / 2
        self._temperature_swing = half * 0.55
        self._offset = half * 0.3 * (uniform.random() - 0.5)
        # The warmest hour is about 15:00, an hour earlier or later by where the device stands.
        self._day_shift_ms = int((9 + 2 * (uniform.random() - 0.5)) * 3_600_000)
        self._drift = _Wander(uniform, deviation=half * 0.08, memory_seconds=6 * 3600, interval_seconds=interval)
        self._noise = _Wander(uniform, deviation=half * 0.02, memory_seconds=20, interval_seconds=interval)

        low, high = self._humidity_limits = config.humidity_range
        half = (high - low) / 2
        self._humidity_middle = (low + high) / 2 + half * 0.3 * (uniform.random() - 0.5)
        self._humidity_swing = half * 0.6
        self._humidity_noise = _Wander(uniform, deviation=half * 0.04, memory_seconds=60, interval_seconds=interval)

        self._altitude_hpa = 1013.25 - 30 * uniform.random()
        self._weather = _Wander(uniform, deviation=6, memory_seconds=12 * 3600, interval_seconds=interval)
        self._battery_life_ms = int((60 + 60 * uniform.random()) * _DAY_MS)
        self._battery_phase = uniform.random()

    def reading(self, ts: int, seq: int) -> dict[str, Any]:
        """The reading taken at `ts` (epoch milliseconds): degrees Celsius, percent, hectopascal, percent."""
        uniform = self._uniform
        day = math.sin((ts - self._day_shift_ms) % _DAY_MS / _DAY_MS * math.tau)
        warmth = self._temperature_swing * day + self._offset + self._drift.next(uniform)
        temperature = _clip(self._temperature_middle + warmth + self._noise.next(uniform), self._temperature_limits)
        # Warm air holds more water, so the same water is a lower relative humidity.
        dry = -self._humidity_swing * warmth / self._temperature_swing
        humidity = _clip(self._humidity_middle + dry + self._humidity_noise.next(uniform), self._humidity_limits)
        pressure = _clip(self._altitude_hpa + self._weather.next(uniform), _PRESSURE_LIMITS_HPA)
        battery = 100 - 95 * ((ts / self._battery_life_ms + self._battery_phase) % 1)
        if self._spikes.random() < self._spike_probability:
            temperature *= self._spike_factor
        return {
            "ts": ts,
            "seq": seq,
            "temperature": round(temperature, 2),
            "humidity": round(humidity, 2),
            "pressure": round(pressure, 2),
            "battery": round(battery, 2),
        }


def _clip(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return low if value < low else high if value > high else value
