"""Keys of the sections that a scenario may have beside the runbook's, and how a mapping of them is read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ops.errors import UserError
from simulator.scenario import behaviours as kinds
from simulator.scenario.behaviours import Behaviour
from simulator.scenario.malformed import FORMS
from simulator.scenario.settings import Check, flag, number, one_of, prefix, span, whole
from simulator.scenario.yaml_file import Node

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(low: float = 0.0, *, above: bool = False) -> Check:
    """A time such as 500ms, 30s, 5m, 2h or 1d, or a number of seconds; returns seconds."""
    within = number(low, above=above)

    def check(value: object) -> float:
        if isinstance(value, str):
            match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?) ?(ms|s|m|h|d)", value)
            if match is None:
                raise ValueError("it must be a time such as 30s, 5m or 2h, or a number of seconds")
            value = float(match[1]) * _UNIT_SECONDS[match[2]]
        return within(value)

    return check


def _numbers(value: object) -> tuple[int, ...]:
    check = whole(1)
    if not isinstance(value, list) or not value:
        raise ValueError("it must be a list of devices' numbers such as [1, 5], counted from 1 in each group")
    return tuple(sorted({int(str(check(each))) for each in value}))


def _forms(value: object) -> tuple[str, ...]:
    check = one_of(*FORMS)
    if not isinstance(value, list) or not value:
        raise ValueError(f"it must be a list of {', '.join(FORMS)}")
    return tuple(str(check(each)) for each in value)


def name(value: object) -> str:
    """A word that names a metric."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", value):
        raise ValueError("it must be a name of letters, digits and '_' that does not begin with a digit")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it must be text")
    return value


@dataclass(frozen=True)
class Key:
    """One key of a mapping."""

    name: str
    field: str
    check: Check
    what: str
    """For the reference."""
    required: bool = False


PROFILE_KEYS = (
    Key("unit", "unit", _text, "of the metric; the contract's own have theirs"),
    Key("range", "range", span(float("-inf"), float("inf")), "[lowest, highest]; needed unless the contract has the metric"),
    Key("daily", "daily", flag, "{share, hour}: share of the range gone through each day, and when (UTC) it is highest"),
    Key("noise", "noise", number(0), "standard deviation of what changes within seconds, in its unit"),
    Key("drift", "drift", number(0), "standard deviation of what changes within hours, in its unit"),
    Key("follows", "follows", flag, "{metric, factor}: how far that one is from the middle of its range is added, times factor"),
    Key("decimals", "decimals", whole(0, 9), "digits after the point"),
)  # fmt: skip
DAILY_KEYS = (
    Key("share", "daily_share", number(0, 1), "of the range", required=True),
    Key("hour", "daily_hour", number(0, 24), "when it is highest, UTC"),
)
FOLLOWS_KEYS = (
    Key("metric", "follows", name, "another one of the profile", required=True),
    Key("factor", "factor", number(float("-inf")), "how strongly, in this unit for each of that"),
)
GROUP_KEYS = (
    Key("count", "count", whole(1), "how many devices"),
    Key("share", "share", number(0, 1, above=True), "or what share of devices.count"),
    Key("prefix", "prefix", prefix, "of their names; left out: the fleet's, counting on"),
    Key("profile", "profile", _text, "one of `profiles`; left out: the default metrics"),
    Key("interval_seconds", "interval_seconds", number(0, above=True), "between two readings; left out: the fleet's"),
    Key("batch", "batch", whole(1, 1000), "readings per message at most; left out: the fleet's"),
    Key("behaviours", "behaviours", _text, "of these devices, after those of the whole fleet"),
)

_AT = Key("at", "at_seconds", duration(), "when it begins, from the start of the run")
_SPREAD = Key("spread", "spread_seconds", duration(), "each device begins by up to so much later, chosen by the seed")
_SHARE = Key("share", "share", number(0, 1, above=True), "of each group's devices, chosen by the seed; left out: all")
_DEVICES = Key("devices", "devices", _numbers, "these devices instead, by number in their group, from 1")
_EVERY = Key("every", "every_seconds", duration(above=True), "again each time after so long")
_TIMES = Key("times", "times", whole(1), "how often at most; left out: to the end")
_FOR = Key("for", "for_seconds", duration(above=True), "how long each time; left out: to the end")
COMMON_KEYS = (_AT, _EVERY, _TIMES, _FOR, _SPREAD, _SHARE, _DEVICES)
_ONCE_KEYS = (_AT, _SPREAD, _SHARE, _DEVICES)

