"""The kinds of panels that the dashboards are made of, each with what all of its kind have in common."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from grafana_foundation_sdk.builders import common, stat, statushistory, table, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    FieldColorModeId,
    GridPos,
    Panel,
    Threshold,
    ThresholdsMode,
)

from dashboards import units
from dashboards.source import Query, QueryBuilder, data_source

Color = Literal["green", "yellow", "orange", "red", "blue", "purple", "text", "transparent"]
Steps = Sequence[tuple[float, Color]]
"""From which value which colour; below the first it is the base colour."""


@dataclass(frozen=True)
class Link:
    """Where a click on a cell or a point leads."""

    title: str
    url: str


@dataclass(frozen=True)
class Field:
    """How one column of a table, or one series of a chart, differs from the rest of its panel."""

    name: str
    unit: str | None = None
    steps: Steps | None = None
    base: Color = "green"
    link: Link | None = None
    width: int | None = None
    title: str | None = None
    color: str | None = None
    colored: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)

    def properties(self) -> list[DynamicConfigValue]:
        """The override, as Grafana keeps it."""
        found: dict[str, object] = {}
        if self.title is not None:
            found["displayName"] = self.title
        if self.unit is not None:
            found["unit"] = self.unit
        if self.steps is not None:
            found["thresholds"] = thresholds(self.steps, self.base).build()
        if self.colored:
            found["custom.cellOptions"] = {"type": "color-text"}
        if self.color is not None:
            found["color"] = {"mode": "fixed", "fixedColor": self.color}
        if self.width is not None:
            found["custom.width"] = self.width
        if self.link is not None:
            found["links"] = [{"title": self.link.title, "url": self.link.url}]
        return [DynamicConfigValue(id_val=key, value=value) for key, value in (found | dict(self.extra)).items()]


def thresholds(steps: Steps, base: Color) -> ThresholdsConfig:
    """Colours by value."""
    found = [Threshold(value=None, color=base), *(Threshold(value=value, color=color) for value, color in steps)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


class Ready(Builder[Panel]):
    """A panel that is already built."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel

    def build(self) -> Panel:
        """The panel."""
        return self._panel


def panel_id(title: str) -> int:
    """A panel's number, by which links and alerts name it: it stays while panels come and go around it."""
    return zlib.crc32(title.encode()) % 1_000_000 + 1


def _ready(panel: Panel, title: str, description: str, queries: Sequence[Query], width: int, height: int) -> Ready:
    panel.id_val = panel_id(title)
    panel.title = title
    panel.description = description
    panel.datasource = data_source()
    panel.targets = [
        QueryBuilder(query).ref_id(letter).build() for letter, query in zip("ABCDEFGH", queries, strict=False)
    ]
    panel.grid_pos = GridPos(h=height, w=width, x=0, y=0)
    return Ready(panel)


