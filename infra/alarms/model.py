"""What an alarm is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Missing = Literal["breaching", "notBreaching", "ignore"]
"""What CloudWatch takes a period without data for. `missing` is left out: an alarm without data is to say something.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
"""
Comparison = Literal[">", ">=", "<", "<="]
SeverityName = Literal["P0", "P1", "P2", "P3"]
DESCRIPTION_LIMIT = 1024
"""Characters that CloudWatch keeps of an alarm's description."""


@dataclass(frozen=True)
class Severity:
    """How soon somebody has to act, in the runbook's words."""

    name: SeverityName
    response: str
    means: str


SEVERITIES: Mapping[SeverityName, Severity] = {
    "P0": Severity("P0", "immediately", "complete loss: nothing is ingested"),
    "P1": Severity("P1", "15 minutes", "partial loss, or loss soon"),
    "P2": Severity("P2", "1 hour", "degraded: late, incomplete or unwatched"),
    "P3": Severity("P3", "4 hours", "minor: a single device, money"),
}


@dataclass(frozen=True)
class Metric:
    """One CloudWatch metric and how its samples of a period become one number."""

    namespace: str
    name: str
    dimensions: Mapping[str, str]
    statistic: str
    """Sum, Average, Minimum, Maximum, SampleCount, or a percentile such as p99."""
    period_seconds: int = 60


@dataclass(frozen=True)
class Math:
    """Metric math over metrics of one period: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html"""

    expression: str
    metrics: Mapping[str, Metric]
    period_seconds: int = 60


@dataclass(frozen=True)
class Query:
    """A Metrics Insights query that gives one series; for metrics with a dimension whose values are not ours to know.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-querylanguage.html
    """

    statistic: Literal["SUM", "MAX", "AVG"]
    namespace: str
    name: str
    dimensions: tuple[str, ...]
    where: Mapping[str, str]
    period_seconds: int = 60

    @property
    def expression(self) -> str:
        """The query as CloudWatch takes it."""
        schema = ", ".join((f'"{self.namespace}"', *self.dimensions))
        where = " AND ".join(f"{name} = '{value}'" for name, value in self.where.items())
        return f'SELECT {self.statistic}("{self.name}") FROM SCHEMA({schema}) WHERE {where}'  # noqa: S608 - names of ours, and no SQL database


@dataclass(frozen=True)
class Quiet:
    """Alarms that make another one keep quiet, because it follows from them: one fault pages once."""

    by: tuple[str, ...]
    """Keys of the alarms that are the cause."""
    group: str = ""
    """What they are together, where they are several."""
    wait_seconds: int = 120
    """How long to hold back for the cause to be noticed too; every page of this alarm is so much later."""
    recovery_seconds: int = 600
    """How long after the cause is gone its consequences may take to go too, such as a backlog to be loaded."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One line of the runbook's table."""

    key: str
    """Its name without `iot-` and suffix, and the anchor of its section in docs/runbook.md."""
    severity: SeverityName
    title: str
    means: str
    """What is the case, and what it does to the data."""
    act: str
    """What to do first, in the imperative."""
    measure: Metric | Math | Query
    comparison: Comparison
    threshold: float
    out_of: tuple[int, int]
    """M of N: so many of the last so many periods."""
    missing: Missing
    because: str
    """Why missing data is treated so."""
    quiet: Quiet | None = None

    @property
    def plain(self) -> bool:
        """Whether it rests on one metric, without metric math."""
        return isinstance(self.measure, Metric)

    @property
    def period_seconds(self) -> int:
        """The length of a period."""
        return self.measure.period_seconds

    def name(self, suffix: str, *, measured: bool = False) -> str:
        """The alarm's name in an environment; `measured`: of its measurement, where another alarm tells."""
        prefix = "" if self.key.startswith("iot-") else "iot-"
        return f"{prefix}{self.key}{'-measured' if measured else ''}{suffix}"

    @property
    def hold_seconds(self) -> int:
        """How long to keep quiet after the cause is gone: until the window has passed that still sees it, and a while."""
        return self.out_of[1] * self.period_seconds + (self.quiet.recovery_seconds if self.quiet else 0)

    def condition(self) -> str:
        """When it fires, as the runbook's table says it."""
        m, n = self.out_of
        span = _span(self.period_seconds)
        times = f"in {m} of {n} periods of {span}" if n > 1 else f"within {span}"
        return f"{self._measured()} {self.comparison} {self.threshold:g} {times}"

    def description(self, *, owner: str, runbook: str) -> str:
        """What whoever is paged reads: severity, owner, meaning, action and where to read on."""
        severity = SEVERITIES[self.severity]
        return (
            f"{self.severity} (respond: {severity.response}) | Owner: {owner} | {self.title}. {self.means} "
            f"| Action: {self.act} | Runbook: {runbook}#{self.key}"
        )

    def _measured(self) -> str:
        if isinstance(self.measure, Metric):
            return f"{self.measure.name} ({self.measure.statistic})"
        if isinstance(self.measure, Query):
            return f"{self.measure.name} ({self.measure.statistic.capitalize()}, over {', '.join(self.measure.where)})"
        return f"`{self.measure.expression}`"


def _span(seconds: int) -> str:
    if seconds % 3600 == 0:
        return f"{seconds // 3600} h"
    return f"{seconds // 60} min"
