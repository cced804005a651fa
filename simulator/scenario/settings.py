"""Every setting of the simulator: its key in the YAML file, its option, and the check of its value."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import cast

from lambdas.shared.contract import METRICS
from simulator.scenario.endpoint import Endpoint

Check = Callable[[object], object]
"""Takes a value as YAML or the command line has it; returns it typed, or raises `ValueError` with what is right."""


def whole(low: int, high: int | None = None) -> Check:
    """A whole number."""
    right = f"it must be a whole number of at least {low}" + (f" and at most {high}" if high else "")

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            raise ValueError(right)
        return value

    return check


def number(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[object], float]:
    """A number."""
    upwards = f"greater than {low:g}" if above else f"at least {low:g}"
    within = f"{upwards} and at most {high:g}" if above else f"from {low:g} to {high:g}"
    right = within if high < math.inf else upwards if low > -math.inf else "such as 1.5"

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"it must be a number {right}")
        if not low <= value <= high or (above and value == low):
            raise ValueError(f"it must be {right}")
        return float(value)

    return check


def span(low: float, high: float) -> Check:
    """Lowest and highest, two different numbers within `low` to `high`."""
    bound = number(low, high)

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
    check = span(-math.inf, math.inf)

    def within(value: object) -> object:
        lowest, highest = found = cast(tuple[float, float], check(value))
        if lowest < metric.low or highest > metric.high:
            raise ValueError(
                f"it must be from {metric.low:g} to {metric.high:g} {metric.unit}, which is what is plausible; "
                "for values beyond that use anomaly.spike_factor"
            )
        return found

    return within


def flag(value: object) -> bool:
    """True or false."""
    if isinstance(value, bool):
        return value
    raise ValueError("it must be true or false")


def _duration(value: object) -> float | None:
    return None if value is None else number(0, above=True)(value)


def _endpoint(value: object) -> Endpoint:
    if isinstance(value, str):
        return Endpoint.parse(value)
    raise ValueError("it must be a broker's address such as ssl://host:8883")


def prefix(value: object) -> str:
    """What names of things begin with."""
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


def _start(value: object) -> datetime:
    right = "it must be a time with an offset such as 2026-11-21T00:00:00Z"
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(right) from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(right)
    if not 1970 <= value.year < 2200:
        raise ValueError("it must be from 1970 to 2199")
    return value


def _firmware(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._+-]{1,32}", value):
        raise ValueError('it must be a version in quotes such as "1.0.0"')
    return value


def one_of(*choices: str) -> Check:
    """One of these words."""

    def check(value: object) -> str:
        if value not in choices or not isinstance(value, str):
            close = get_close_matches(str(value), choices, n=1)
            raise ValueError(f"did you mean {close[0]}?" if close else f"it must be one of {', '.join(choices)}")
        return value

    return check


@dataclass(frozen=True)
class Setting:
    """One setting. `field` is None where a file may only confirm what is always so, `option` where no option exists."""

    key: str
    field: str | None
    option: str | None
    check: Check
    what: str
    """For the reference."""


SETTINGS = (
    Setting("devices.count", "device_count", "--device-count", whole(1), "how many"),
    Setting("devices.prefix", "prefix", "--prefix", prefix, "of their names; a number from 00001 follows"),
    Setting(
        "devices.buffer_readings", "buffer_readings", None, whole(1),
        "readings that a device keeps while it is offline; beyond that it drops its oldest, and counts them",
    ),
    Setting("devices.managed", "managed", "--managed", flag, "a shadow, a last will and jobs for each device"),
    Setting("devices.firmware", "firmware", None, _firmware, "what a managed device says it runs"),
    Setting("devices.workers", "workers", "--workers", whole(1, 256), "processes that share the devices"),
    Setting(
        "telemetry.interval_seconds", "interval_seconds", "--interval", number(0, above=True),
        "between two readings of a device",
    ),
    Setting("telemetry.duration_seconds", "duration_seconds", "--duration", _duration, "of the run"),
    Setting("telemetry.temperature_range", "temperature_range", None, _plausible("temperature"), "degrees Celsius"),
    Setting("telemetry.humidity_range", "humidity_range", None, _plausible("humidity"), "percent"),
    Setting("telemetry.batch", "batch", "--batch", whole(1, 1000), "readings per message at most; 1: no envelope"),
    Setting(
        "telemetry.linger_seconds", "linger_seconds", None, number(0),
        "how long a reading waits at most for others to join its envelope",
    ),
    Setting("telemetry.seed", "seed", "--seed", whole(0), "same seed and start: the same bytes"),
    Setting("telemetry.start", "start", "--start", _start, "time of the first reading, instead of now"),
    Setting("mqtt.broker", "endpoint", "--endpoint", _endpoint, "host and port; left out: the environment's"),
    Setting("mqtt.topic", "topic", "--topic", _topic, "the thing's name is appended"),
    Setting("mqtt.qos", None, None, _qos, "1 and nothing else"),
    Setting("mqtt.protocol", "protocol", "--protocol", one_of("mqtt5", "mqtt311"), "MQTT 5 or 3.1.1"),
    Setting("mqtt.unthrottled", "unthrottled", "--unthrottled", flag, "leave AWS's limits per connection aside"),
    Setting(
        "anomaly.probability", "anomaly_probability", None, number(0, 1),
        "share of the readings whose temperature is a spike; of devices without a profile",
    ),
    Setting("anomaly.spike_factor", "spike_factor", None, number(0, above=True), "what such a temperature is multiplied by"),
)  # fmt: skip
"""The file's keys are the runbook's ("Adjust Simulator Configuration"), and some of ours beside them."""
