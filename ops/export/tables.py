"""What can be exported: relations of the database under the names that the command line has for them."""

from dataclasses import dataclass
from typing import Literal

_SHORT = {"temperature": "temp"}
_ROLLED_UP = ("avg", "min", "max", "stddev", "count")


@dataclass(frozen=True)
class Table:
    """A relation, and how spans of time and metrics show in it."""

    name: str
    """On the command line."""
    relation: str
    time: str
    """The column that tells whether a row lies in the span."""
    metrics: Literal["columns", "rolled up", "rows", "none"]
    """Each metric is a column, has several, has rows of its own, or none of this."""
    whole_by_default: bool = False
    """A span need not be given."""
    days: bool = False
    """`time` is a date: the day's midnight (UTC) must lie in the span."""

    def columns_of(self, metric: str) -> set[str]:
        """The columns that are about one metric."""
        if self.metrics == "columns":
            return {metric}
        if self.metrics == "rolled up":
            return {f"{figure}_{_SHORT.get(metric, metric)}" for figure in _ROLLED_UP}
        return set()


TABLES = {
    table.name: table
    for table in (
        Table("telemetry", "telemetry", "timestamp", "columns"),
        Table("1m", "telemetry_1m", "bucket", "rolled up"),
        Table("hourly", "telemetry_hourly", "bucket", "rolled up"),
        Table("daily", "telemetry_daily", "bucket", "rolled up"),
        Table("weekly", "telemetry_weekly", "bucket", "rolled up"),
        Table("anomalies", "anomalies", "started_at", "rows"),
        Table("quality", "data_quality", "day", "none", days=True),
        Table("latest", "device_latest", "timestamp", "columns", whole_by_default=True),
    )
}
