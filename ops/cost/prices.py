"""Price files, one per region: `prices/<region>.json`, dated, with AWS's price page as the source of each entry.

The name of a price is its unit, such as `usd_per_million_rules_triggered`; quantities are counted in that unit.
"""

from pathlib import Path

import msgspec

from ops.errors import UserError

FOLDER = Path(__file__).resolve().parent / "prices"
DEFAULT_REGION = "us-east-1"
_PREFIX = "usd_per_"
_SPELLED = {"gib": "GiB", "mib": "MiB", "iops": "IOPS", "s3": "S3", "ipv4": "IPv4"}


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a price that falls with volume."""

    up_to: float | None
    """Units a month up to which it holds; None: without end."""
    usd: float


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one unit costs."""

    usd: float
    source: str
    verified: bool
    """Whether the figure was found in stored copies of AWS's price lists; False: from memory."""
    tiers: tuple[Tier, ...] = ()

    def of(self, quantity: float) -> float:
        """US dollars for so many units in a month."""
        if not self.tiers:
            return quantity * self.usd
        total, below = 0.0, 0.0
        for tier in self.tiers:
            upper = quantity if tier.up_to is None else min(quantity, tier.up_to)
            total += max(0.0, upper - below) * tier.usd
            below = max(below, upper)
        return total


class PriceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The prices of one region."""

    region: str
    as_of: str
    basis: str
    """What the figures are, and how they were come by."""
    prices: dict[str, dict[str, Price]]

    def price(self, key: str) -> Price:
        """The price called `service.usd_per_unit`. Raises UserError when the file has none."""
        service, _, unit = key.partition(".")
        found = self.prices.get(service, {}).get(unit)
        if found is None:
            raise UserError(
                f"ops/cost/prices/{self.region}.json has no price {unit!r} under {service!r}: add it with its source"
            )
        return found


def unit(key: str) -> str:
    """The unit that a price's name spells: `million rules triggered`."""
    words = key.partition(".")[2].removeprefix(_PREFIX).replace("x86_64", "x86-64").split("_")
    return " ".join(_SPELLED.get(word, word) for word in words)


def load_prices(region: str, folder: Path = FOLDER) -> PriceFile:
    """The price file of a region. Raises UserError when there is none, or when it is not a price file."""
    path = folder / f"{region}.json"
    try:
        prices = msgspec.json.decode(path.read_bytes(), type=PriceFile)
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json"))) or "none"
        raise UserError(
            f"no prices for region {region!r} (there are: {known}): copy ops/cost/prices/{DEFAULT_REGION}.json to "
            f"{region}.json and put that region's prices and date in"
        ) from None
    except msgspec.MsgspecError as error:
        raise UserError(f"ops/cost/prices/{region}.json is not a price file: {error}") from None
    if prices.region != region:
        raise UserError(
            f"ops/cost/prices/{region}.json is of region {prices.region!r}: its name and `region` must agree"
        )
    return prices
