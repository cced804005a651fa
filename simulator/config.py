"""What a fleet does: defaults, then a YAML file, then the command line, checked into one frozen `SimulatorConfig`.

Every fault is a `UserError` of one line: the file and line (or the option), the key, the value, and what is right.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from certs.names import thing_names
from infra.names import Names
from ops.errors import UserError
from simulator.endpoint import Endpoint
from simulator.settings import SETTINGS, Setting
from simulator.yaml_file import read_sections

ENVELOPE_MAX_BYTES = 5_000
"""Firehose bills a record rounded up to 5 KB; what the rule adds to the payload still fits between this and that."""

TYPICAL_READING_BYTES = 120

# https://docs.aws.amazon.com/general/latest/gr/iot-core.html (message broker and protocol limits, per connection)
AWS_PUBLISHES_PER_SECOND = 100
AWS_BYTES_PER_SECOND = 512 * 1024
AWS_TOPIC_MAX_BYTES = 256
AWS_TOPIC_MAX_SLASHES = 7


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """What the fleet is and does. The defaults stand here and nowhere else."""

    device_count: int = 10
    prefix: str = "device-"
    buffer_readings: int = 5_000
    """What a device keeps for later while it cannot send; beyond that it drops its oldest readings, and counts them."""
    interval_seconds: float = 5.0
    """Time between two readings of one device."""
    duration_seconds: float | None = None
    """None: until stopped."""
    temperature_range: tuple[float, float] = (15.0, 35.0)
    """Degrees Celsius."""
    humidity_range: tuple[float, float] = (30.0, 80.0)
    """Percent, relative."""
    batch: int = 25
    """Readings per envelope at most; 1 sends each reading as a message of its own, without an envelope."""
    linger_seconds: float = 1.0
    """How long the first reading of an envelope waits at most for others to join it."""
    seed: int = 1
    endpoint: Endpoint | None = None
    """None: the running local stack's."""
    topic: str = Names.of("local").basic_ingest_topic
    """The name of the thing is appended as the last level."""
    unthrottled: bool = False
    """Leave AWS's limits per connection aside, for a load test of another broker."""
    anomaly_probability: float = 0.05
    """Share of the readings whose temperature is a spike."""
    spike_factor: float = 2.5

    def thing_names(self) -> list[str]:
        """`device-00001` and so on, as many as there are devices."""
        return thing_names(self.device_count, self.prefix)

    @property
    def readings_per_message(self) -> int:
        """Readings that fill a message at this interval: limited by count, by size, or by how long they may linger."""
        in_time = math.floor(self.linger_seconds / self.interval_seconds) + 1
        return min(self.batch, in_time, ENVELOPE_MAX_BYTES // TYPICAL_READING_BYTES)


def load_config(
    path: Path | None = None, *, options: Mapping[str, object] | None = None, topic: str | None = None
) -> SimulatorConfig:
    """Read the configuration: the defaults, over them the file, over both the options (by field name; None: not given).

    `topic` is the default topic of an environment other than the local one. Raises `UserError`.
    """
    fields: dict[str, Any] = {} if topic is None else {"topic": topic}
    origins: dict[str, str] = {}
    by_key = {setting.key: setting for setting in SETTINGS}
    sections = list(dict.fromkeys(key.partition(".")[0] for key in by_key))
    for key, entry in (read_sections(path) if path else {}).items():
        where = f"{path}:{entry.line}: {key}"
        if key in sections:
            continue
        if key not in by_key:
            raise UserError(f"{where} is no setting of the simulator: {_hint(key, sections)}")
        _take(fields, origins, by_key[key], entry.value, where)
    for setting in SETTINGS:
        value = (options or {}).get(setting.field or "")
        if value is not None:
            _take(fields, origins, setting, value, setting.option or setting.key)
    config = SimulatorConfig(**fields)
    _check_topic(config, origins)
    _check_rate(config, origins)
    return config


def _take(fields: dict[str, Any], origins: dict[str, str], setting: Setting, value: object, where: str) -> None:
    try:
        checked = setting.check(value)
    except ValueError as error:
        raise UserError(f"{where} is {json.dumps(value, default=str)}: {error}") from error
    if setting.field is not None:
        fields[setting.field] = checked
        origins[setting.field] = where


def _hint(key: str, sections: Sequence[str]) -> str:
    known = [setting.key for setting in SETTINGS]
    if close := get_close_matches(key, known, n=1, cutoff=0.75):
        return f"did you mean {close[0]}?"
    section = key.partition(".")[0]
    if section in sections:
        names = [name.removeprefix(f"{section}.") for name in known if name.startswith(f"{section}.")]
        return f"{section} takes {', '.join(names)}"
    return f"the sections are {', '.join(sections)}"


def _check_topic(config: SimulatorConfig, origins: Mapping[str, str]) -> None:
    where = origins.get("topic", "the topic")
    longest = f"{config.topic}/{config.thing_names()[-1]}"
    levels = longest.split("/")
    # Basic Ingest's `$aws/rules/<rule>/` counts neither as levels nor as length.
    counted = "/".join(levels[3:] if levels[0] == "$aws" else levels)
    if len(counted.encode()) > AWS_TOPIC_MAX_BYTES or counted.count("/") > AWS_TOPIC_MAX_SLASHES:
        raise UserError(
            f"{where} is '{config.topic}': with the thing's name it has {len(counted.encode())} bytes and "
            f"{counted.count('/')} slashes; AWS IoT takes at most {AWS_TOPIC_MAX_BYTES} and {AWS_TOPIC_MAX_SLASHES}"
        )


def _check_rate(config: SimulatorConfig, origins: Mapping[str, str]) -> None:
    readings = 1 / config.interval_seconds
    messages = readings / config.readings_per_message
    if config.unthrottled or (
        messages <= AWS_PUBLISHES_PER_SECOND and readings * TYPICAL_READING_BYTES <= AWS_BYTES_PER_SECOND
    ):
        return
    raise UserError(
        f"{origins.get('interval_seconds', 'telemetry.interval_seconds')} is {config.interval_seconds:g}: each device "
        f"would send {messages:.0f} messages/s ({readings * TYPICAL_READING_BYTES / 1024:.0f} KB/s) and AWS IoT takes "
        f"{AWS_PUBLISHES_PER_SECOND}/s (512 KB/s) per connection; raise the interval or the batch ({config.batch}), "
        "or pass --unthrottled for a broker that takes more"
    )
