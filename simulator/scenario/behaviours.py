"""The behaviours a scenario can ask for, as values. When each befalls a device is for `timeline`, what it does for others.

Times are in seconds since the start of the run, and the device's own: a stuttering machine changes nothing in them.
"""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Which devices of a group, and when."""

    at_seconds: float = 0.0
    """The first time."""
    every_seconds: float | None = None
    """Between the beginnings of two times; None: once."""
    for_seconds: float = inf
    """How long each time; infinite: to the end of the run."""
    times: int | None = None
    """How often at most, with `every_seconds`; None: to the end."""
    spread_seconds: float = 0.0
    """Each device begins by up to so much later, chosen by the seed."""
    share: float = 1.0
    """Of the group's devices, chosen by the seed."""
    devices: tuple[int, ...] = ()
    """These devices instead, by their number in the group, from 1."""


@dataclass(frozen=True, kw_only=True)
class Offline(Behaviour):
    """The connection is away for a while; then the backlog comes as a burst."""

    abrupt: bool = True
    """Without a DISCONNECT, so that the broker sends the last will."""


@dataclass(frozen=True, kw_only=True)
class DisconnectStorm(Behaviour):
    """All of them lose their connections at once, abruptly, and come back together."""

    for_seconds: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reboot(Behaviour):
    """Off for a while without measuring; then the sequence begins at 0."""

    for_seconds: float = 2.0
    keep_backlog: bool = True
    """Whether what had not been sent survives; else it is lost, and counted as dropped."""


@dataclass(frozen=True, kw_only=True)
class Revoke(Behaviour):
    """The certificate is deactivated; the device then loses its connection and is refused when it comes back."""

    reconnect_seconds: float = 3.0
    """From the revocation until the connection is lost."""


@dataclass(frozen=True, kw_only=True)
class ClockSkew(Behaviour):
    """The device's clock is wrong by so much."""

    offset_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Duplicate(Behaviour):
    """A message is sent a second time, byte for byte."""

    probability: float = 0.0
    after: int = 0
    """So many other messages later."""


@dataclass(frozen=True, kw_only=True)
class Reorder(Behaviour):
    """Messages leave in another order within a window of so many."""

    window: int = 4


@dataclass(frozen=True, kw_only=True)
class Drift(Behaviour):
    """A sensor goes away slowly, and is right again afterwards."""

    metric: str = "temperature"
    per_hour: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stuck(Behaviour):
    """A sensor repeats the value that it had."""

    metric: str = "temperature"


@dataclass(frozen=True, kw_only=True)
class Spike(Behaviour):
    """Single values are multiplied."""

    metric: str = "temperature"
    probability: float = 0.0
    factor: float = 2.5


@dataclass(frozen=True, kw_only=True)
class Malformed(Behaviour):
    """Messages that are none are sent beside the good ones."""

    probability: float = 0.0
    """Of one after each message."""
    forms: tuple[str, ...] = ()
    """Names of `simulator.scenario.malformed.FORMS`; none: all of them."""
