"""What the page is made of, as the page's JavaScript reads it."""

from typing import Any

from msgspec import Struct

Cell = float | int | str | bool | None


class Series(Struct, frozen=True):
    """One line of a chart; `t` is the position of its times in its frame's `times`."""

    name: str
    t: int
    values: list[float | int | None]


class SeriesFrame(Struct, frozen=True, rename="camel"):
    """The answer to a query of the format `time_series`. Times are milliseconds since the epoch."""

    ref_id: str
    times: list[list[int]]
    series: list[Series]


class Column(Struct, frozen=True):
    """One column of a table: `type` is `time` (milliseconds since the epoch), `number`, `boolean` or `string`."""

    name: str
    type: str
    values: list[Cell]


class TableFrame(Struct, frozen=True, rename="camel"):
    """The answer to a query of the format `table`."""

    ref_id: str
    columns: list[Column]


Frame = SeriesFrame | TableFrame


class PanelResult(Struct, frozen=True, rename={"begin": "from", "end": "to"}, omit_defaults=True):
    """What the queries of a panel answered, or why one did not. `begin` and `end` in milliseconds since the epoch."""

    begin: int
    end: int
    frames: list[Frame] = []
    error: str = ""
    note: str = ""


class Event(Struct, frozen=True, omit_defaults=True):
    """A moment, or a span, that charts mark."""

    time: int
    text: str
    end: int | None = None


class Annotations(Struct, frozen=True):
    """The events of one of a dashboard's annotations."""

    name: str
    color: str
    events: list[Event]


class RangeResult(Struct, frozen=True, rename={"begin": "from", "end": "to"}):
    """A dashboard in one range of time: results by the panel's id."""

    begin: int
    end: int
    panels: dict[str, PanelResult]
    annotations: list[Annotations]


class Chip(Struct, frozen=True):
    """A variable and the value it had."""

    name: str
    label: str
    value: str


class Page(Struct, frozen=True):
    """A dashboard with its variables set: of the dashboard for a device there is one page for each of some devices."""

    device: str
    variables: list[Chip]
    results: dict[str, RangeResult]
    """By the range's id."""


class DashboardPages(Struct, frozen=True):
    """A dashboard: its panels in Grafana's JSON without their queries, and its pages."""

    uid: str
    title: str
    description: str
    default_range: str
    models: list[dict[str, Any]]
    pages: list[Page]


class RangeChoice(Struct, frozen=True):
    """A range of time that was queried: `30d`, "30 days"."""

    id: str
    title: str


class PreviewData(Struct, frozen=True):
    """Everything on the page."""

    generated: int
    """Milliseconds since the epoch."""
    environment: str
    ranges: list[RangeChoice]
    dashboards: list[DashboardPages]
