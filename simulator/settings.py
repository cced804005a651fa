"""Every setting of the simulator: its key in the YAML file, its option, and the check of its value."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from lambdas.shared.contract import METRICS
from simulator.endpoint import Endpoint

Check = Callable[[object], object]
"""Takes a value as YAML or the command line has it; returns it typed, or raises `ValueError` with what is right."""


def _whole(low: int, high: int | None = None) -> Check:
    right = f"it must be a whole number of at least {low}" + (f" and at most {high}" if high else "")

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise ValueError(right)
        return value

    return check


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[object], float]:
    upwards = f"greater than {low:g}" if above else f"at least {low:g}"
    right = f"from {low:g} to {high:g}" if high < math.inf else upwards

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"it must be a number {right}")
        if not low <= value <= high or (above and value == low):
            raise ValueError(f"it must be {right}")
        return float(value)

    return check


def _range(low: float, high: float) -> Check:
    bound = _number(low, high)

    def check(value: object) -> tuple[float, float]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("it must be two numbers, [lowest, highest]")
        lowest, highest = bound(value[0]), bound(value[1])
        if lowest == highest:
            raise ValueError("the range is empty; write [lowest, highest] with two different numbers")
        if lowest > highest:
            raise ValueError(f"the range is upside down; write [{highest:g}, {lowest:g}]")
        return lowest, highest

    return check


def _plausible(name: str) -> Check:
    """A range of a metric within what the telemetry contract calls plausible; only spikes go beyond it."""
    (metric,) = (each for each in METRICS if each.name == name)
    check = _range(-math.inf, math.inf)

    def within(value: object) -> object:
        lowest, highest = found = cast(tuple[float, float], check(value))
        if lowest < metric.low or highest > metric.high:
            raise ValueError(
                f"it must be from {metric.low:g} to {metric.high:g} {metric.unit}, which is what is plausible; "
                "for values beyond that use anomaly.spike_factor"
            )
        return found

    return within


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("it must be true or false")


def _duration(value: object) -> float | None:
    return None if value is None else _number(0, above=True)(value)


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, str):
        return Endpoint.parse(value)
    raise ValueError("it must be a broker's address such as ssl://host:8883")


def _prefix(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9:_-]{1,100}", value):
        raise ValueError("the name of a thing takes letters, digits, ':', '_' and '-', here 1 to 100 of them")
    return value


def _topic(value: object) -> str:
    if not isinstance(value, str) or "" in value.split("/") or any(c in "+#" or not c.isprintable() for c in value):
        raise ValueError("it must be a topic such as iot/telemetry: levels with '/' between, none empty, no '+' or '#'")
    if value.startswith("$") and not re.match(r"\$aws/rules/\w+/.", value, re.ASCII):
        raise ValueError("AWS IoT reserves topics that begin with '$'; Basic Ingest is $aws/rules/<rule>/<topic>")
    return value


def _qos(value: object) -> int:
    if value == 2:
        raise ValueError("AWS IoT Core has no QoS 2; write 1")
    if value != 1 or isinstance(value, bool):
        raise ValueError("it must be 1: a message of QoS 0 is not acknowledged, so it could not be accounted for")
    return 1


@dataclass(frozen=True)
class Setting:
    """One setting. `field` is None where a file may only confirm what is always so, `option` where no option exists."""

    key: str
    field: str | None
    option: str | None
    check: Check


SETTINGS = (
    Setting("devices.count", "device_count", "--device-count", _whole(1)),
    Setting("devices.prefix", "prefix", "--prefix", _prefix),
    Setting("devices.buffer_readings", "buffer_readings", None, _whole(1)),
    Setting("telemetry.interval_seconds", "interval_seconds", "--interval", _number(0, above=True)),
    Setting("telemetry.duration_seconds", "duration_seconds", "--duration", _duration),
    Setting("telemetry.temperature_range", "temperature_range", None, _plausible("temperature")),
    Setting("telemetry.humidity_range", "humidity_range", None, _plausible("humidity")),
    Setting("telemetry.batch", "batch", "--batch", _whole(1, 1000)),
    Setting("telemetry.linger_seconds", "linger_seconds", None, _number(0)),
    Setting("telemetry.seed", "seed", "--seed", _whole(0)),
    Setting("mqtt.broker", "endpoint", "--endpoint", _endpoint),
    Setting("mqtt.topic", "topic", "--topic", _topic),
    Setting("mqtt.qos", None, None, _qos),
    Setting("mqtt.unthrottled", "unthrottled", "--unthrottled", _flag),
    Setting("anomaly.probability", "anomaly_probability", None, _number(0, 1)),
    Setting("anomaly.spike_factor", "spike_factor", None, _number(0, above=True)),
)
"""The file's keys are the runbook's ("Adjust Simulator Configuration"), and some of ours beside them."""
