"""The SQL of Grafana's alert rules on a real database: quiet when all is well and when there is nothing, loud when not."""

from collections.abc import Mapping

import psycopg
import pytest

from dashboards.alerts import ALERTS, Alert

_OBJECT = (
    "INSERT INTO ingest.objects (bucket, key, status, readings, rows, quarantined, milliseconds, last_timestamp, loaded_at) "
    "VALUES ('b', '{key}', 'loaded', 1000, {rows}, 1000 - {rows}, {milliseconds}, now() - interval '{age}', "
    "now() - interval '{loaded}')"
)
_WELL = _OBJECT.format(key="well", rows=1000, milliseconds=20, age="3 s", loaded="2 s")
_DEVICE = (
    "WITH o AS (SELECT min(object_id) AS object_id FROM ingest.objects) INSERT INTO device_latest "
    "(device_id, timestamp, seq, quality, received_at, object_id, first_seen) "
    "SELECT '{name}', now() - interval '{silent}', 1, 0, now() - interval '{silent}', object_id, now() FROM o"
)
_ANOMALY = (
    "INSERT INTO anomalies (device_id, metric, kind, severity, started_at, last_at, readings{more}) "
    "VALUES ('device-1', 'temperature', 'spike', '{severity}', now(), now(), 1{values})"
)
_QUIET = (
    _WELL,
    _DEVICE.format(name="device-1", silent="5 s"),
    _DEVICE.format(name="device-2", silent="6 s"),
    _ANOMALY.format(severity="warning", more="", values=""),
    _ANOMALY.format(severity="critical", more=", resolved_at", values=", now()"),
    "INSERT INTO ingest.touched (first, last) VALUES (now(), now())",
)
_LOUD: Mapping[str, tuple[str, ...]] = {
    "no-messages": (_OBJECT.format(key="old", rows=1000, milliseconds=20, age="7 min", loaded="6 min"),),
    "devices-offline": (
        _WELL,
        _DEVICE.format(name="device-1", silent="5 s"),
        _DEVICE.format(name="device-2", silent="20 min"),
        _DEVICE.format(name="device-3", silent="2 days"),
    ),
    "device-offline": (
        _WELL,
        _DEVICE.format(name="device-1", silent="5 s"),
        _DEVICE.format(name="device-2", silent="2 hours"),
    ),
    "latency": (_OBJECT.format(key="late", rows=1000, milliseconds=20, age="30 s", loaded="2 s"),),
    "loader-slow": (_OBJECT.format(key="slow", rows=1000, milliseconds=60_000, age="3 s", loaded="2 s"),),
    "objects-rejected": (
        "INSERT INTO ingest.objects (bucket, key, status, reason) VALUES ('b', 'bad', 'rejected', 'not_gzip')",
    ),
    "quarantine": (_OBJECT.format(key="bad", rows=990, milliseconds=20, age="3 s", loaded="2 s"),),
    "anomalies-critical": (_ANOMALY.format(severity="critical", more="", values=""),),
    "rollups-stale": (
        "INSERT INTO ingest.touched (first, last, touched_at) VALUES (now(), now(), now() - interval '20 min')",
    ),
}


def _value(connection: psycopg.Connection, alert: Alert) -> float:
    """What Grafana compares: one row of one number."""
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        ((value,),) = connection.execute(alert.sql.encode()).fetchall()
    return float(value)


def test_nothing_is_told_of_an_empty_database_or_of_one_that_is_well(connection: psycopg.Connection) -> None:
    for prepared in ((), _QUIET):
        for statement in prepared:
            connection.execute(statement.encode())
        for alert in ALERTS:
            assert _value(connection, alert) <= alert.above, alert.key


def test_each_is_told_of_what_it_is_for(connection: psycopg.Connection) -> None:
    assert _LOUD.keys() == {alert.key for alert in ALERTS}
    for alert in ALERTS:
        with connection.transaction(force_rollback=True):
            for statement in _LOUD[alert.key]:
                connection.execute(statement.encode())
            ((value,),) = connection.execute(alert.sql.encode()).fetchall()
            assert float(value) > alert.above, alert.key


def test_one_device_is_neither_half_of_the_fleet_nor_at_fault_when_nothing_is_loaded(
    connection: psycopg.Connection,
) -> None:
    alerts = {alert.key: alert for alert in ALERTS}
    for statement in _LOUD["device-offline"]:
        connection.execute(statement.encode())
    assert _value(connection, alerts["devices-offline"]) <= 50
    connection.execute("UPDATE ingest.objects SET loaded_at = now() - interval '1 hour'")
    assert _value(connection, alerts["device-offline"]) == 0
    assert _value(connection, alerts["no-messages"]) > 300


@pytest.mark.parametrize("key", ["device-offline", "devices-offline"])
def test_a_device_out_of_service_is_told_of_by_nobody(connection: psycopg.Connection, key: str) -> None:
    (alert,) = (alert for alert in ALERTS if alert.key == key)
    for statement in _LOUD[key]:
        connection.execute(statement.encode())
    connection.execute("UPDATE devices SET active = false WHERE device_id <> 'device-1'")
    assert _value(connection, alert) == 0
