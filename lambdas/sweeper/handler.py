"""The handler of iot-telemetry-sweeper, which EventBridge invokes every few minutes, and once a day for all objects.

The event is `{}` or `{"whole": true}`. A whole sweep that runs out of time is gone on with by the next run, whichever that
is: the function itself can invoke nothing from a subnet without a way out, and need not be allowed to.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Protocol

import boto3
import psycopg
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.config import Config

from lambdas.shared.connection import KeptConnection
from lambdas.shared.listing import EVERYTHING, hour_prefixes
from lambdas.sweeper import progress
from lambdas.sweeper.progress import Progress
from lambdas.sweeper.sweep import Ages, Findings, Target, sweep

logger = Logger()
metrics = Metrics(namespace="Fleetledger")
_database = KeptConnection(application_name="iot-telemetry-sweeper", statement_timeout_seconds=60)
_RESERVE_SECONDS = 5.0
_LAST_PAGE_MILLISECONDS = 60_000
"""Of a whole sweep: kept back for its last page, and to say where the next run goes on."""


class Context(Protocol):
    """What is used of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


@cache
def _client(service: str) -> Any:
    return boto3.client(service, config=Config(retries={"mode": "standard", "max_attempts": 5}))  # type: ignore[call-overload]


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Sweeps, and says what it found in its log, as metrics, and to whoever invoked it by hand.

    `recent` is what it found in the last hours; `whole`, together with the runs before, in a sweep over everything.
    """
    now = datetime.now(UTC)
    answer: dict[str, Any] = {}
    with _database.within(context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS) as connection:
        if not event.get("whole"):
            recent = Progress().plus(_sweep(connection, now, hour_prefixes(now - _hours("LOOKBACK_HOURS"), now)))
            answer["recent"] = _report("recent sweep", recent, now)
        with progress.only_one(connection) as ours:
            under_way = progress.load(connection, os.environ["BUCKET"]) if ours else None
            if ours and (under_way or event.get("whole")):
                answer["whole"] = _go_on(connection, under_way or Progress(), now, context)
            elif not ours:
                logger.info("another run is at the whole sweep")
    return answer


def _go_on(connection: psycopg.Connection, before: Progress, now: datetime, context: Context) -> dict[str, Any]:
    """Sweeps everything, from where the run before has stopped until this one's time is up."""
    found = _sweep(connection, now, [EVERYTHING], before, lambda: _is_late(context))
    so_far = before.plus(found)
    progress.save(connection, os.environ["BUCKET"], so_far)
    return _report("whole sweep", so_far, now)


def _sweep(
    connection: psycopg.Connection,
    now: datetime,
    prefixes: list[str],
    before: Progress | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Findings:
    return sweep(
        _client("s3"),
        _client("sqs"),
        connection,
        Target(os.environ["BUCKET"], os.environ["OBJECT_QUEUE_URL"]),
        Ages.at(
            now,
            retention=timedelta(days=int(os.environ["RETENTION_DAYS"])),
            grace=timedelta(minutes=int(os.environ["GRACE_MINUTES"])),
            resend=_hours("RESEND_HOURS"),
        ),
        prefixes,
        after=before.after if before else None,
        enough=enough,
        progress=_log_announced,
    )


def _hours(variable: str) -> timedelta:
    return timedelta(hours=int(os.environ[variable]))


def _is_late(context: Context) -> bool:
    return context.get_remaining_time_in_millis() < _LAST_PAGE_MILLISECONDS


def _log_announced(found: Findings) -> None:
    for listed in found.announced_objects:
        logger.warning(
            "object was never loaded: announced again",
            extra={"key": listed.key, "version_id": listed.version_id, "arrived_at": listed.arrived_at.isoformat()},
        )


def _report(sweep_name: str, found: Progress, now: datetime) -> dict[str, Any]:
    """Logs what was found; of a sweep that is at its end, writes the metrics, zero counts too (embedded metric format)."""
    report = asdict(found) | {
        "after": found.after and found.after._asdict(),
        "oldest": found.oldest and found.oldest.isoformat(),
    }
    logger.info(sweep_name + (" goes on in the next run" if found.after else ""), extra=report)
    if found.after is None:
        age = (now - found.oldest).total_seconds() if found.oldest else 0.0
        metrics.add_metric("ObjectsNeverLoaded", MetricUnit.Count, found.never_loaded)
        metrics.add_metric("OldestNeverLoadedSeconds", MetricUnit.Seconds, age)
        metrics.flush_metrics()
    return report
