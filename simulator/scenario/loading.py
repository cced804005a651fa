"""A fleet's configuration: defaults, then a YAML file, then the command line, checked.

Every fault is a `UserError` of one line: the file and line (or the option), the key, the value, and what is right.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ops.errors import UserError
from simulator.scenario.config import AWS_PUBLISHES_PER_SECOND, TYPICAL_READING_BYTES, SimulatorConfig
from simulator.scenario.scenario_file import SECTIONS, Scenario, read_scenario
from simulator.scenario.settings import SETTINGS, Setting
from simulator.scenario.yaml_file import read_tree

# https://docs.aws.amazon.com/general/latest/gr/iot-core.html (message broker and protocol limits, per connection)
AWS_BYTES_PER_SECOND = 512 * 1024
AWS_TOPIC_MAX_BYTES = 256
AWS_TOPIC_MAX_SLASHES = 7

_RUNBOOK_SECTIONS = tuple(dict.fromkeys(setting.key.partition(".")[0] for setting in SETTINGS))


def load_config(
    path: Path | None = None, *, options: Mapping[str, object] | None = None, topic: str | None = None
) -> SimulatorConfig:
    """Read the configuration: the defaults, over them the file, over both the options (by field name; None: not given).

    `topic` is the default topic of an environment other than the local one. Raises `UserError`.
    """
    fields: dict[str, Any] = {} if topic is None else {"topic": topic}
    origins: dict[str, str] = {}
    by_key = {setting.key: setting for setting in SETTINGS}
    sections = read_tree(path).mapping() if path else {}
    for section, node in sections.items():
        if section in SECTIONS:
            continue
        known = section in _RUNBOOK_SECTIONS
        if not known and not node.members:
            raise UserError(f"{node.where} is no setting of the simulator: {_hint(section)}")
        for key, member in node.mapping().items():
            if f"{section}.{key}" not in by_key:
                raise UserError(f"{member.where} is no setting of the simulator: {_hint(f'{section}.{key}')}")
            _take(fields, origins, by_key[f"{section}.{key}"], member.value, member.where)
    for setting in SETTINGS:
        value = (options or {}).get(setting.field or "")
        if value is not None:
            _take(fields, origins, setting, value, setting.option or setting.key)
    scenario = read_scenario(sections)
    config = _with_scenario(SimulatorConfig(**fields), scenario, origins)
    _check_names(config, path)
    _check_topic(config, origins)
    _check_rate(config, origins, scenario)
    return config


def _with_scenario(config: SimulatorConfig, scenario: Scenario, origins: Mapping[str, str]) -> SimulatorConfig:
    groups = scenario.groups(config.device_count, origins.get("device_count"))
    count = sum(group.count for group in groups) if groups else config.device_count
    return replace(config, device_count=count, groups=groups, behaviours=scenario.behaviours)


def _check_names(config: SimulatorConfig, path: Path | None) -> None:
    names = config.thing_names()
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: two devices would have the name {twice}: give the groups prefixes that differ")


def _take(fields: dict[str, Any], origins: dict[str, str], setting: Setting, value: object, where: str) -> None:
    try:
        checked = setting.check(value)
    except ValueError as error:
        raise UserError(f"{where} is {json.dumps(value, default=str)}: {error}") from error
    if setting.field is not None:
        fields[setting.field] = checked
        origins[setting.field] = where


def _hint(key: str) -> str:
    known = [setting.key for setting in SETTINGS]
    sections = [*_RUNBOOK_SECTIONS, *SECTIONS]
    if close := get_close_matches(key, known, n=1, cutoff=0.8) or get_close_matches(key, sections, n=1, cutoff=0.75):
        return f"did you mean {close[0]}?"
    section = key.partition(".")[0]
    if section in sections:
        names = [name.removeprefix(f"{section}.") for name in known if name.startswith(f"{section}.")]
        return f"{section} takes {', '.join(names)}"
    return f"the sections are {', '.join(sections)}"


def _check_topic(config: SimulatorConfig, origins: Mapping[str, str]) -> None:
    where = origins.get("topic", "the topic")
    longest = f"{config.topic}/{max(config.thing_names(), key=len)}"
    levels = longest.split("/")
    # Basic Ingest's `$aws/rules/<rule>/` counts neither as levels nor as length.
    counted = "/".join(levels[3:] if levels[0] == "$aws" else levels)
    if len(counted.encode()) > AWS_TOPIC_MAX_BYTES or counted.count("/") > AWS_TOPIC_MAX_SLASHES:
        raise UserError(
            f"{where} is '{config.topic}': with the thing's name it has {len(counted.encode())} bytes and "
            f"{counted.count('/')} slashes; AWS IoT takes at most {AWS_TOPIC_MAX_BYTES} and {AWS_TOPIC_MAX_SLASHES}"
        )


def _check_rate(config: SimulatorConfig, origins: Mapping[str, str], scenario: Scenario) -> None:
    if config.unthrottled:
        return
    for group in config.groups or (None,):
        interval = (group and group.interval_seconds) or config.interval_seconds
        batch = (group and group.batch) or config.batch
        readings = 1 / interval
        messages = readings / replace(config, interval_seconds=interval, batch=batch).readings_per_message
        if messages <= AWS_PUBLISHES_PER_SECOND and readings * TYPICAL_READING_BYTES <= AWS_BYTES_PER_SECOND:
            continue
        own = scenario.where(group.name, "interval_seconds") if group else None
        where = own or origins.get("interval_seconds", "telemetry.interval_seconds")
        raise UserError(
            f"{where} is {interval:g}: each device "
            f"would send {messages:.0f} messages/s ({readings * TYPICAL_READING_BYTES / 1024:.0f} KB/s) and AWS IoT takes "
            f"{AWS_PUBLISHES_PER_SECOND}/s (512 KB/s) per connection; raise the interval or the batch ({batch}), "
            "or pass --unthrottled for a broker that takes more"
        )
