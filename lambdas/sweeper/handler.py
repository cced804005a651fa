"""The handler of iot-telemetry-sweeper, which EventBridge invokes every few minutes, and once a day for all objects.

The event is `{}` or `{"whole": true}`; a whole sweep that runs out of time invokes the function again to go on.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import boto3
import msgspec
import psycopg
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.config import Config

from lambdas.shared.connection import KeptConnection
from lambdas.shared.listing import EVERYTHING, Marker, hour_prefixes
from lambdas.sweeper.sweep import Ages, Findings, Target, sweep

logger = Logger()
metrics = Metrics(namespace="Fleetledger")
_database = KeptConnection(application_name="iot-telemetry-sweeper", statement_timeout_seconds=60)
_RESERVE_MILLISECONDS = 60_000
"""Time kept back for the last page and for going on."""


class Order(msgspec.Struct, frozen=True):
    """The event: what to sweep, and of a sweep in parts what the parts before have found."""

    whole: bool = False
    after: Marker | None = None
    listed: int = 0
    never_loaded: int = 0
    announced: int = 0
    archived: int = 0
    oldest: datetime | None = None


@cache
def _client(service: str) -> Any:
    return boto3.client(service, config=Config(retries={"mode": "standard", "max_attempts": 5}))  # type: ignore[call-overload]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Sweeps, and says what it found in its log, as metrics, and to whoever invoked it by hand."""
    now = datetime.now(UTC)
    order = msgspec.convert({k: v for k, v in event.items() if k in Order.__struct_fields__}, Order)
    prefixes = [EVERYTHING] if order.whole else hour_prefixes(now - _hours("LOOKBACK_HOURS"), now)
    try:
        found = sweep(
            _client("s3"),
            _client("sqs"),
            _database.get(),
            Target(os.environ["BUCKET"], os.environ["OBJECT_QUEUE_URL"]),
            Ages.at(
                now,
                retention=timedelta(days=int(os.environ["RETENTION_DAYS"])),
                grace=timedelta(minutes=int(os.environ["GRACE_MINUTES"])),
                resend=_hours("RESEND_HOURS"),
            ),
            prefixes,
            after=order.after,
            enough=_out_of_time(context) if order.whole else lambda: False,
            progress=_log_announced,
        )
    except psycopg.Error:
        _database.discard()
        raise
    total = _added(order, found)
    if total.after is not None:
        # Lambda stops a function that invokes itself after 16 times: https://docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html
        _client("lambda").invoke(
            FunctionName=context.function_name, InvocationType="Event", Payload=msgspec.json.encode(total)
        )
    else:
        _emit(total, now)
    answer: dict[str, Any] = json.loads(msgspec.json.encode(total))
    logger.info("sweep goes on" if total.after else "sweep", extra=answer)
    return answer


def _hours(variable: str) -> timedelta:
    return timedelta(hours=int(os.environ[variable]))


def _out_of_time(context: Any) -> Callable[[], bool]:
    return lambda: context.get_remaining_time_in_millis() < _RESERVE_MILLISECONDS


def _added(order: Order, found: Findings) -> Order:
    return Order(
        whole=order.whole,
        after=found.unfinished,
        listed=order.listed + found.listed,
        never_loaded=order.never_loaded + found.never_loaded,
        announced=order.announced + found.announced,
        archived=order.archived + found.archived,
        oldest=min((at for at in (order.oldest, found.oldest) if at is not None), default=None),
    )


def _log_announced(found: Findings) -> None:
    for listed in found.announced_objects:
        logger.warning(
            "object was never loaded: announced again",
            extra={"key": listed.key, "version_id": listed.version_id, "arrived_at": listed.arrived_at.isoformat()},
        )


def _emit(total: Order, now: datetime) -> None:
    """Writes the metrics to the log, from which CloudWatch takes them (embedded metric format); zero counts too."""
    age = (now - total.oldest).total_seconds() if total.oldest else 0.0
    metrics.add_metric("ObjectsNeverLoaded", MetricUnit.Count, total.never_loaded)
    metrics.add_metric("OldestNeverLoadedSeconds", MetricUnit.Seconds, age)
    metrics.flush_metrics()
