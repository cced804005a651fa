"""Profiles: what a kind of device measures, each metric with its range, day, noise and relations."""

from collections.abc import Sequence
from dataclasses import dataclass


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
