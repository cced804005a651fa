"""Grafana's names for units, and those of the metrics of the telemetry contract."""

from grafana_foundation_sdk.models import units

from lambdas.shared.contract import METRICS, Metric

COUNT = units.Short
NONE = units.NoUnit
PERCENT = units.Percent
SECONDS = units.Seconds
MILLISECONDS = units.Milliseconds
BYTES = units.BytesIEC
PER_SECOND = units.ReadsPerSecond
PER_MINUTE = units.CountsPerMinute
PER_MILLION = units.PartsPerMillion
TIME = units.DatetimeISO

_GRAFANA = {"degC": units.Celsius, "%": units.Percent, "hPa": units.Hectopascals}


def of(metric: Metric) -> str:
    """Grafana's name for the unit of a metric. Raises KeyError for one that has none here yet."""
    return _GRAFANA[metric.unit]


def by_metric() -> dict[str, str]:
    """Grafana's unit of each metric."""
    return {metric.name: of(metric) for metric in METRICS}


SHORT_NAMES = {"temperature": "temp", "humidity": "humidity", "pressure": "pressure", "battery": "battery"}
"""What the columns of the rollups call a metric: avg_temp, min_temp ..."""
