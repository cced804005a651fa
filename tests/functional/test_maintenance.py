"""The maintenance function, and how the database keeps what it keeps: chunks, retention, compression, roles."""

import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import boto3
import msgspec
import psycopg
import pytest
from moto import mock_aws
from psycopg import errors

from lambdas.maintenance import handler as handlers
from lambdas.migrator.migrate import apply_settings, migrate, read_migrations
from local.given_database import parse_dsn
from local.timescaledb.edition import is_community
from tests.databases import empty_database
from tests.functional.rollups import bring_up_to_date
from tests.functional.test_rollups import (
    HOUR_AGO,
    NOW,
    Store,
    assert_exact,
    counted,
    line,
    one_value,
    reading,
    store,
)

__all__ = ["store"]

EXPIRY = "SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"


class Context:
    """Lambda's, with so much time."""

    def __init__(self, seconds: float = 240) -> None:
        self._ends = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return round((self._ends - time.monotonic()) * 1000)


@pytest.fixture
def deployed(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handler's environment, with Secrets Manager played by moto."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(handlers.metrics.provider, "service", "iot-telemetry-maintenance")
    with mock_aws():
        text = msgspec.json.encode(parse_dsn(database_dsn)).decode()
        secret = boto3.client("secretsmanager").create_secret(Name="maintenance", SecretString=text)
        monkeypatch.setenv("DATABASE_SECRET_ARN", secret["ARN"])
        yield
    handlers._database.discard()


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    [document] = [json.loads(text) for text in capsys.readouterr().out.splitlines() if '"_aws"' in text]
    [directive] = document["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("Fleetledger", [["service"]])
    return {metric["Name"]: document[metric["Name"]][0] for metric in directive["Metrics"]}


def test_a_run_says_what_it_did(deployed: None, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.load(line("a", [reading(HOUR_AGO, temperature=20)]))
    store.connection.execute("UPDATE ingest.touched SET touched_at = touched_at - interval '5 minutes'")
    if is_community(store.connection):
        handlers.handler({}, Context())
        assert emitted(capsys)["OldestTouchedSeconds"] == pytest.approx(300, abs=30), "the job has not run"
        store.connection.execute("CALL rollup.refresh_touched()")
    handlers.handler({}, Context())
    found = emitted(capsys)
    assert found.pop("BucketsRecomputed") in {3, 4}
    idle = {"OldestTouchedSeconds": 0, "ChunksDropped": 0, "BalanceMissingPartsPerMillion": 0}
    assert found == {**idle, "BalancesWritten": 1}
    handlers.handler({}, Context())
    assert emitted(capsys) == {**idle, "BucketsRecomputed": 0, "BalancesWritten": 0}


def test_a_run_that_has_no_time_left_says_what_waits(
    deployed: None, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    if is_community(store.connection):
        pytest.skip("the Community edition's job has as much time as it takes")
    for hours in range(3):
        store.load(line("a", [reading(HOUR_AGO - timedelta(hours=hours), temperature=20)]))
    store.connection.execute("UPDATE ingest.touched SET touched_at = touched_at - interval '5 minutes'")
    assert handlers.handler({}, Context(20))["unfinished"] is True
    assert emitted(capsys)["OldestTouchedSeconds"] == pytest.approx(300, abs=30)
    assert one_value(store.connection, "SELECT count(*) FROM ingest.touched") == 2, "one hour is done at least"
    assert one_value(store.connection, "SELECT max(bucket) FROM telemetry_hourly") == HOUR_AGO, "the newest first"
    handlers.handler({}, Context())
    assert_exact(store.connection)


def test_expired_chunks_go_once_an_hour_and_the_longer_rollups_stay(store: Store) -> None:
    connection = store.connection
    old = HOUR_AGO - timedelta(days=20)
    store.load(line("a", [reading(old, temperature=20)]), line("a", [reading(HOUR_AGO, temperature=20)]))
    bring_up_to_date(connection)
    apply_settings(connection, {"retention_days": 7, "rollup_retention_days": 365})
    assert bring_up_to_date(connection).chunks_dropped == 0, "it has looked within the hour"
    connection.execute("UPDATE rollup.progress SET dropped_at = now() - interval '61 minutes'")
    bring_up_to_date(connection)
    if is_community(connection):
        connection.execute(
            "SELECT drop_chunks('telemetry', now() - (config ->> 'drop_after')::interval) "
            "FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention' AND hypertable_name = 'telemetry'"
        )
    assert one_value(connection, "SELECT count(*) FROM telemetry") == 1
    assert counted(connection) == 2
    # As old as the readings, and still a year to go; then gone, unless somebody has yet to see to it.
    connection.execute(
        "INSERT INTO anomalies (device_id, kind, severity, started_at, last_at, readings, resolved_at) "
        "SELECT 'a', 'silence', 'warning', %s, %s, 1, %s - age FROM unnest(ARRAY['0 days', '366 days', NULL]::interval[]) age",
        (old, old, old),
    )
    connection.execute("UPDATE rollup.progress SET dropped_at = now() - interval '61 minutes'")
    bring_up_to_date(connection)
    assert one_value(connection, "SELECT count(*) FROM anomalies") == 2
    # A mark of what has expired, as a load leaves that took long: what was made of it is not given up.
    connection.execute("INSERT INTO ingest.touched (first, last, device_ids) VALUES (%s, %s, '{a}')", (old, old))
    bring_up_to_date(connection)
    assert counted(connection, "telemetry_hourly") == 2
    assert one_value(connection, "SELECT count(*) FROM ingest.touched") == 0


def test_settings_reach_the_database(connection: psycopg.Connection) -> None:
    apply_settings(connection, {"chunk_hours": 6, "retention_days": 14, "compress_after_days": 3})
    width = one_value(
        connection, "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'telemetry'"
    )
    assert width == timedelta(hours=6)
    if is_community(connection):
        jobs: dict[str, Any] = dict(
            connection.execute(
                "SELECT proc_name, config FROM timescaledb_information.jobs WHERE hypertable_name = 'telemetry'"
            ).fetchall()
        )
        assert jobs["policy_retention"]["drop_after"] == "14 days"
        assert jobs["policy_compression"]["compress_after"] == "3 days"
    with pytest.raises(errors.CheckViolation):
        apply_settings(connection, {"rollup_retention_days": 1})
    with pytest.raises(errors.UndefinedColumn):
        apply_settings(connection, {"unknown": 1})
    assert one_value(connection, "SELECT retention_days FROM ingest.settings") == 14


def test_what_was_there_before_the_rollups_is_in_them(server_dsn: str) -> None:
    migrations = read_migrations()
    with (
        empty_database(server_dsn, f"fleet_before_rollups_{os.getpid()}") as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        migrate(connection, migrations[:6])
        connection.execute(
            "INSERT INTO telemetry (device_id, timestamp, seq, temperature, object_id) "
            "SELECT 'a', %s::timestamptz - n * interval '7 minutes', n, n, 0 FROM generate_series(0, 500) n",
            (NOW,),
        )
        # Kept for longer than by default, which the migrator says only once it has migrated.
        connection.execute(
            "INSERT INTO telemetry (device_id, timestamp, seq, temperature, object_id) VALUES ('a', %s, 1, 20, 0)",
            (NOW - timedelta(days=500),),
        )
        migrate(connection, migrations)
        assert not one_value(connection, EXPIRY), "a policy would run at once, and drop what is to be kept"
        bring_up_to_date(connection)
        assert_exact(connection)
        apply_settings(connection, {"retention_days": 730})
        connection.execute("UPDATE rollup.progress SET dropped_at = '-infinity'")
        bring_up_to_date(connection)
        assert one_value(connection, "SELECT count(*) FROM telemetry") == 502
        assert one_value(connection, EXPIRY) == is_community(connection)
        assert_exact(connection)


def test_the_loader_can_mark_and_have_computed_and_change_nothing_else(store: Store) -> None:
    connection = store.connection
    connection.execute("SET ROLE iot_loader")
    assert store.load(line("a", [reading(HOUR_AGO, temperature=20)])).rows == 1
    for forbidden in (
        "DELETE FROM ingest.touched",
        "UPDATE ingest.touched SET device_ids = NULL",
        "UPDATE ingest.settings SET retention_days = 1",
        "SELECT ingest.apply_settings()",
        "CALL rollup.refresh_touched()",
        "INSERT INTO rollup.pending VALUES (1, now(), now())",
        "DELETE FROM rollup.hours",
        "UPDATE rollup.progress SET dropped_at = '-infinity'",
    ):
        with pytest.raises(
            (errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState, errors.FeatureNotSupported)
        ):
            connection.execute(forbidden.encode())
