"""What these commands print. Names that came from files or devices cannot drive the terminal."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from rich.table import Table

from ops.devices.fields import DEVICES
from ops.devices.things import MIRRORED, ThingState, attribute_value
from ops.terminal import printable

JSON_COLUMNS = (*DEVICES.fields, "registered_at", "state", "heard_at")
_LONGEST_CELL = 40
"""Of a table; show and --json have texts whole."""


def age(now: datetime, at: datetime | None) -> str:
    """How long ago, in the two greatest units: `5 s`, `3 min 20 s`, `2 d 4 h`."""
    if at is None:
        return "never"
    seconds = round((now - at) / timedelta(seconds=1))
    if seconds < 0:
        return f"in {age(at, now)}"
    units = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((place for place, (number, _) in enumerate(units) if number), 3)
    shown = [f"{number} {unit}" for number, unit in units[first : first + 2] if number]
    return " ".join(shown) or "0 s"


def device_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Devices; where the terminal is narrow, names fold and ids do not."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("device", "name", "site", "firmware", "state", "heard"):
        fixed = heading in {"device", "state", "heard"}
        justify: Literal["left", "right"] = "right" if heading == "heard" else "left"
        table.add_column(heading, no_wrap=fixed, overflow="fold", min_width=len(heading), justify=justify)
    for row in rows:
        name = row["name"] if row["name"] != row["device_id"] else ""
        cells = [row["device_id"], name, row["site_id"], row["firmware"], row["state"]]
        table.add_row(*(printable(_cut(cell or "")) for cell in cells), age(row["now"], row["heard_at"]))
    return table


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 1] + "\u2026"


def site_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line per site."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("site", "name", "customer", "project", "location"):
        table.add_column(heading, overflow="fold")
    table.add_column("devices", justify="right")
    for row in rows:
        cells = [row[column] for column in ("site_id", "name", "customer", "project", "location")]
        table.add_row(*(printable(cell or "") for cell in cells), f"{row['devices']:,}")
    return table


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Devices in the form that `fleet devices import` takes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DEVICES.fields)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in DEVICES.fields])
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value


def latest_table(
    now: datetime, reading: Mapping[str, Any] | None, metrics: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Table:
    """The newest value of each metric."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("metric", "value", "unit", "age", "plausible"):
        table.add_column(heading, justify="right" if heading in {"value", "age"} else "left")
    for metric in metrics:
        if metric["metric"] in names:
            value = reading[metric["metric"]] if reading else None
            shown = "-" if value is None else f"{value:,.10g}"
            outside = value is not None and not metric["low"] <= value <= metric["high"]
            plausible = f"{metric['low']:g} to {metric['high']:g}{', it is not' if outside else ''}"
            age_of = age(now, reading["timestamp"]) if reading and value is not None else ""
            table.add_row(metric["metric"], shown, metric["unit"], age_of, plausible)
    return table


def facts(
    device: Mapping[str, Any], reading: Mapping[str, Any] | None, day: Mapping[str, int]
) -> list[tuple[str, str]]:
    """What the registry and the readings say of a device, in the order in which one asks."""
    where = None
    if device["latitude"] is not None:
        where = f"{device['latitude']:g}, {device['longitude']:g}"
    known = [
        ("name", device["name"]),
        ("state", device["state"]),
        ("heard", _since(device["now"], device["heard_at"])),
        ("site", device["site_id"]),
        ("customer", device["customer"]),
        ("project", device["project"]),
        ("type", device["device_type"]),
        ("location", device["location"]),
        ("position", where),
        ("firmware", device["firmware"]),
        ("interval", f"{interval:g} s" if (interval := device["reading_interval_seconds"]) else None),
        ("attributes", json.dumps(device["attributes"], ensure_ascii=False) if device["attributes"] else None),
        ("registered", f"{device['registered_at']:%Y-%m-%d %H:%M:%S} UTC"),
        ("first heard", f"{reading['first_seen']:%Y-%m-%d %H:%M:%S} UTC" if reading else None),
        (
            "today (UTC)",
            f"{day['readings']:,} readings: {day['out_of_range']:,} out of range, {day['wrong_type']:,} of a wrong type; "
            f"{day['quarantined']:,} quarantined",
        ),
    ]
    return [(name, value) for name, value in known if value]


def _since(now: datetime, at: datetime | None) -> str:
    return "never" if at is None else f"{age(now, at)} ago ({at:%Y-%m-%d %H:%M:%S} UTC)"


def thing_line(device: Mapping[str, Any], thing: ThingState | None) -> str:
    """What AWS IoT has of the device, and whether that is what the registry says."""
    if thing is None:
        return "no thing of this name (fleet certs register makes one)"
    statuses = ", ".join(f"{identifier[:16]} {status}" for identifier, status in thing.certificates.items())
    differing = [
        f"{name} is {thing.attributes.get(name) or 'not set'} there"
        for name in MIRRORED
        if thing.attributes.get(name, "") != attribute_value(device[name])
    ]
    step = "; ".join(differing) if differing else "in step with the registry"
    shadow = f"; its shadow: {thing.reported}" if thing.reported else ""
    return f"{thing.thing_type or 'without a type'}; {step}; certificates: {statuses or 'none'}{shadow}"
