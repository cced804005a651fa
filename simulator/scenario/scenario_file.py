"""The sections of a scenario that the runbook's form does not have: profiles, groups and behaviours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from lambdas.shared.contract import METRICS, Metric
from ops.errors import UserError
from simulator.scenario.behaviours import Behaviour
from simulator.scenario.groups import DeviceGroup
from simulator.scenario.keys import DAILY_KEYS, FOLLOWS_KEYS, GROUP_KEYS, KINDS, PROFILE_KEYS, checked, hint, name, take
from simulator.scenario.profiles import MetricProfile, Profile
from simulator.scenario.settings import one_of
from simulator.scenario.yaml_file import Node

SECTIONS = ("profiles", "groups", "behaviours")

_CONTRACT: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
_USUAL_RANGES = {
    "temperature": (15.0, 35.0),
    "humidity": (30.0, 80.0),
    "pressure": (980.0, 1040.0),
    "battery": (5.0, 100.0),
}
_RESERVED = ("ts", "seq", "readings", "device_id", "received_at", "stamp")
_MAX_METRICS = 50


@dataclass(frozen=True)
class _Said:
    """A behaviour and where the file has it."""

    node: Node
    behaviour: Behaviour


@dataclass(frozen=True)
class _GroupDraft:
    node: Node
    name: str
    fields: dict[str, Any]
    behaviours: tuple[_Said, ...]


@dataclass(frozen=True)
class Scenario:
    """What those sections say. How many devices a group has is settled when the size of the fleet is known."""

    drafts: tuple[_GroupDraft, ...]
    fleet_wide: tuple[_Said, ...]

    @property
    def behaviours(self) -> tuple[Behaviour, ...]:
        """Of the whole fleet."""
        return tuple(said.behaviour for said in self.fleet_wide)

    def groups(self, device_count: int, origin: str | None) -> tuple[DeviceGroup, ...]:
        """The groups of a fleet of so many devices, which `origin`, if anything, has asked for. Raises `UserError`."""
        counts = _counts(self.drafts, device_count, origin)
        groups = tuple(
            DeviceGroup(
                name=draft.name,
                count=count,
                behaviours=tuple(said.behaviour for said in draft.behaviours),
                **{field: value for field, value in draft.fields.items() if field not in ("count", "share")},
            )
            for draft, count in zip(self.drafts, counts, strict=True)
        )
        self._check_devices(groups, device_count)
        return groups

    def where(self, group: str, key: str) -> str | None:
        """Where the file has this key of a group; None if it has not."""
        found = next((draft.node.mapping().get(key) for draft in self.drafts if draft.name == group), None)
        return None if found is None else found.where

    def _check_devices(self, groups: Sequence[DeviceGroup], device_count: int) -> None:
        largest = max((group.count for group in groups), default=device_count)
        for said in self.fleet_wide:
            _check_numbers(said, largest, "the largest group" if groups else "the fleet")
        for draft, group in zip(self.drafts, groups, strict=True):
            for said in draft.behaviours:
                _check_numbers(said, group.count, f"group {group.name}")


def read_scenario(sections: Mapping[str, Node]) -> Scenario:
    """Read them, each where it is there. Raises `UserError` with file, line and key."""
    profiles: dict[str, Profile] = {}
    if node := sections.get("profiles"):
        profiles = {key: _profile(key, member) for key, member in node.mapping().items()}
    drafts: tuple[_GroupDraft, ...] = ()
    if node := sections.get("groups"):
        drafts = tuple(_group(key, member, profiles) for key, member in node.mapping().items())
    fleet_wide: tuple[_Said, ...] = ()
    if node := sections.get("behaviours"):
        measured = {metric for draft in drafts for metric in _metrics(draft.fields.get("profile"))}
        fleet_wide = _behaviours(node, sorted(measured or tuple(_CONTRACT)))
    return Scenario(drafts, fleet_wide)


def _metrics(profile: Profile | None) -> tuple[str, ...]:
    return tuple(_CONTRACT) if profile is None else tuple(metric.name for metric in profile.metrics)


# Profiles.


def _profile(key: str, node: Node) -> Profile:
    metrics = tuple(_metric(name, member) for name, member in node.mapping().items())
    if not 1 <= len(metrics) <= _MAX_METRICS:
        raise UserError(f"{node.where} has {len(metrics)} metrics: a profile has from 1 to {_MAX_METRICS}")
    try:
        return Profile(key, metrics)
    except ValueError as error:
        raise UserError(f"{node.where}: {error}") from error


def _metric(key: str, node: Node) -> MetricProfile:
    try:
        name(key)
    except ValueError as error:
        raise UserError(f"{node.where}: {error}") from error
    if key in _RESERVED:
        raise UserError(f"{node.where}: {key} is not free for a metric: the telemetry contract has it for itself")
    fields = take(
        node, [each for each in PROFILE_KEYS if each.name not in ("daily", "follows")], also=("daily", "follows")
    )
    for nested, keys in (("daily", DAILY_KEYS), ("follows", FOLLOWS_KEYS)):
        if nested in node.mapping():
            fields |= take(node.mapping()[nested], keys)
    low, high = fields.pop("range", None) or _USUAL_RANGES.get(key) or (None, None)
    if low is None or high is None:
        raise UserError(f"{node.where} has no range: write range: [lowest, highest]; only the contract's own need none")
    fields.setdefault("unit", _CONTRACT[key].unit if key in _CONTRACT else "")
    if key in _CONTRACT:
        _check_contract(_CONTRACT[key], node, fields["unit"], low, high)
    return MetricProfile(name=key, low=low, high=high, **fields)


def _check_contract(metric: Metric, node: Node, unit: str, low: float, high: float) -> None:
    if unit != metric.unit:
        raise UserError(
            f"{node.mapping()['unit'].where} is {unit}: {metric.name} is in {metric.unit} by the telemetry contract; "
            "convert it, or give the metric another name"
        )
    if low < metric.low or high > metric.high:
        raise UserError(
            f"{node.mapping()['range'].where} is [{low:g}, {high:g}]: it must be from {metric.low:g} to {metric.high:g} "
            f"{metric.unit}, which is what is plausible; for values beyond that use the behaviour spike or drift"
        )


# Groups.


def _group(key: str, node: Node, profiles: Mapping[str, Profile]) -> _GroupDraft:
    fields = take(
        node,
        [each for each in GROUP_KEYS if each.name not in ("profile", "behaviours")],
        also=("profile", "behaviours"),
    )
    members = node.mapping()
    if ("count" in fields) == ("share" in fields):
        raise UserError(f"{node.where} must have either a count or a share: how many devices are in it")
    if "profile" in members:
        profile = members["profile"]
        if profile.value not in profiles:
            raise UserError(
                f"{profile.where} is {profile.value}, which is not among the profiles: {hint(str(profile.value), [*profiles])}"
            )
        fields["profile"] = profiles[str(profile.value)]
    behaviours = _behaviours(members["behaviours"], _metrics(fields.get("profile"))) if "behaviours" in members else ()
    return _GroupDraft(node, key, fields, behaviours)


def _counts(drafts: Sequence[_GroupDraft], device_count: int, origin: str | None) -> list[int]:
    if not drafts:
        return []
    counted = [draft for draft in drafts if "count" in draft.fields]
    if counted and len(counted) < len(drafts):
        other = next(draft for draft in drafts if "share" in draft.fields)
        raise UserError(
            f"{other.node.where} has a share and {counted[0].name} a count: give each group the same of both"
        )
    if counted:
        counts = [draft.fields["count"] for draft in drafts]
        if origin is not None and sum(counts) != device_count:
            raise UserError(
                f"{origin} is {device_count}: the counts of the groups add up to {sum(counts)}; leave it out, or give "
                "the groups shares instead"
            )
        return counts
    shares = [draft.fields["share"] for draft in drafts]
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"{drafts[0].node.where}: the shares of the groups add up to {sum(shares):g}: they must add up to 1"
        )
    counts = [int(share * device_count + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: counts[n] - shares[n] * device_count)
    for position in by_remainder[: device_count - sum(counts)]:
        counts[position] += 1
    for draft, count in zip(drafts, counts, strict=True):
        if count == 0:
            raise UserError(
                f"{draft.node.where} has a share of {draft.fields['share']:g}: of {device_count} devices that is none; "
                "use more devices"
            )
    return counts


# Behaviours.


def _behaviours(node: Node, metrics: Sequence[str]) -> tuple[_Said, ...]:
    return tuple(_Said(item, _behaviour(item, metrics)) for item in node.sequence())


def _behaviour(node: Node, metrics: Sequence[str]) -> Behaviour:
    members = node.mapping()
    if "kind" not in members:
        raise UserError(f"{node.where} has no kind: it is one of {', '.join(KINDS)}")
    kind = KINDS[str(checked(members["kind"], one_of(*KINDS)))]
    fields = take(node, kind.keys, also=("kind",))
    if "metric" in {key.name for key in kind.own}:
        metric = fields.get("metric", "temperature")
        if metric not in metrics:
            raise UserError(
                f"{members.get('metric', node).where} is {metric}, which is not measured here: {hint(metric, metrics)}"
            )
    if kind.begins and not {"at_seconds", "every_seconds"} & fields.keys():
        every = " or every" if "every" in {key.name for key in kind.keys} else ""
        raise UserError(f"{node.where} does not say when: give it at, such as at: 30s{every}")
    if "every_seconds" in fields:
        fields.setdefault("at_seconds", fields["every_seconds"])
    behaviour = kind.made(**fields)
    _check_times(node, behaviour)
    if "devices" in members and "share" in members:
        raise UserError(f"{members['share'].where}: give either devices or a share, not both")
    return behaviour


def _check_times(node: Node, behaviour: Behaviour) -> None:
    members = node.mapping()
    if behaviour.every_seconds is None:
        if "times" in members:
            raise UserError(f"{members['times'].where}: needs every, which says how long after each other")
        return
    if behaviour.for_seconds == inf:
        raise UserError(f"{members['every'].where}: needs for as well, or it would never end to begin again")
    if behaviour.for_seconds >= behaviour.every_seconds:
        raise UserError(
            f"{members['every'].where} is {members['every'].value}: it must be longer than for "
            f"({behaviour.for_seconds:g} s), or it would begin again before it has ended"
        )


def _check_numbers(said: _Said, count: int, of_what: str) -> None:
    if said.behaviour.devices and said.behaviour.devices[-1] > count:
        raise UserError(
            f"{said.node.mapping()['devices'].where} has {said.behaviour.devices[-1]}: {of_what} has {count} devices"
        )
