"""The tables of docs/costs.md, which `make docs` writes."""

from ops.cost.choices import Prod, tables
from ops.cost.prices import DEFAULT_REGION, load_prices
from ops.synthesis import settings_of, templates_of


def regions() -> dict[str, str]:
    """Content by region, for prod as this checkout has it."""
    settings = settings_of("prod", {})
    made = tables(Prod(settings, templates_of(settings), load_prices(settings.region or DEFAULT_REGION)))
    return {f"cost:{name}": table for name, table in made.items()}
