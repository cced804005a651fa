"""What is drawn into every chart: anomalies as spans, migrations of the database as lines."""

from grafana_foundation_sdk.builders.dashboard import AnnotationQuery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery as Annotation
from grafana_foundation_sdk.models.dashboard import AnnotationTarget

from dashboards.source import Query, data_source


class _Target(AnnotationTarget):
    """An annotation's target is an ordinary query; the SDK knows only that of Grafana's own annotations."""

    def __init__(self, query: Query) -> None:
        super().__init__()
        self._query = query

    def to_json(self) -> dict[str, object]:
        return self._query.to_json() | {"refId": "Anno"}


class _TargetBuilder(Builder[AnnotationTarget]):
    def __init__(self, query: Query) -> None:
        self._query = query

    def build(self) -> AnnotationTarget:
        return _Target(self._query)


def _annotation(name: str, sql: str, color: str, *, shown: bool) -> Builder[Annotation]:
    return (
        AnnotationQuery()
        .name(name)
        .datasource(data_source())
        .enable(shown)
        .hide(False)
        .icon_color(color)
        .target(_TargetBuilder(Query(sql, "table")))
    )


def anomalies(condition: str, *, shown: bool = True) -> Builder[Annotation]:
    """Episodes that meet `condition`, from the first reading that showed it to when it was resolved, or now."""
    return _annotation(
        "Anomalies",
        f"""
SELECT started_at AS time, coalesce(resolved_at, $__timeTo()::timestamptz) AS timeend,
       device_id || ': ' || kind || coalesce(' of ' || metric, '') AS text, severity || ',' || kind AS tags
FROM anomalies
WHERE started_at <= $__timeTo() AND coalesce(resolved_at, 'infinity') >= $__timeFrom() AND {condition}
ORDER BY started_at DESC LIMIT 100
""",
        "red",
        shown=shown,
    )


def deployments() -> Builder[Annotation]:
    """When migrations were applied: what the database knows of deployments."""
    return _annotation(
        "Migrations",
        """
SELECT applied_at AS time, 'migration ' || to_char(version, 'FM0000') || ' ' || name AS text, 'deployment' AS tags
FROM ingest.migrations WHERE $__timeFilter(applied_at) ORDER BY 1
""",
        "blue",
        shown=True,
    )
