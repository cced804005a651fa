"""A dashboard: what it shows, in the order in which it shows it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders.dashboard import Dashboard, DashboardLink, Row
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    VariableModel,
)
from grafana_foundation_sdk.models.dashboard import Dashboard as Model

from dashboards.panels import Ready, panel_id

TAG = "fleetledger"


@dataclass(frozen=True)
class Section:
    """A row of the dashboard, with a heading, and what stands below it."""

    title: str
    panels: Sequence[Ready]


@dataclass(frozen=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    description: str
    sections: Sequence[Section]
    variables: Sequence[Builder[VariableModel]] = ()
    annotations: Sequence[Builder[AnnotationQuery]] = ()
    range: str = "now-1h"
    refresh: str = "1m"
    keywords: Sequence[str] = field(default_factory=tuple)

    def build(self) -> Model:
        """As the SDK's model, whose JSON is what Grafana takes."""
        board = (
            Dashboard(self.title)
            .uid(self.uid)
            .description(self.description)
            .tags([TAG, *self.keywords])
            .timezone("utc")
            .time(self.range, "now")
            .refresh(self.refresh)
            .tooltip(DashboardCursorSync.CROSSHAIR)
            .editable()
            .variables(list(self.variables))
            .annotations(list(self.annotations))
            .link(_to_others())
        )
        for section in self.sections:
            board = board.with_row(Row(section.title).id(panel_id(f"row {section.title}")))
            for panel in section.panels:
                board = board.with_panel(panel)
        return board.build()


def _to_others() -> DashboardLink:
    return (
        DashboardLink("Fleetledger")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(True)
        .include_vars(True)
        .keep_time(True)
        .tooltip("The other dashboards, with the same range of time")
    )
