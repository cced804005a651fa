"""What these commands print."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from rich.table import Table

from ops.anomalies.episodes import AROUND, METRIC_NAMES, Became, Row, is_false_positive
from ops.devices.view import age
from ops.terminal import printable

_STORED = (
    "anomaly_id", "device_id", "metric", "kind", "severity", "started_at", "last_at", "detected_at", "readings", "value",
    "expected", "score", "resolved_at", "resolved_by", "metadata",
)  # fmt: skip
_READING = ("part", "timestamp", "seq", *METRIC_NAMES, "quality", "received_at")
_GAP = 2
_LEFT_OUT_FIRST = ("readings", "expected", "lasts", "value")
"""Of the list, where the terminal is narrow; `show` has them."""
_AUTOMATIC = {
    "recovered": "it recovered",
    "retired": "the device was taken out of service",
    "late": "it was found in readings more than an hour old",
}


def table(rows: Sequence[Row], *, resolutions: bool, width: int | None = None) -> tuple[Table, list[str]]:
    """One line per episode, and the headings of what was left out because `width` has no room for it."""
    columns = {heading: [cell(row) for row in rows] for heading, cell in _COLUMNS.items()}
    if not resolutions:
        del columns["resolved"]
    left_out: list[str] = []
    for heading in _LEFT_OUT_FIRST:
        if width is None or _width(columns) <= width:
            break
        del columns[heading]
        left_out.append(heading)
    shown = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for heading in columns:
        right: Literal["left", "right"] = "right" if heading in {"id", "value", "expected", "readings"} else "left"
        shown.add_column(heading, justify=right, overflow="fold", no_wrap=heading not in {"device", "resolved"})
    for cells in zip(*columns.values(), strict=True):
        shown.add_row(*map(printable, cells))
    return shown, left_out


def natural_width(rows: Sequence[Row]) -> int:
    """The cells that the table takes with all that it has."""
    return _width({heading: [cell(row) for row in rows] for heading, cell in _COLUMNS.items()})


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return sum(max(printable(text).cell_len for text in (heading, *cells)) + _GAP for heading, cells in columns.items())


def lasts(row: Mapping[str, Any]) -> str:
    """How long it took, or takes already: silence goes on until something is heard, the rest as far as readings show it."""
    going_on = row["kind"] == "silence" and row["resolved_at"] is None
    end = row["now"] if going_on else row["last_at"]
    return age(max(end, row["started_at"]), row["started_at"])


def _value(row: Mapping[str, Any], value: float | None) -> str:
    if value is None:
        return ""
    if row["kind"] == "silence":
        zero = row["started_at"]
        return age(zero + timedelta(seconds=value), zero)
    return f"{value:,.6g}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _day_and_minute(at: datetime, now: datetime) -> str:
    """Without the year where it is this one: `show` has it to the second."""
    return f"{at:%m-%d %H:%M}" if at.year == now.year else f"{at:%Y-%m-%d %H:%M}"


def _resolution(row: Mapping[str, Any]) -> str:
    if row["resolved_at"] is None:
        return "open"
    return f"{row['resolved_by'] or 'by hand'}{', false positive' if is_false_positive(row) else ''}"


_COLUMNS: Mapping[str, Callable[[Row], str]] = {
    "id": lambda row: str(row["anomaly_id"]),
    "began (UTC)": lambda row: _day_and_minute(row["started_at"], row["now"]),
    "lasts": lasts,
    "severity": lambda row: row["severity"],
    "kind": lambda row: row["kind"],
    "device": lambda row: row["device_id"],
    "metric": lambda row: row["metric"] or "",
    "value": lambda row: _value(row, row["value"]),
    "expected": lambda row: _value(row, row["expected"]),
    "readings": lambda row: f"{row['readings']:,}" if row["kind"] != "silence" else "",
    "resolved": _resolution,
}


def resolved_how(row: Mapping[str, Any]) -> str:
    """When, by whom, and what was said."""
    by = row["resolved_by"]
    how = f": {_AUTOMATIC[by]}" if by in _AUTOMATIC else f" by {by or 'hand'}"
    return f"{_moment(row['resolved_at'])} UTC{how}"


def facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of an episode, in the order in which one asks."""
    site = " ".join(part for part in (row["site_id"], f"({row['site_name']})" if row["site_name"] else "") if part)
    unit = row["unit"] or ""
    metadata = {name: value for name, value in row["metadata"].items() if name not in {"note", "resolution"}}
    known = [
        ("state", "open" if row["resolved_at"] is None else f"resolved {resolved_how(row)}"),
        ("note", row["metadata"].get("note")),
        ("resolution", row["metadata"].get("resolution")),
        ("severity", row["severity"]),
        ("device", row["device_id"] + (f" ({row['device_name']})" if row["device_name"] != row["device_id"] else "")),
        ("site", site),
        ("customer", row["customer"]),
        ("metric", row["metric"]),
        ("began", f"{_moment(row['started_at'])} UTC, {age(row['now'], row['started_at'])} ago"),
        ("last", f"{_moment(row['last_at'])} UTC" if row["last_at"] != row["started_at"] else None),
        ("found", f"{_moment(row['detected_at'])} UTC"),
        ("lasts", lasts(row)),
        ("readings", f"{row['readings']:,}" if row["readings"] else None),
        ("value", f"{_value(row, row['value'])} {unit}" if row["value"] is not None else None),
        ("expected", f"{_value(row, row['expected'])} {unit}" if row["expected"] is not None else None),
        ("score", f"{row['score']:.4g}" if row["score"] is not None else None),
        ("plausible", f"{row['low']:g} to {row['high']:g} {unit}" if row["low"] is not None else None),
        ("metadata", json.dumps(metadata, ensure_ascii=False) if metadata else None),
    ]
    return [(name, str(value).strip()) for name, value in known if value]


