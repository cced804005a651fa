"""The data source that every panel asks, and a query as Grafana's PostgreSQL data source keeps it."""

from typing import Literal, Self

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import DataSourceRef

UID = "fleetledger"
TYPE = "grafana-postgresql-datasource"

Format = Literal["time_series", "table"]


def data_source() -> DataSourceRef:
    """The data source of `dashboards/provisioning/datasources`, by its uid."""
    return DataSourceRef(type_val=TYPE, uid=UID)


class Query(Dataquery):
    """SQL in Grafana's dialect, i.e. with its macros and variables.

    `time_series` wants a column `time`, ascending, and makes each other column a series; `table` shows what comes.
    """

    def __init__(self, sql: str, format_: Format) -> None:
        self.sql = sql.strip()
        self.format = format_
        self.ref_id = "A"

    def to_json(self) -> dict[str, object]:
        """The target of a panel, or of an annotation."""
        return {
            "datasource": data_source(),
            "editorMode": "code",
            "format": self.format,
            "rawQuery": True,
            "rawSql": self.sql,
            "refId": self.ref_id,
        }


class QueryBuilder(Builder[Dataquery]):
    """What the SDK's panels take for a query."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def ref_id(self, letter: str) -> Self:
        """Names the query within its panel."""
        self._query.ref_id = letter
        return self

    def build(self) -> Dataquery:
        """The query."""
        return self._query
