"""Dashboards' JSON as typed values, whether it was generated here or exported by Grafana.

JSON model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ops.errors import UserError

JSON_FOLDER = Path(__file__).parents[1] / "json"
ALL = "$__all"
"""The value that Grafana writes where All is selected."""
Format = Literal["time_series", "table"]


@dataclass(frozen=True)
class Target:
    """One query of a panel, as it was written."""

    ref_id: str
    sql: str
    format: Format


@dataclass(frozen=True)
class Position:
    """In Grafana's grid: 24 columns wide, rows of 30 pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """A visualization. `raw` is the whole of its JSON, for what has no name here (`options`, `transformations`)."""

    id: int
    title: str
    kind: str
    """Grafana's id of the visualization: `timeseries`, `stat`, `table` ..."""
    description: str
    row: str
    """Title of the row it stands in, empty above the first."""
    position: Position
    targets: tuple[Target, ...]
    field_config: Mapping[str, Any]
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Variable:
    """A template variable; `options` are those that the JSON gives: of a query, there are none till it has run."""

    name: str
    label: str
    kind: str
    """`query`, `custom`, `textbox`, `constant`, `interval` or `datasource`."""
    sql: str
    """Of a query; empty otherwise."""
    regex: str
    sort: int
    multi: bool
    include_all: bool
    all_value: str | None
    options: tuple[tuple[str, str], ...]
    """Text and value of each, All left out."""
    current: tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """A query whose rows are marked in every panel."""

    name: str
    sql: str
    color: str
    enabled: bool


@dataclass(frozen=True)
class Dashboard:
    """All panels that are not rows, those in collapsed rows included, in the order in which they are shown."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    raw: Mapping[str, Any]


def load_all(folder: Path = JSON_FOLDER) -> list[Dashboard]:
    """Every dashboard of a folder, by file name. Raises UserError."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UserError(f"{folder} has no dashboards; make them with: python -m dashboards.build")
    return [load(path) for path in paths]


def load(path: Path) -> Dashboard:
    """A dashboard as `fleet dashboards` writes and Grafana exports it. Raises UserError."""
    try:
        return read(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no dashboard of Grafana's: {error!r}") from None


def read(model: Mapping[str, Any]) -> Dashboard:
    """The typed values of one dashboard's JSON model."""
    return Dashboard(
        uid=model["uid"],
        title=model["title"],
        description=model.get("description", ""),
        panels=tuple(_panels(model.get("panels", []))),
        variables=tuple(_variable(each) for each in model.get("templating", {}).get("list", [])),
        annotations=tuple(_annotation(each) for each in model.get("annotations", {}).get("list", []) if _sql_of(each)),
        raw=model,
    )


def _panels(models: Sequence[Mapping[str, Any]], row: str = "") -> list[Panel]:
    panels: list[Panel] = []
    for model in models:
        if model["type"] == "row":
            row = model.get("title", "")
            panels += _panels(model.get("panels", []), row)
        else:
            panels.append(_panel(model, row))
    return panels


def _panel(model: Mapping[str, Any], row: str) -> Panel:
    where = model.get("gridPos", {})
    targets = [each for each in model.get("targets", []) if each.get("rawSql") and not each.get("hide")]
    return Panel(
        id=model.get("id", 0),
        title=model.get("title", ""),
        kind=model["type"],
        description=model.get("description", ""),
        row=row,
        position=Position(where.get("x", 0), where.get("y", 0), where.get("w", 24), where.get("h", 8)),
        targets=tuple(
            # Without a format, the data source's backend answers with a time series.
            Target(each.get("refId", "A"), each["rawSql"], "table" if each.get("format") == "table" else "time_series")
            for each in targets
        ),
        field_config=model.get("fieldConfig", {}),
        raw=model,
    )


def _variable(model: Mapping[str, Any]) -> Variable:
    current = (model.get("current") or {}).get("value", [])
    query = model.get("query") or ""
    options = [
        (str(each["text"]), str(each["value"])) for each in model.get("options") or [] if each.get("value") != ALL
    ]
    if not options and model["type"] in ("custom", "interval"):
        options = _written_options(str(query))
    elif not options and model["type"] in ("textbox", "constant"):
        options = [(str(query), str(query))]
    return Variable(
        name=model["name"],
        label=model.get("label") or model["name"],
        kind=model["type"],
        sql=_sql_of({"rawSql": query} if isinstance(query, str) else query) if model["type"] == "query" else "",
        regex=model.get("regex") or "",
        sort=int(model.get("sort") or 0),
        multi=bool(model.get("multi")),
        include_all=bool(model.get("includeAll")),
        all_value=model.get("allValue") or None,
        options=tuple(options),
        current=tuple(map(str, current)) if isinstance(current, list) else (str(current),),
    )


def _written_options(query: str) -> list[tuple[str, str]]:
    """`a, b` or `Text : value, Other : other`."""
    parts = [part.strip().replace("\\,", ",") for part in re.split(r"(?<!\\),", query) if part.strip()]
    pairs = [re.fullmatch(r"(.+?)\s+:\s+(.+)", part) for part in parts]
    return [(pair[1], pair[2]) if pair else (part, part) for part, pair in zip(parts, pairs, strict=True)]


def _annotation(model: Mapping[str, Any]) -> Annotation:
    return Annotation(model["name"], _sql_of(model), model.get("iconColor", ""), bool(model.get("enable", True)))


def _sql_of(model: Mapping[str, Any]) -> str:
    """Where Grafana's versions keep the SQL of what is not a panel."""
    target = model.get("target") or {}
    found = target.get("rawSql") or model.get("rawSql") or model.get("rawQuery") or model.get("query") or ""
    return found if isinstance(found, str) else ""
