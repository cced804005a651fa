"""The handler of iot-telemetry-watch, which EventBridge invokes every minute.

It writes its metrics to its log (embedded metric format): namespace `Fleetledger`, dimension `service`.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.shared.connection import KeptConnection
from lambdas.shared.database import DatabaseSecretError
from lambdas.watch import anomalies, queries
from lambdas.watch.devices import in_service, latency_seconds, look_back_to, presence, to_remember
from lambdas.watch.stuck import stuck

logger = Logger()
metrics = Metrics(namespace="Fleetledger")
_database = KeptConnection(application_name="iot-telemetry-watch", statement_timeout_seconds=20)
_RESERVE_SECONDS = 5.0
_LATENCY_OF = timedelta(minutes=5)
_QUARANTINED_OF = timedelta(minutes=15)
# The loaders reach the database by the same secret, over the same network: what keeps us from it keeps them too.
_NO_ANSWER = (psycopg.Error, TimeoutError, DatabaseSecretError, ClientError, BotoCoreError)


class Context(Protocol):
    """What is used of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: dict[str, Any], context: Context) -> None:
    """Measures. A database that does not answer is a measurement too, and no fault of this function.

    One that answers and refuses (a migration is missing, a query takes too long) raises psycopg.Error, after what was
    measured so far is written.
    """
    connection: psycopg.Connection | None = None
    try:
        with _database.within(context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS) as connection:
            _measure(connection, datetime.now(UTC))
    except _NO_ANSWER as error:
        if connection is not None and not connection.closed:
            raise
        logger.warning("the database does not answer", extra={"fault": type(error).__name__})
        _database.discard()
        metrics.clear_metrics()
        connection = None
    finally:
        metrics.add_metric("DatabaseReachable", MetricUnit.Count, int(connection is not None))
        metrics.flush_metrics()


def _measure(connection: psycopg.Connection, now: datetime) -> None:
    """Cheapest first: what comes after a query that takes too long is not measured."""
    server = queries.server(connection)
    metrics.add_metric("DatabaseConnectionsPercent", MetricUnit.Percent, server.connections_percent)
    metrics.add_metric("DatabaseBytes", MetricUnit.Bytes, server.bytes)
    if server.unarchived_wal_seconds is not None:
        metrics.add_metric("UnarchivedWalSeconds", MetricUnit.Seconds, server.unarchived_wal_seconds)
    quarantined = queries.quarantined(connection, now - _QUARANTINED_OF)
    metrics.add_metric("QuarantinedPartsPerMillion", MetricUnit.NoUnit, quarantined.per_million)
    remembered = queries.remembered(connection)
    since = look_back_to(now, remembered)
    contacts = queries.contacts(connection, now, since)
    queries.remember(connection, to_remember(contacts, remembered), now - _retention())
    last_seen = remembered | {contact.device_id: contact.at for contact in contacts}
    counted = in_service(last_seen, queries.retired(connection), queries.inactive(connection))
    offline_after = timedelta(minutes=int(os.environ["OFFLINE_AFTER_MINUTES"]))
    devices = presence(counted.values(), now, offline_after)
    metrics.add_metric("DevicesKnown", MetricUnit.Count, devices.known)
    metrics.add_metric("DevicesOffline", MetricUnit.Count, devices.offline)
    metrics.add_metric("DevicesOfflinePercent", MetricUnit.Percent, devices.offline_percent)
    metrics.add_metric("DevicesOfflineOverAnHour", MetricUnit.Count, devices.offline_over_an_hour)
    latency = latency_seconds(contacts, now - _LATENCY_OF)
    if latency is not None:
        metrics.add_metric("LatencySeconds", MetricUnit.Seconds, latency)
    anomalies.silence(connection, now, last_seen, counted, offline_after)
    anomalies.recover(connection, since)
    stuck(connection, now)
    _count(anomalies.state(connection, datetime.now(UTC)))
    missing = queries.missing(connection, [contact.device_id for contact in contacts], now, since)
    metrics.add_metric("MissingPartsPerMillion", MetricUnit.NoUnit, missing.per_million)


def _count(found: anomalies.State) -> None:
    metrics.add_metric("AnomaliesOpen", MetricUnit.Count, found.open)
    metrics.add_metric("AnomaliesOpenCritical", MetricUnit.Count, found.open_critical)
    metrics.add_metric("AnomaliesOpenWarning", MetricUnit.Count, found.open_warning)
    metrics.add_metric("AnomaliesOpenInfo", MetricUnit.Count, found.open_info)
    metrics.add_metric("AnomaliesDetected", MetricUnit.Count, found.detected)
    metrics.add_metric("AnomaliesCritical", MetricUnit.Count, found.critical)
    if found.detection_seconds is not None:
        metrics.add_metric("AnomalyDetectionSeconds", MetricUnit.Seconds, found.detection_seconds)


def _retention() -> timedelta:
    return timedelta(days=int(os.environ["RETENTION_DAYS"]))
