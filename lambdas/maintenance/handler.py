"""The handler of iot-telemetry-maintenance, which EventBridge invokes every minute.

It writes its metrics to its log (embedded metric format): namespace `Fleetledger`, dimension `service`.
"""

from dataclasses import asdict
from typing import Any, Protocol

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from lambdas.maintenance.work import Done, maintain
from lambdas.shared.connection import KeptConnection

logger = Logger()
metrics = Metrics(namespace="Fleetledger")
_database = KeptConnection(application_name="iot-telemetry-maintenance", statement_timeout_seconds=600)
_RESERVE_SECONDS = 5.0
_LAST_STEP_MILLISECONDS = 30_000
"""One hour of all devices may take so long, and what is not committed in time is done again by the next run."""


class Context(Protocol):
    """What is used of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Brings the rollups up to date, drops what has expired, and says what it did; faults are the database's own."""

    def enough() -> bool:
        return context.get_remaining_time_in_millis() < _LAST_STEP_MILLISECONDS

    with _database.within(context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS) as connection:
        done = maintain(connection, enough)
    _count(done)
    logger.info("rollups go on in the next run" if done.unfinished else "rollups are up to date", extra=asdict(done))
    return asdict(done)


def _count(done: Done) -> None:
    """Zeros too: without them, nothing to do and no run at all would look the same."""
    metrics.add_metric("BucketsRecomputed", MetricUnit.Count, done.buckets_recomputed)
    metrics.add_metric("OldestTouchedSeconds", MetricUnit.Seconds, done.oldest_touched_seconds)
    metrics.add_metric("ChunksDropped", MetricUnit.Count, done.chunks_dropped)
    metrics.add_metric("BalancesWritten", MetricUnit.Count, done.balances_written)
    metrics.add_metric("BalanceMissingPartsPerMillion", MetricUnit.NoUnit, done.balance_missing_ppm)
    metrics.flush_metrics()
