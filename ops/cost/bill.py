"""A bill: quantities of what is used in a month, priced."""

from collections.abc import Iterable
from dataclasses import dataclass

from ops.cost.prices import PriceFile, unit

PIPELINE = ("IoT Core", "Firehose", "S3", "SQS", "Lambda")
"""The services of the target: what a reading passes on its way to the database."""
TARGET_USD_PER_MILLION = 0.05
"""Of the pipeline, per million readings, at `TARGET_READINGS_PER_SECOND`."""
TARGET_READINGS_PER_SECOND = 1000


@dataclass(frozen=True)
class Item:
    """A quantity that is billed each month."""

    service: str
    what: str
    quantity: float
    """In the unit that the price's name spells."""
    price: str
    """`service.usd_per_unit` in the price file."""


@dataclass(frozen=True)
class Line:
    """An item with its price."""

    item: Item
    unit_usd: float
    usd: float
    """A month."""

    @property
    def unit(self) -> str:
        """What is counted."""
        return unit(self.item.price)


@dataclass(frozen=True)
class Bill:
    """What a month costs, by service in the order of the items."""

    lines: tuple[Line, ...]
    readings_per_month: float

    @property
    def usd(self) -> float:
        """Everything, a month."""
        return sum(line.usd for line in self.lines)

    @property
    def pipeline_usd(self) -> float:
        """The services of the target, a month."""
        return self.of(*PIPELINE)

    def of(self, *services: str) -> float:
        """These services, a month."""
        return sum(line.usd for line in self.lines if line.item.service in services)

    def per_million(self, usd: float) -> float:
        """US dollars a month as US dollars per million readings."""
        return usd / (self.readings_per_month / 1e6)

    @property
    def services(self) -> list[str]:
        """Each service once, in the order of the items."""
        return list(dict.fromkeys(line.item.service for line in self.lines))


def price(items: Iterable[Item], prices: PriceFile, readings_per_month: float) -> Bill:
    """The bill for these items. Raises UserError when a price is missing."""
    lines = tuple(
        Line(item=item, unit_usd=(found := prices.price(item.price)).usd, usd=found.of(item.quantity))
        for item in items
        if item.quantity
    )
    return Bill(lines=lines, readings_per_month=readings_per_month)
