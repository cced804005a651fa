"""Runs every query of every dashboard, read only and bounded, and keeps the answers as the page wants them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg

from dashboards.preview.data import (
    Annotations,
    Chip,
    DashboardPages,
    Event,
    Frame,
    Page,
    PanelResult,
    PreviewData,
    RangeChoice,
    RangeResult,
)
from dashboards.preview.frames import milliseconds, series_frame, table_frame
from dashboards.preview.ranges import Range
from dashboards.reading.macros import parse_interval
from dashboards.reading.queries import (
    ALL,
    Annotation,
    Dashboard,
    MacroError,
    Panel,
    Resolved,
    TimeRange,
    Value,
    expand,
    expand_annotation,
    range_of,
    resolve,
    values,
)
from ops.errors import UserError

MAX_POINTS = 360
"""Per series, as Grafana's maxDataPoints: a bucket is so wide that a chart has about so many."""
_MAX_TABLE_ROWS = 200
_MAX_SERIES_ROWS = 20_000
_MAX_EVENTS = 60


@dataclass(frozen=True)
class Wish:
    """What the page is to show."""

    environment: str
    now: datetime
    ranges: Sequence[Range]
    fitting: Range
    """The shortest of them that shows what there is."""
    devices: Sequence[str]
    """The dashboard for a device is shown for each of these."""
    sites: Sequence[str] = ()
    """None: all."""


@dataclass
class Collected:
    """The page's data, and one line for each query that failed."""

    data: PreviewData
    failures: list[str]


Progress = Callable[[str], None]


def collect(
    connection: psycopg.Connection, dashboards: Iterable[Dashboard], wish: Wish, progress: Progress = lambda _: None
) -> Collected:
    """Queries all dashboards. A query that fails is said in its panel and in `failures`.

    The connection is in autocommit mode. Raises UserError for a site that is not there, and when the database goes away.
    """
    failures: list[str] = []
    shown = [_dashboard(connection, dashboard, wish, failures, progress) for dashboard in dashboards]
    choices = [RangeChoice(each.id, each.title) for each in wish.ranges]
    return Collected(PreviewData(milliseconds(wish.now), wish.environment, choices, shown), failures)


def _dashboard(
    connection: psycopg.Connection, dashboard: Dashboard, wish: Wish, failures: list[str], progress: Progress
) -> DashboardPages:
    pages: list[Page] = []
    of_device = any(each.name == "device" and not each.multi for each in dashboard.variables)
    for device in wish.devices if of_device and wish.devices else [""]:
        progress(f"{dashboard.title} {device}".strip())
        results: dict[str, RangeResult] = {}
        chips: list[Chip] = []
        for choice in wish.ranges:
            time_range = TimeRange.last(choice.length, wish.now)
            runner = _Runner(connection, dashboard, time_range, failures)
            results[choice.id], chips = runner.run(_chosen(dashboard, wish), device if of_device else "")
        pages.append(Page(device, chips, results))
    return DashboardPages(
        uid=dashboard.uid,
        title=dashboard.title,
        description=dashboard.description,
        default_range=default_range(dashboard, wish).id,
        models=[_model(each) for each in dashboard.raw.get("panels", [])],
        pages=pages,
    )


def default_range(dashboard: Dashboard, wish: Wish) -> Range:
    """The dashboard's own range, where it was queried; but a young fleet is shown from its beginning."""
    own = re.fullmatch(r"now-(\w+)", dashboard.raw.get("time", {}).get("from", ""))
    length = parse_interval(own[1]) if own else timedelta(hours=1)
    if length <= timedelta(hours=24) and (wish.fitting.is_short or wish.fitting.length > length):
        return wish.fitting
    return next((each for each in wish.ranges if each.length >= length), wish.ranges[-1])


def _chosen(dashboard: Dashboard, wish: Wish) -> dict[str, list[str]]:
    has_sites = any(each.name == "site" for each in dashboard.variables)
    return {"site": list(wish.sites)} if wish.sites and has_sites else {}


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    """A panel's JSON without its queries, of which the page needs none."""
    kept = {name: value for name, value in model.items() if name not in ("targets", "datasource")}
    if model.get("panels"):
        kept["panels"] = [_model(each) for each in model["panels"]]
    return kept


