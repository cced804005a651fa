"""The SQL that Grafana would send for a dashboard's panels, annotations and variables.

for dashboard in load_all():
    variables = values(resolve(dashboard, connection, time_range, {"site": ["north"]}))
    for panel in dashboard.panels:
        for query in expand(dashboard, panel, time_range, variables):
            rows = fetch(connection, query.sql)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg

from dashboards.reading.macros import Expanded, Fill, MacroError, TimeRange, Value, choose_interval, parse_interval
from dashboards.reading.macros import expand as expand_macros
from dashboards.reading.model import (
    ALL,
    JSON_FOLDER,
    Annotation,
    Dashboard,
    Format,
    Panel,
    Target,
    Variable,
    load,
    load_all,
)
from ops.errors import UserError

__all__ = [
    "ALL", "JSON_FOLDER", "Annotation", "Dashboard", "Fill", "Format", "MacroError", "Panel", "Query", "Resolved", "Rows",
    "Target", "TimeRange", "Value", "Variable", "expand", "expand_annotation", "expand_variable", "fetch", "interval_of",
    "load", "load_all", "range_of", "resolve", "values",
]  # fmt: skip

_MINIMUM_INTERVAL = timedelta(minutes=1)
"""Of the PostgreSQL data source, where neither it nor the panel says."""
_COLUMN_PIXELS = 70
"""A panel is as many points wide as pixels: 24 columns on a screen of 1680."""


@dataclass(frozen=True)
class Resolved:
    """A variable with what can be chosen in it, and what is."""

    variable: Variable
    options: tuple[tuple[str, str], ...]
    """Text and value of each, All left out."""
    value: Value


@dataclass(frozen=True)
class Query:
    """What a database can run for one target."""

    ref_id: str
    sql: str
    format: Format
    interval: timedelta
    """`$__interval`, as it was chosen for the panel's width."""
    fill: Fill | None = None


@dataclass(frozen=True)
class Rows:
    """What a query answered."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def fetch(connection: psycopg.Connection, sql: str) -> Rows:
    """Runs one query in a transaction that can change nothing. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        cursor = connection.execute(sql.encode())
        return Rows(tuple(column.name for column in cursor.description or ()), cursor.fetchall())


def resolve(
    dashboard: Dashboard,
    connection: psycopg.Connection,
    time_range: TimeRange,
    chosen: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Resolved]:
    """The dashboard's variables: those that others are made of first, each by its own query.

    `chosen` takes the place of what the dashboard says is selected; `[ALL]` selects All. Raises UserError for a variable
    that the dashboard does not have and a value that the variable does not offer, psycopg.Error for a query that fails.
    """
    chosen = chosen or {}
    unknown = chosen.keys() - {variable.name for variable in dashboard.variables}
    if unknown:
        names = ", ".join(variable.name for variable in dashboard.variables) or "none"
        raise UserError(f"{dashboard.uid} has no variable {min(unknown)!r}; it has: {names}")
    resolved: dict[str, Resolved] = {}
    for variable in _in_order(dashboard):
        options = variable.options
        if variable.kind == "query":
            query = expand_variable(dashboard, variable, time_range, values(resolved))
            options = _offered(variable, fetch(connection, query.sql))
        value = _selected(dashboard, variable, options, chosen.get(variable.name))
        resolved[variable.name] = Resolved(variable, options, value)
    return resolved


def values(resolved: Mapping[str, Resolved]) -> dict[str, Value]:
    """What `expand` takes, of what `resolve` returns."""
    return {name: each.value for name, each in resolved.items()}


def _in_order(dashboard: Dashboard) -> list[Variable]:
    waiting, ordered = list(dashboard.variables), list[Variable]()
    while waiting:
        names = {variable.name for variable in waiting}
        ready = [each for each in waiting if not _mentioned(each.sql) & names - {each.name}]
        if not ready:
            raise UserError(f"{dashboard.uid}: the variables {', '.join(sorted(names))} are made of each other")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _mentioned(sql: str) -> set[str]:
    return {name for found in re.findall(r"\$(\w+)|\[\[(\w+)|\$\{(\w+)", sql) for name in found if name}


def _offered(variable: Variable, answer: Rows) -> tuple[tuple[str, str], ...]:
    """Columns `__text` and `__value` where there are such, else every value of every column, each once."""
    if {"__text", "__value"} <= set(answer.columns):
        text, value = answer.columns.index("__text"), answer.columns.index("__value")
        found = [(str(row[text]), str(row[value])) for row in answer.rows]
    else:
        found = [(str(row[n]), str(row[n])) for n in range(len(answer.columns)) for row in answer.rows]
    if variable.regex:
        pattern = re.compile(variable.regex.strip("/"))
        matches = [pattern.search(text) for text, _ in found]
        found = [((m[1], m[1]) if m.groups() else each) for each, m in zip(found, matches, strict=True) if m]
    if variable.sort in (1, 2):
        found.sort(reverse=variable.sort == 2)
    elif variable.sort:
        raise UserError(f"variable {variable.name}: only the alphabetical orders 1 and 2 are supported")
    return tuple(dict.fromkeys(found))


