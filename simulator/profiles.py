"""Devices that measure something else than the default: any metrics, each with its range, day, noise and relations."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulator.wander import Wander

_DAY_MS = 86_400_000
_DRIFT_MEMORY_SECONDS = 6 * 3600
_NOISE_MEMORY_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class MetricProfile:
    """How one metric behaves. Amounts are in its unit."""

    name: str
    unit: str
    low: float
    high: float
    """It never leaves `low` to `high`, except by a behaviour."""
    daily_share: float = 0.0
    """How much of the range it goes through every day, from lowest to highest."""
    daily_hour: float = 15.0
    """When it is highest, UTC."""
    noise: float = 0.0
    """Standard deviation of what changes within seconds."""
    drift: float = 0.0
    """Standard deviation of what changes within hours."""
    decimals: int = 2
    follows: str | None = None
    """A metric whose distance from the middle of its range is added, multiplied by `factor`."""
    factor: float = 1.0

    @property
    def middle(self) -> float:
        """Of its range."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Profile:
    """What a kind of device measures."""

    name: str
    metrics: tuple[MetricProfile, ...]

    def __post_init__(self) -> None:
        in_order(self.metrics)


def in_order(metrics: Sequence[MetricProfile]) -> list[int]:
    """The positions of the metrics, each after the one that it follows.

    Raises `ValueError` where metrics follow each other in a circle, or one that there is not.
    """
    positions = {metric.name: position for position, metric in enumerate(metrics)}
    ordered: list[int] = []

    def place(position: int, followers: tuple[str, ...]) -> None:
        metric = metrics[position]
        if metric.name in followers:
            raise ValueError(f"{' follows '.join((*followers, metric.name))}, which is a circle")
        if position in ordered:
            return
        if metric.follows is not None:
            if metric.follows not in positions:
                raise ValueError(f"{metric.name} follows {metric.follows}, which this profile does not have")
            place(positions[metric.follows], (*followers, metric.name))
        ordered.append(position)

    for position in range(len(metrics)):
        place(position, ())
    return ordered


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
