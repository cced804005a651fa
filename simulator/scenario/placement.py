"""What each device of a fleet is to do: which group it is in, and which behaviours befall it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from simulator.scenario.behaviours import Behaviour, Revoke
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.groups import DeviceGroup, group_names
from simulator.scenario.profiles import Profile


@dataclass(frozen=True)
class Placement:
    """What one device is to do. Each behaviour has a key, which no other of the fleet has, for its random numbers."""

    interval_seconds: float
    batch: int
    profile: Profile | None = None
    behaviours: tuple[tuple[str, Behaviour], ...] = ()


def placement_of(config: SimulatorConfig, index: int, thing_name: str) -> Placement:
    """Of the device of this index, or rather of this name where it is one of the fleet's."""
    if not config.groups and not config.behaviours:
        return Placement(config.interval_seconds, config.batch)
    placed = placements(config)
    return placed.get(thing_name) or placed[config.thing_names()[index]]


@lru_cache(maxsize=4)
def placements(config: SimulatorConfig) -> dict[str, Placement]:
    """What each device is to do, by its name."""
    groups = config.groups or (DeviceGroup(name="fleet", count=config.device_count),)
    names = group_names(config.groups, config.prefix) if config.groups else [config.thing_names()]
    placed: dict[str, Placement] = {}
    for group, members in zip(groups, names, strict=True):
        befallen: dict[str, list[tuple[str, Behaviour]]] = {name: [] for name in members}
        for owner, behaviours in (("fleet", config.behaviours), (group.name, group.behaviours)):
            for number, behaviour in enumerate(behaviours):
                key = f"{owner}/{group.name}/{number}/{type(behaviour).__name__}"
                for name in _chosen(behaviour, members, f"{config.seed}/{key}"):
                    befallen[name].append((key, behaviour))
        for name in members:
            placed[name] = Placement(
                group.interval_seconds or config.interval_seconds,
                group.batch or config.batch,
                group.profile,
                tuple(befallen[name]),
            )
    return placed


def revoked_things(config: SimulatorConfig) -> list[str]:
    """The things whose certificate is revoked in this run, if it lasts so long."""
    return [
        name
        for name, place in (placements(config) if config.has_behaviours else {}).items()
        if any(isinstance(behaviour, Revoke) for _, behaviour in place.behaviours)
    ]


def _chosen(behaviour: Behaviour, members: Sequence[str], key: str) -> Sequence[str]:
    if behaviour.devices:
        return [members[number - 1] for number in behaviour.devices if number <= len(members)]
    if behaviour.share >= 1:
        return members
    # Ranked by a hash rather than drawn: only the sequence of `random()` is the same on every version of Python.
    ranked = sorted(members, key=lambda name: sha256(f"{key}/{name}".encode()).digest())
    return ranked[: round(behaviour.share * len(members))]