def number(
    title: str,
    description: str,
    sql: str,
    *,
    unit: str = units.COUNT,
    decimals: float | None = None,
    steps: Steps = (),
    base: Color = "text",
    width: int = 3,
    height: int = 4,
    link: Link | None = None,
    fields: Sequence[Field] = (),
    none: str = "none",
) -> Ready:
    """One great number, or one for each column of the one row that `sql` answers."""
    panel = (
        stat.Panel()
        .unit(unit)
        .no_value(none)
        .thresholds(thresholds(steps, base))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(commons.BigValueColorMode.VALUE)
        .graph_mode(commons.BigValueGraphMode.NONE)
        .text_mode(commons.BigValueTextMode.VALUE_AND_NAME if fields else commons.BigValueTextMode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    for each in fields:
        panel = panel.override_by_name(each.name, each.properties())
    built = panel.build()
    if link is not None:
        built.field_config.defaults.links = [{"title": link.title, "url": link.url}]  # type: ignore[union-attr]
    return _ready(built, title, description, [Query(sql, "table")], width, height)


def chart(
    title: str,
    description: str,
    *sql: str,
    unit: str = units.COUNT,
    steps: Steps = (),
    base: Color = "green",
    bars: bool = False,
    stacked: bool = False,
    low: float | None = None,
    high: float | None = None,
    width: int = 12,
    height: int = 8,
    fields: Sequence[Field] = (),
    patterns: Sequence[Field] = (),
    interval: str = "10s",
    points: int | None = None,
) -> Ready:
    """Series over time; each query is of the format `time_series`. `patterns` are fields by a regular expression."""
    panel = (
        timeseries.Panel()
        .unit(unit)
        .interval(interval)
        .draw_style(commons.GraphDrawStyle.BARS if bars else commons.GraphDrawStyle.LINE)
        .fill_opacity(60 if bars else 10)
        .line_width(0 if bars else 1)
        .show_points(commons.VisibilityMode.AUTO)
        .thresholds(thresholds(steps, base))
        .legend(
            common.VizLegendOptions()
            .display_mode(commons.LegendDisplayMode.LIST)
            .placement(commons.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(commons.TooltipDisplayMode.MULTI).sort(commons.SortOrder.NONE))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(commons.StackingMode.NORMAL).group("A"))
    if steps:
        panel = panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(commons.GraphThresholdsStyleMode.DASHED)
        )
    if points is not None:
        panel = panel.max_data_points(points)
    if low is not None:
        panel = panel.min(low)
    if high is not None:
        panel = panel.max(high)
    for each in fields:
        panel = panel.override_by_name(each.name, each.properties())
    for each in patterns:
        panel = panel.override_by_regexp(each.name, each.properties())
    return _ready(panel.build(), title, description, [Query(text, "time_series") for text in sql], width, height)


def rows(
    title: str,
    description: str,
    sql: str,
    *,
    fields: Sequence[Field] = (),
    width: int = 12,
    height: int = 8,
    none: str = "none",
) -> Ready:
    """A table, in the order in which the rows come."""
    panel = (
        table.Panel()
        .no_value(none)
        .thresholds(thresholds((), "text"))
        .show_header(True)
        .cell_height(commons.TableCellHeight.SM)
        .filterable(False)
    )
    for each in fields:
        panel = panel.override_by_name(each.name, each.properties())
    return _ready(panel.build(), title, description, [Query(sql, "table")], width, height)


def cells(
    title: str,
    description: str,
    sql: str,
    *,
    unit: str,
    steps: Steps,
    base: Color,
    low: float,
    high: float,
    width: int = 24,
    height: int = 12,
    link: Link | None = None,
) -> Ready:
    """A row of coloured cells over time for each series."""
    panel = (
        statushistory.Panel()
        .unit(unit)
        .min(low)
        .max(high)
        .thresholds(thresholds(steps, base))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .show_value(commons.VisibilityMode.NEVER)
        .row_height(0.9)
        .legend(
            common.VizLegendOptions()
            .display_mode(commons.LegendDisplayMode.LIST)
            .placement(commons.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
    )
    built = panel.build()
    if link is not None:
        built.field_config.defaults.links = [{"title": link.title, "url": link.url}]  # type: ignore[union-attr]
    return _ready(built, title, description, [Query(sql, "time_series")], width, height)


def band(average: str, lowest: str, highest: str, color: str) -> list[Field]:
    """An average as a line between the least and the greatest value as a band; all three are names of series."""
    quiet = {"custom.lineWidth": 0, "custom.fillOpacity": 0, "custom.showPoints": "never"}
    return [
        Field(average, color=color, extra={"custom.lineWidth": 2, "custom.fillOpacity": 0}),
        Field(lowest, color=color, extra=quiet | {"custom.hideFrom": {"legend": True, "tooltip": False, "viz": False}}),
        Field(highest, color=color, extra=quiet | {"custom.fillBelowTo": lowest, "custom.fillOpacity": 20}),
    ]