@dataclass
class _Runner:
    """One dashboard in one range."""

    connection: psycopg.Connection
    dashboard: Dashboard
    time_range: TimeRange
    failures: list[str]

    def run(self, chosen: Mapping[str, Sequence[str]], device: str) -> tuple[RangeResult, list[Chip]]:
        begin, end = milliseconds(self.time_range.begin), milliseconds(self.time_range.end)
        try:
            resolved = resolve(self.dashboard, self.connection, self.time_range, chosen)
        except (psycopg.Error, MacroError) as error:
            line = self._failed("its variables", error)
            panels = {str(panel.id): PanelResult(begin, end, error=line) for panel in self.dashboard.panels}
            return RangeResult(begin, end, panels, []), []
        known = values(resolved)
        if device:
            # The variable lists the first few hundred devices only; this one is known to be in the registry.
            known["device"] = Value((device,), quoted=known["device"].quoted)
        panels = {str(panel.id): self._panel(panel, known) for panel in self.dashboard.panels}
        annotations = [self._annotation(each, known) for each in self.dashboard.annotations if each.enabled]
        chips = [_chip(each, known[name]) for name, each in resolved.items() if each.variable.kind != "datasource"]
        return RangeResult(begin, end, panels, annotations), chips

    def _panel(self, panel: Panel, known: Mapping[str, Value]) -> PanelResult:
        points = min(panel.raw.get("maxDataPoints") or MAX_POINTS, MAX_POINTS)
        bounded = replace(panel, raw={**panel.raw, "maxDataPoints": points})
        shown = range_of(panel, self.time_range)
        begin, end = milliseconds(shown.begin), milliseconds(shown.end)
        frames: list[Frame] = []
        notes: list[str] = []
        try:
            for query in expand(self.dashboard, bounded, self.time_range, known):
                in_time = query.format == "time_series"
                most = _MAX_SERIES_ROWS if in_time else _MAX_TABLE_ROWS
                names, rows = fetch_bounded(self.connection, query.sql, most + 1)
                if len(rows) > most:
                    notes.append(f"the first {most:,} rows of more")
                    rows = rows[:most]
                if in_time:
                    frames.append(series_frame(query.ref_id, names, rows, fill=query.fill, begin=begin, end=end))
                else:
                    frames.append(table_frame(query.ref_id, names, rows))
        except (psycopg.Error, MacroError) as error:
            return PanelResult(begin, end, error=self._failed(f"panel {panel.title!r}", error))
        return PanelResult(begin, end, frames, note=", ".join(notes))

    def _annotation(self, annotation: Annotation, known: Mapping[str, Value]) -> Annotations:
        try:
            query = expand_annotation(self.dashboard, annotation, self.time_range, known)
            names, rows = fetch_bounded(self.connection, query.sql, _MAX_EVENTS)
        except (psycopg.Error, MacroError) as error:
            self._failed(f"annotation {annotation.name!r}", error)
            return Annotations(annotation.name, annotation.color, [])
        return Annotations(
            annotation.name, annotation.color, [_event(dict(zip(names, row, strict=True))) for row in rows]
        )

    def _failed(self, what: str, error: Exception) -> str:
        if self.connection.closed:
            raise UserError(f"the database went away: {one_line(error)}") from None
        line = one_line(error)
        self.failures.append(f"{self.dashboard.uid}, {what}: {line}")
        return line


def fetch_bounded(connection: psycopg.Connection, query: str, rows: int) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names of the columns and at most so many rows, in a transaction that can change nothing. Raises psycopg.Error."""
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        # The plan is to be the one for all rows, as Grafana would get it.
        connection.execute("SET LOCAL cursor_tuple_fraction = 1")
        with connection.cursor("preview") as cursor:
            cursor.execute(query.encode())
            found = cursor.fetchmany(rows)
            return [column.name for column in cursor.description or ()], found


def one_line(error: Exception) -> str:
    """What a database or a macro complains of, without its context."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _event(row: Mapping[str, Any]) -> Event:
    end = row.get("timeend") or row.get("timeEnd")
    return Event(_at(row["time"]), str(row.get("text") or ""), None if end is None else _at(end))


def _at(value: Any) -> int:
    return milliseconds(value) if isinstance(value, datetime) else int(value)


def _chip(resolved: Resolved, value: Value) -> Chip:
    variable = resolved.variable
    texts = {option: text for text, option in resolved.options}
    is_all = (
        value.raw or (len(value.values) > 1 and len(value.values) == len(resolved.options)) or value.values == (ALL,)
    )
    shown = "All" if is_all else ", ".join(texts.get(each, each) for each in value.values)
    return Chip(variable.name, variable.label, shown)