def _selected(
    dashboard: Dashboard, variable: Variable, options: tuple[tuple[str, str], ...], chosen: Sequence[str] | None
) -> Value:
    offered = [value for _, value in options]
    wanted = tuple(variable.current if chosen is None else chosen)
    if wanted == (ALL,) and variable.include_all:
        if variable.all_value is not None:
            return Value((variable.all_value,), raw=True)
        return Value(tuple(offered), quoted=True)
    if variable.kind == "textbox" and wanted:
        return Value(wanted)
    missing = [value for value in wanted if value not in offered]
    if missing and chosen is not None:
        raise UserError(f"{dashboard.uid}: variable {variable.name} does not offer {missing[0]!r}")
    # What was selected when the dashboard was written and is no longer there: Grafana takes the first.
    if missing or not wanted:
        wanted = tuple(offered[:1]) or ("",)
    if len(wanted) > 1 and not variable.multi:
        raise UserError(f"{dashboard.uid}: variable {variable.name} takes one value only")
    return Value(wanted, quoted=variable.multi or variable.include_all)


def interval_of(panel: Panel, time_range: TimeRange) -> timedelta:
    """`$__interval` of a panel, by its width, or its own `maxDataPoints`, and its smallest interval."""
    points = panel.raw.get("maxDataPoints") or panel.position.width * _COLUMN_PIXELS
    smallest = panel.raw.get("interval")
    minimum = parse_interval(smallest.removeprefix(">")) if smallest else _MINIMUM_INTERVAL
    return choose_interval(time_range, points, minimum)


def range_of(panel: Panel, time_range: TimeRange) -> TimeRange:
    """The dashboard's range, but for a panel that has its own (`timeFrom`, `timeShift`)."""
    length, shift = panel.raw.get("timeFrom"), panel.raw.get("timeShift")
    if length:
        time_range = replace(time_range, begin=time_range.end - parse_interval(length.removeprefix("now-")))
    if shift:
        by = parse_interval(shift)
        time_range = TimeRange(time_range.begin - by, time_range.end - by)
    return time_range


def expand(dashboard: Dashboard, panel: Panel, time_range: TimeRange, variables: Mapping[str, Value]) -> list[Query]:
    """The queries of a panel. Raises MacroError, which names the panel."""
    where = f"{dashboard.uid}, panel {panel.title!r}"
    if panel.raw.get("repeat"):
        raise MacroError(f"{where} is repeated for each {panel.raw['repeat']}, which is not supported here")
    shown = range_of(panel, time_range)
    interval = interval_of(panel, shown)
    return [
        Query(target.ref_id, expanded.sql, target.format, interval, expanded.fill)
        for target in panel.targets
        for expanded in [_expand(where, target.sql, shown, interval, variables)]
    ]


def expand_annotation(
    dashboard: Dashboard, annotation: Annotation, time_range: TimeRange, variables: Mapping[str, Value]
) -> Query:
    """The query of an annotation. Raises MacroError, which names the annotation."""
    interval = choose_interval(time_range, 24 * _COLUMN_PIXELS, _MINIMUM_INTERVAL)
    where = f"{dashboard.uid}, annotation {annotation.name!r}"
    return Query("Anno", _expand(where, annotation.sql, time_range, interval, variables).sql, "table", interval)


def expand_variable(
    dashboard: Dashboard, variable: Variable, time_range: TimeRange, variables: Mapping[str, Value]
) -> Query:
    """The query of a variable, given those that it is made of. Raises MacroError, which names the variable."""
    where = f"{dashboard.uid}, variable {variable.name!r}"
    # What is typed into the list to search in it.
    known = {"__searchFilter": Value(("%",)), **variables}
    sql = _expand(where, variable.sql, time_range, _MINIMUM_INTERVAL, known).sql
    return Query(variable.name, sql, "table", _MINIMUM_INTERVAL)


def _expand(
    where: str, sql: str, time_range: TimeRange, interval: timedelta, variables: Mapping[str, Value]
) -> Expanded:
    try:
        return expand_macros(sql, time_range, interval, variables)
    except MacroError as error:
        raise MacroError(f"{where}: {error}") from None
