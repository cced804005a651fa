"""What `fleet quality` prints."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from ops.terminal import printable

GOOD = 95.0
POOR = 70.0
"""Scores from which a day is shown in green, and below which in red."""


def fleet_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line per device."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("device", no_wrap=True)
    table.add_column("site", overflow="fold", min_width=4)
    for heading in ("score", "days", "received"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("worst day", no_wrap=True)
    table.add_column("because", overflow="fold", min_width=12)
    for row in rows:
        table.add_row(
            printable(row["device_id"]),
            printable(row["site_id"] or ""),
            _score(row["score"]),
            f"{row['days']}",
            f"{row['received']:,}",
            f"{row['worst_day']}",
            row["reason"],
        )
    return table


def day_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line per day of a device."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("day (UTC)", no_wrap=True)
    for heading in ("score", "expected", "received", "late", "twice", "anomalies"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("because", overflow="fold", min_width=12)
    for row in rows:
        counts = (row[name] for name in ("expected", "received", "late", "duplicates", "anomalies"))
        table.add_row(f"{row['day']}", _score(row["score"]), *(f"{count:,}" for count in counts), row["reason"])
    return table


def trend_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line per metric of a device."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("metric", no_wrap=True)
    for heading in ("average", "before", "change", "per day", "r2"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        percent = "" if row["change_percent"] is None else f"{row['change_percent']:+.1f}%"
        slope = "-" if row["slope_per_day"] is None else f"{row['slope_per_day']:+,.4g} {row['unit'] or ''}".rstrip()
        r2 = "-" if row["r2"] is None else f"{row['r2']:.2f}"
        table.add_row(row["metric"], _value(row["average"]), _value(row["previous_average"]), percent or "-", slope, r2)
    return table


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _score(score: float) -> str:
    colour = "green" if score >= GOOD else "red" if score < POOR else "yellow"
    # Cut and not rounded, so that 100.0 means that nothing was wrong.
    return f"[{colour}]{int(score * 10) / 10:.1f}[/]"
