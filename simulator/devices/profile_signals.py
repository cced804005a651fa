"""What the sensors of a device with a profile measure: any metrics, each with its range, day, noise and relations."""

import math
import random
from typing import Any

from simulator.devices.wander import Wander
from simulator.scenario.profiles import MetricProfile, Profile, in_order

_DAY_MS = 86_400_000
_DRIFT_MEMORY_SECONDS = 6 * 3600
_NOISE_MEMORY_SECONDS = 20


class ProfileSignals:
    """The sensors of one device of a profile. `measure` is to be called once for each reading, in order."""

    def __init__(self, profile: Profile, *, seed: int, thing_name: str, interval_seconds: float) -> None:
        self.names = tuple(metric.name for metric in profile.metrics)
        members = "".join(f',"{metric.name}":%.{metric.decimals}f' for metric in profile.metrics)
        self.template = b'{"ts":%d,"seq":%d' + members.encode() + b"}"
        self._decimals = tuple(metric.decimals for metric in profile.metrics)
        self._uniform = uniform = random.Random(f"{seed}/{thing_name}")  # noqa: S311  (no secret)
        sensors = [_Sensor(metric, uniform, interval_seconds) for metric in profile.metrics]
        self._sensors = [
            (position, sensors[position], _position(profile, profile.metrics[position].follows))
            for position in in_order(profile.metrics)
        ]

    def measure(self, ts: int) -> list[float]:
        """The values at `ts` (epoch milliseconds), in the order of `names`."""
        values = [0.0] * len(self._sensors)
        aside = values.copy()
        day = ts % _DAY_MS / _DAY_MS
        draw = self._uniform.random
        for position, sensor, leader in self._sensors:
            values[position] = value = sensor.value(day, draw(), draw(), 0.0 if leader is None else aside[leader])
            aside[position] = value - sensor.middle
        return values

    def encode(self, ts: int, seq: int) -> bytes:
        """The reading taken at `ts` as JSON."""
        return self.template % (ts, seq, *self.measure(ts))

    def reading(self, ts: int, seq: int) -> dict[str, Any]:
        """The reading taken at `ts`, as `encode` writes it."""
        values = zip(self.names, self.measure(ts), self._decimals, strict=True)
        return {"ts": ts, "seq": seq} | {name: round(value, decimals) for name, value, decimals in values}


class _Sensor:
    __slots__ = ("_base", "_drift", "_factor", "_high", "_hour_share", "_low", "_noise", "_swing", "middle")

    def __init__(self, metric: MetricProfile, uniform: random.Random, interval_seconds: float) -> None:
        self.middle = metric.middle
        # No two devices stand in the same place: a little off the middle, and a little earlier or later in the day.
        self._base = self.middle + (metric.high - metric.low) * 0.1 * (uniform.random() - 0.5)
        self._hour_share = (metric.daily_hour + uniform.random() - 0.5) / 24
        self._swing = (metric.high - metric.low) / 2 * metric.daily_share
        self._low, self._high = metric.low, metric.high
        self._factor = metric.factor
        self._drift = Wander(uniform.random(), metric.drift, _DRIFT_MEMORY_SECONDS, interval_seconds)
        self._noise = Wander(uniform.random(), metric.noise, _NOISE_MEMORY_SECONDS, interval_seconds)

    def value(self, day: float, drift: float, noise: float, leader_aside: float) -> float:
        """At the share `day` of the day, with two uniform numbers, and how far the metric that it follows is aside."""
        value = self._base + self._swing * math.cos((day - self._hour_share) * math.tau)
        value += self._drift.next(drift) + self._noise.next(noise) + self._factor * leader_aside
        return self._low if value < self._low else self._high if value > self._high else value


def _position(profile: Profile, name: str | None) -> int | None:
    return next((position for position, metric in enumerate(profile.metrics) if metric.name == name), None)