def readings_table(row: Mapping[str, Any], readings: Sequence[Row]) -> Table:
    """The readings around an episode; those of it have a mark."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "reading (UTC)", "seq", *METRIC_NAMES):
        shown.add_column(heading, justify="left" if heading in {"", "reading (UTC)"} else "right", no_wrap=True)
    part = readings[0]["part"] if readings else ""
    within = sum(reading["part"] == "within" for reading in readings)
    for reading in readings:
        if part == "within" != reading["part"] and within == AROUND:
            shown.add_row("*", "...")
        part = reading["part"]
        values = ["-" if reading[name] is None else f"{reading[name]:,.6g}" for name in METRIC_NAMES]
        emphasised = [
            f"[bold]{value}[/]" if part == "within" and name == row["metric"] else value
            for name, value in zip(METRIC_NAMES, values, strict=True)
        ]
        shown.add_row(
            "*" if part == "within" else "",
            f"{reading['timestamp']:%m-%d %H:%M:%S.%f}"[:-3],
            str(reading["seq"]),
            *emphasised,
        )
    return shown


def outcome(became: Became, row: Mapping[str, Any]) -> str:
    """What `resolve` did to one."""
    name = f"{row['anomaly_id']} ({row['kind']} of {row['device_id']}{' ' + row['metric'] if row['metric'] else ''})"
    if became == "resolved":
        return f"{name}: resolved{' as a false positive' if is_false_positive(row) else ''}"
    if became == "marked":
        return f"{name}: marked as a false positive; it was resolved {resolved_how(row)}"
    false = ", as a false positive" if is_false_positive(row) else ""
    return f"{name}: was resolved{false} already, {resolved_how(row)}"


def as_json(row: Mapping[str, Any], *further: str) -> dict[str, Any]:
    """An episode as it is printed as JSON."""
    return {column: row[column] for column in (*_STORED, *further)}


def reading_as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A reading likewise."""
    return {column: row[column] for column in _READING}