_METRIC = Key("metric", "metric", name, "which one; left out: temperature")
_PROBABILITY = Key("probability", "probability", number(0, 1), "how likely", required=True)


@dataclass(frozen=True)
class Kind:
    """A behaviour as a scenario spells it."""

    made: type[Behaviour]
    own: tuple[Key, ...]
    common: tuple[Key, ...] = COMMON_KEYS
    begins: bool = False
    """Whether the file must say when: it is an event rather than a state."""

    @property
    def what(self) -> str:
        """For the reference."""
        return (self.made.__doc__ or "").strip()

    @property
    def keys(self) -> tuple[Key, ...]:
        """All that it takes."""
        return (*self.own, *self.common)


KINDS: Mapping[str, Kind] = {
    "offline": Kind(
        kinds.Offline, (Key("abrupt", "abrupt", flag, "without a DISCONNECT (default: true)"),), begins=True
    ),
    "disconnect_storm": Kind(kinds.DisconnectStorm, (), begins=True),
    "reboot": Kind(
        kinds.Reboot,
        (Key("keep_backlog", "keep_backlog", flag, "false: what was not sent yet is lost (default: true)"),),
        begins=True,
    ),
    "revoke": Kind(
        kinds.Revoke,
        (Key("reconnect", "reconnect_seconds", duration(), "from then until the connection is lost (default: 3s)"),),
        _ONCE_KEYS,
        begins=True,
    ),
    "clock_skew": Kind(
        kinds.ClockSkew,
        (Key("offset", "offset_seconds", duration(float("-inf")), "such as -10m, or more than the loader takes", required=True),),
    ),
    "duplicate": Kind(
        kinds.Duplicate,
        (_PROBABILITY, Key("after", "after", whole(0, 1000), "so many other messages later (default: 0)")),
    ),
    "reorder": Kind(kinds.Reorder, (Key("window", "window", whole(2, 1000), "messages (default: 4)"),)),
    "drift": Kind(
        kinds.Drift, (_METRIC, Key("per_hour", "per_hour", number(float("-inf")), "in its unit", required=True))
    ),
    "stuck": Kind(kinds.Stuck, (_METRIC,)),
    "spike": Kind(
        kinds.Spike,
        (_METRIC, _PROBABILITY, Key("factor", "factor", number(float("-inf")), "what it is multiplied by (default: 2.5)")),
    ),
    "malformed": Kind(
        kinds.Malformed,
        (_PROBABILITY, Key("forms", "forms", _forms, f"of {', '.join(FORMS)}; left out: all")),
    ),
}  # fmt: skip
"""The behaviours by the `kind` that a scenario gives."""


def take(node: Node, keys: Sequence[Key], *, also: Sequence[str] = ()) -> dict[str, Any]:
    """The checked values of a mapping, by field; keys of `also` are left to the caller. Raises `UserError`."""
    by_name = {key.name: key for key in keys}
    fields: dict[str, Any] = {}
    for found, member in node.mapping().items():
        if found in also:
            continue
        if found not in by_name:
            raise UserError(f"{member.where} is no setting of the simulator: {hint(found, [*also, *by_name])}")
        fields[by_name[found].field] = checked(member, by_name[found].check)
    for key in keys:
        if key.required and key.field not in fields:
            raise UserError(f"{node.where} has no {key.name}: {key.what}")
    return fields


def checked(node: Node, check: Check) -> object:
    """The value of a node. Raises `UserError` with what is right."""
    try:
        return check(node.value)
    except ValueError as error:
        raise UserError(f"{node.where} is {json.dumps(node.value, default=str)}: {error}") from error


def hint(found: str, known: Sequence[str]) -> str:
    """What was meant, or what there is."""
    if close := get_close_matches(found, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(known)}" if known else "there are none"
