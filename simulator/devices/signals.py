"""What the sensors of one device measure: plausible, and the same for the same seed, device, start and interval.

Temperature follows the day, drifts over hours and is noisy over seconds; humidity moves against it; pressure wanders
as the weather does; the battery runs down over weeks until somebody changes it. Each reading costs about a microsecond.
"""

import math
import random
from typing import Any

from simulator.devices.wander import Wander
from simulator.scenario.config import SimulatorConfig

_DAY_MS = 86_400_000
# Lowest and highest ever measured at sea level, which is narrower than what a sensor may plausibly report anywhere.
_PRESSURE_LIMITS_HPA = (870.0, 1085.0)
_SLOW_SECONDS = 2.0
"""Day, weather and battery move less than the last digit in this time, so they are worked out no more often."""

_NAMES = ("temperature", "humidity", "pressure", "battery")
_TEMPLATE = b'{"ts":%d,"seq":%d,"temperature":%.2f,"humidity":%.2f,"pressure":%.2f,"battery":%.2f}'


class DeviceSignals:
    """The sensors of one device. Exactly one of its methods is to be called for each reading, in order."""

    __slots__ = (
        "_altitude_hpa", "_battery", "_battery_life_ms", "_battery_phase", "_day_shift_ms", "_draw", "_drift",
        "_humidity", "_humidity_limits", "_humidity_middle", "_humidity_noise", "_humidity_swing", "_noise", "_offset",
        "_pressure", "_slow_every", "_slow_left", "_spike", "_spike_factor", "_spike_probability", "_temperature",
        "_temperature_limits", "_temperature_middle", "_temperature_swing", "_weather",
    )  # fmt: skip

    names = _NAMES
    template = _TEMPLATE

    def __init__(self, config: SimulatorConfig, thing_name: str, *, interval_seconds: float | None = None) -> None:
        # Text seeds go through SHA-512; spikes have a source of their own, so that another probability moves only them.
        # `random()` is the one method of `Random` whose sequence for a seed Python promises to keep, so the same seed
        # gives the same bytes on every version.
        self._draw = draw = random.Random(f"{config.seed}/{thing_name}").random  # noqa: S311  (no secret)
        self._spike = random.Random(f"{config.seed}/{thing_name}/spikes").random  # noqa: S311
        self._spike_probability = config.anomaly_probability
        self._spike_factor = config.spike_factor

        interval = interval_seconds or config.interval_seconds
        self._slow_every = max(1, int(_SLOW_SECONDS / interval))
        self._slow_left = 0
        slow = interval * self._slow_every

        low, high = self._temperature_limits = config.temperature_range
        half = (high - low) / 2
        self._temperature_middle = (low + high) / 2
        self._temperature_swing = half * 0.55
        self._offset = half * 0.3 * (draw() - 0.5)
        # The warmest hour is about 15:00, an hour earlier or later by where the device stands.
        self._day_shift_ms = int((9 + 2 * (draw() - 0.5)) * 3_600_000)
        self._drift = Wander(draw(), half * 0.08, 6 * 3600, slow)
        self._noise = Wander(draw(), half * 0.02, 20, interval)

        low, high = self._humidity_limits = config.humidity_range
        half = (high - low) / 2
        self._humidity_middle = (low + high) / 2 + half * 0.3 * (draw() - 0.5)
        self._humidity_swing = half * 0.6
        self._humidity_noise = Wander(draw(), half * 0.04, 60, interval)

        self._altitude_hpa = 1013.25 - 30 * draw()
        self._weather = Wander(draw(), 6, 12 * 3600, slow)
        self._battery_life_ms = int((60 + 60 * draw()) * _DAY_MS)
        self._battery_phase = draw()
        self._temperature = self._humidity = self._pressure = self._battery = 0.0

    def measure(self, ts: int) -> tuple[float, float, float, float]:
        """The values at `ts` (epoch milliseconds): degrees Celsius, percent, hectopascal, percent."""
        if self._slow_left == 0:
            self._slow_left = self._slow_every
            self._move_slowly(ts)
        self._slow_left -= 1
        temperature = self._temperature + self._noise.next(self._draw())
        low, high = self._temperature_limits
        if not low <= temperature <= high:
            temperature = low if temperature < low else high
        humidity = self._humidity + self._humidity_noise.next(self._draw())
        low, high = self._humidity_limits
        if not low <= humidity <= high:
            humidity = low if humidity < low else high
        if self._spike() < self._spike_probability:
            temperature *= self._spike_factor
        return temperature, humidity, self._pressure, self._battery

    def _move_slowly(self, ts: int) -> None:
        day = math.sin((ts - self._day_shift_ms) % _DAY_MS / _DAY_MS * math.tau)
        warmth = self._temperature_swing * day + self._offset + self._drift.next(self._draw())
        self._temperature = self._temperature_middle + warmth
        # Warm air holds more water, so the same water is a lower relative humidity.
        self._humidity = self._humidity_middle - self._humidity_swing * warmth / self._temperature_swing
        low, high = _PRESSURE_LIMITS_HPA
        self._pressure = min(high, max(low, self._altitude_hpa + self._weather.next(self._draw())))
        self._battery = 100 - 95 * ((ts / self._battery_life_ms + self._battery_phase) % 1)

    def encode(self, ts: int, seq: int) -> bytes:
        """The reading taken at `ts` (epoch milliseconds) as JSON."""
        temperature, humidity, pressure, battery = self.measure(ts)
        return _TEMPLATE % (ts, seq, temperature, humidity, pressure, battery)

    def reading(self, ts: int, seq: int) -> dict[str, Any]:
        """The reading taken at `ts` (epoch milliseconds), as `encode` writes it."""
        values = zip(_NAMES, self.measure(ts), strict=True)
        return {"ts": ts, "seq": seq} | {name: round(value, 2) for name, value in values}
