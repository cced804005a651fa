"""`fleet cost`: what an environment costs a month."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.settings import Settings
from ops.cost.bill import PIPELINE, TARGET_READINGS_PER_SECOND, TARGET_USD_PER_MILLION, Bill, price
from ops.cost.prices import DEFAULT_REGION, PriceFile, load_prices
from ops.cost.usage import readings_per_month, remarks, usage
from ops.errors import UserError
from ops.synthesis import settings_of, templates_of

_WIDE = 160
_ALL_COLUMNS = 110
"""Terminal columns from which the table has all of its own; in fewer, names would be cut off."""
_QUANTITIES = ("quantity", "unit", "unit USD")
console = Console(width=None if sys.stdout.isatty() else _WIDE)


def cost(
    environment: Annotated[str | None, typer.Option("--env", help="Environment: dev, staging or prod.")] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("-c", "--context", metavar="NAME=VALUE", help="env, or any setting, as `cdk -c` takes it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What an environment costs a month: usage from its template and settings, prices from a dated file."""
    overrides = _context(context or [])
    name = overrides.pop("env", None)
    if environment and name and environment != name:
        raise UserError(f"two environments given, --env {environment} and -c env={name}: give one")
    settings = settings_of(environment or name or "", overrides)
    prices = load_prices(settings.region or DEFAULT_REGION)
    templates = templates_of(settings)
    bill = price(usage(settings, templates), prices, readings_per_month(settings))
    notes = [*remarks(settings, templates), *_sources(settings, bill, prices)]
    if as_json:
        typer.echo(json.dumps(as_document(settings, bill, prices, notes), indent=2))
        return
    whole = console.width >= _ALL_COLUMNS
    console.print(table(bill, whole=whole))
    left_out = f"Quantities and unit prices: in {_ALL_COLUMNS} columns or more, through a pipe, or with --json"
    for line in [*([] if whole else [left_out]), *verdicts(settings, bill), *notes]:
        console.print(line, highlight=False, soft_wrap=True)


def _context(given: list[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"-c {text}: write -c NAME=VALUE, for instance -c env=prod")
        pairs[name] = value
    unknown = sorted(pairs.keys() - {"env"} - set(Settings.__struct_fields__) | (pairs.keys() & {"environment"}))
    if unknown:
        raise UserError(
            f"-c {unknown[0]}={pairs[unknown[0]]}: there is no setting {unknown[0]!r}; see infra/settings.py"
        )
    return pairs


def table(bill: Bill, *, whole: bool = True) -> Table:
    """The bill: each service with its sum, and its items under it; quantities and unit prices only if whole."""
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("service, what")
    for heading in _QUANTITIES if whole else ():
        shown.add_column(heading, justify="left" if heading == "unit" else "right")
    for heading in ("USD a\nmonth", "USD per\nmillion\nreadings"):
        shown.add_column(heading, justify="right")
    sums = ("",) * len(_QUANTITIES) if whole else ()
    for service in bill.services:
        shown.add_row(service, *sums, *_money(bill, bill.of(service)), style="bold")
        for line in bill.lines:
            if line.item.service == service:
                numbers = (_quantity(line.item.quantity), line.unit, f"{line.unit_usd:,.6g}") if whole else ()
                shown.add_row(f"  {line.item.what}", *numbers, *_money(bill, line.usd))
    shown.add_row()
    shown.add_row(" + ".join(PIPELINE), *sums, *_money(bill, bill.pipeline_usd), style="bold")
    shown.add_row("everything", *sums, *_money(bill, bill.usd), style="bold")
    return shown


def _quantity(quantity: float) -> str:
    return f"{quantity:,.2f}" if quantity >= 0.1 else f"{quantity:.2g}"


def _money(bill: Bill, usd: float) -> tuple[str, str]:
    return f"{usd:,.2f}", f"{bill.per_million(usd):,.4f}"


def verdicts(settings: Settings, bill: Bill) -> list[str]:
    """The bill beside the target and the budget."""
    per_million = bill.per_million(bill.pipeline_usd)
    lines = [
        f"{' + '.join(PIPELINE)}: ${per_million:.4f} per million readings at "
        f"{settings.readings_per_second:,} readings/s; target ${TARGET_USD_PER_MILLION:.2f} at "
        f"{TARGET_READINGS_PER_SECOND:,} readings/s"
    ]
    if settings.budget_dollars_per_month is not None:
        kept = "within" if bill.usd <= settings.budget_dollars_per_month else "OVER"
        lines.append(f"Total: ${bill.usd:,.2f} a month, {kept} the budget of ${settings.budget_dollars_per_month:,}")
    return lines


def _sources(settings: Settings, bill: Bill, prices: PriceFile) -> list[str]:
    assumed = "" if settings.region else " (no region is set)"
    lines = [
        f"Prices of {prices.region}{assumed} as of {prices.as_of}, on demand, without the free tier; not reckoned: data "
        "transfer out of AWS, support, taxes, and what happens only when something fails."
    ]
    unverified = dict.fromkeys(line.item.price for line in bill.lines if not prices.price(line.item.price).verified)
    if unverified:
        lines.append(f"Prices from memory, to be checked with AWS: {', '.join(unverified)}")
    return lines


def as_document(settings: Settings, bill: Bill, prices: PriceFile, notes: list[str]) -> dict[str, Any]:
    """The bill as JSON."""
    return {
        "environment": settings.environment,
        "region": prices.region,
        "prices_as_of": prices.as_of,
        "readings_per_month": bill.readings_per_month,
        "lines": [
            {
                "service": line.item.service,
                "what": line.item.what,
                "quantity": line.item.quantity,
                "unit": line.unit,
                "unit_usd": line.unit_usd,
                "usd_per_month": line.usd,
                "usd_per_million_readings": bill.per_million(line.usd),
            }
            for line in bill.lines
        ],
        "pipeline_usd_per_million_readings": bill.per_million(bill.pipeline_usd),
        "target_usd_per_million_readings": TARGET_USD_PER_MILLION,
        "usd_per_month": bill.usd,
        "budget_usd_per_month": settings.budget_dollars_per_month,
        "notes": notes,
    }
