"""Groups of devices: how many, what they measure, what befalls them, and how they are named."""

from collections.abc import Iterable
from dataclasses import dataclass

from certs.names import thing_names
from simulator.scenario.behaviours import Behaviour
from simulator.scenario.profiles import Profile


@dataclass(frozen=True, kw_only=True)
class DeviceGroup:
    """Devices of a kind. What is None is the fleet's."""

    name: str
    count: int
    prefix: str | None = None
    profile: Profile | None = None
    interval_seconds: float | None = None
    batch: int | None = None
    behaviours: tuple[Behaviour, ...] = ()


def group_names(groups: Iterable[DeviceGroup], prefix: str) -> list[list[str]]:
    """The things' names by group, in order: groups that share a prefix count on. `prefix` is the fleet's."""
    counted: dict[str, int] = {}
    names = []
    for group in groups:
        own = prefix if group.prefix is None else group.prefix
        start = counted.get(own, 0) + 1
        names.append(thing_names(group.count, own, start))
        counted[own] = start + group.count - 1
    return names
