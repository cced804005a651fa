"""The watch against a real TimescaleDB: what it measures, that it reads no chunk through, and what it does without one."""

import gzip
import io
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import msgspec
import psycopg
import pytest
from moto import mock_aws

from lambdas.migrator.migrate import migrate, read_migrations
from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.messages import Batch
from lambdas.watch import handler as handlers
from lambdas.watch import queries
from lambdas.watch.devices import Contact, Presence, latency_seconds, look_back_to, presence, to_remember
from local import timescaledb
from local.given_database import parse_dsn
from tests.functional.conftest import wait_until
from tests.functional.tcp_proxy import TcpProxy
from tests.functional.test_exactly_once_server import own_server
from tests.stamping import STAMP, STAMPS

NOW = datetime.now(UTC).replace(microsecond=0)
SINCE = look_back_to(NOW, {"any": NOW})
MINUTE = timedelta(minutes=1)


@pytest.fixture
def loader(database_dsn: str) -> Iterator[psycopg.Connection]:
    """As the watch has it: with the loader's rights and no more."""
    with psycopg.connect(database_dsn, autocommit=True) as opened:
        opened.execute("SET ROLE iot_loader")
        yield opened


def loaded(
    connection: psycopg.Connection, key: str, loaded_at: datetime, *, readings: int = 0, quarantined: int = 0
) -> int:
    """An object in the ledger."""
    row = connection.execute(
        "INSERT INTO ingest.objects (bucket, key, status, loaded_at, readings, rows, quarantined) "
        "VALUES ('raw', %s, 'loaded', %s, %s, %s, %s) RETURNING object_id",
        (key, loaded_at, readings, readings - quarantined, quarantined),
    ).fetchone()
    assert row is not None
    return int(row[0])


def reading(
    connection: psycopg.Connection,
    device: str,
    at: datetime,
    seq: int = 0,
    *,
    received_at: datetime | None = None,
    object_id: int = 0,
) -> None:
    connection.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, received_at, object_id) VALUES (%s, %s, %s, %s, %s)",
        (device, at, seq, received_at, object_id),
    )


def seen(connection: psycopg.Connection) -> dict[str, timedelta]:
    """How long each device has been silent."""
    return {contact.device_id: NOW - contact.at for contact in queries.contacts(connection, NOW, SINCE)}


# Devices.


def test_each_device_was_last_seen_when_its_newest_reading_was_received(loader: psycopg.Connection) -> None:
    for minutes in range(3, 60, 10):
        reading(loader, "a", NOW - minutes * MINUTE, received_at=NOW - (minutes - 1) * MINUTE)
    reading(loader, "b", NOW - timedelta(hours=20), received_at=NOW - timedelta(hours=20))
    reading(loader, "without", NOW - 7 * MINUTE)
    reading(loader, "backlog", NOW - timedelta(hours=5), received_at=NOW - MINUTE)
    reading(loader, "old", NOW - timedelta(days=3), received_at=NOW - timedelta(days=3))
    assert seen(loader) == {
        "a": 2 * MINUTE,
        "b": timedelta(hours=20),
        "without": 7 * MINUTE,
        "backlog": MINUTE,
    }


def test_a_clock_that_is_ahead_makes_no_device_look_alive_for_longer_nor_dead(loader: psycopg.Connection) -> None:
    ahead = timedelta(minutes=50)
    for minutes in (90, 60, 45):
        reading(loader, "ahead", NOW - minutes * MINUTE + ahead, received_at=NOW - minutes * MINUTE)
    reading(loader, "glitch", NOW - 40 * MINUTE + ahead, received_at=NOW - 40 * MINUTE)
    reading(loader, "glitch", NOW - MINUTE, received_at=NOW - MINUTE)
    reading(loader, "mute", NOW - 30 * MINUTE)
    reading(loader, "mute", NOW + 20 * MINUTE, object_id=loaded(loader, "k", NOW - 29 * MINUTE))
    reading(loader, "skewed", NOW - MINUTE, received_at=NOW + MINUTE)
    assert seen(loader) == {
        "ahead": 45 * MINUTE,
        "glitch": MINUTE,
        "mute": 29 * MINUTE,
        "skewed": timedelta(0),
    }


def test_a_device_that_is_silent_for_days_stays_known_until_the_retention_is_over(loader: psycopg.Connection) -> None:
    silent = [Contact(f"d{days}", NOW - timedelta(days=days), None) for days in (1, 9, 11)]
    queries.remember(loader, silent, NOW - timedelta(days=30))
    queries.remember(loader, [Contact("d9", NOW - timedelta(days=12), None)], NOW - timedelta(days=10))
    assert queries.remembered(loader) == {"d1": NOW - timedelta(days=1), "d9": NOW - timedelta(days=9)}


def test_silence_is_counted_beyond_the_limit_and_not_at_it() -> None:
    silences = [0, 600, 601, 3600, 3601, 90_000]
    last_seen = [NOW - timedelta(seconds=seconds) for seconds in silences]
    counted = presence(last_seen, NOW, timedelta(minutes=10))
    assert (counted.known, counted.offline, counted.offline_over_an_hour) == (6, 4, 2)
    assert round(counted.offline_percent, 1) == 66.7
    assert Presence(0, 0, 0).offline_percent == 0


def test_a_device_is_remembered_when_new_and_then_once_an_hour() -> None:
    contacts = [Contact(name, NOW, None) for name in ("new", "fresh", "stale")]
    remembered = {"fresh": NOW - 59 * MINUTE, "stale": NOW - 60 * MINUTE, "silent": NOW - timedelta(days=3)}
    assert [contact.device_id for contact in to_remember(contacts, remembered)] == ["new", "stale"]


def test_what_came_while_the_watch_did_not_run_is_looked_at() -> None:
    now = datetime(2026, 11, 21, 5, 30, tzinfo=UTC)
    assert look_back_to(now, {"a": now - MINUTE, "b": now - timedelta(days=9)}) == datetime(2026, 11, 20, tzinfo=UTC)
    assert look_back_to(now, {"a": now - timedelta(days=4)}) == datetime(2026, 11, 17, tzinfo=UTC)
    assert look_back_to(now, {"a": now - timedelta(days=300)}) == datetime(2026, 10, 22, tzinfo=UTC)
    assert look_back_to(now, {}) == datetime(2026, 10, 22, tzinfo=UTC)


def test_latency_is_that_of_most_devices_and_only_of_what_was_loaded_lately() -> None:
    waits = [Contact(f"d{n}", NOW - timedelta(seconds=n), NOW) for n in range(1, 101)]
    before = [Contact("before", NOW - timedelta(days=1), NOW - timedelta(minutes=6)), Contact("never", NOW, None)]
    assert latency_seconds(waits + before, NOW - 5 * MINUTE) == 95
    assert latency_seconds(before, NOW - 5 * MINUTE) is None
    assert latency_seconds(waits[:1], NOW - 5 * MINUTE) == 1
    assert latency_seconds([Contact("skew", NOW, NOW - MINUTE)], NOW - 5 * MINUTE) == 0


# What is missing.

END = NOW - queries.IN_FLIGHT
START = END - queries.MISSING_WINDOW


def every_second(connection: psycopg.Connection, device: str, seqs: Any, start: datetime = START) -> None:
    """A reading a second from `start` on."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO telemetry (device_id, timestamp, seq, object_id) VALUES (%s, %s, %s, 0) ON CONFLICT DO NOTHING",
            [(device, start + timedelta(seconds=n), seq) for n, seq in enumerate(seqs)],
        )


def missing(connection: psycopg.Connection, *devices: str) -> tuple[int, int]:
    found = queries.missing(connection, devices, NOW, SINCE)
    return found.part, found.whole


def test_nothing_is_missing_from_a_sequence_however_often_and_in_whatever_order_it_came(
    loader: psycopg.Connection,
) -> None:
    every_second(loader, "whole", range(700, 900))
    every_second(loader, "twice", [seq for seq in range(50, 150) for _ in range(2)])
    every_second(loader, "clock set back", [*range(1, 101)])
    every_second(loader, "clock set back", [*range(101, 201)], START + timedelta(seconds=50))
    every_second(loader, "no seq", [0] * 200)
    every_second(loader, "some without", [seq if seq % 2 else 0 for seq in range(1, 3)] * 10)
    assert [
        missing(loader, device)[0] for device in ("whole", "twice", "clock set back", "no seq", "some without")
    ] == [0] * 5
    assert missing(loader, "whole") == (0, 200)


def test_a_counter_that_begins_anew_is_no_loss_and_a_loss_before_or_after_is(loader: psycopg.Connection) -> None:
    every_second(loader, "reboot", [*range(5000, 5100), *range(1, 101)])
    every_second(loader, "reboots", [*range(5000, 5050), *range(50), *range(150)])
    every_second(loader, "set", [*range(1, 101), *range(2_000_000, 2_000_100)])
    every_second(loader, "loses", [*range(5000, 5050), *range(5060, 5100), *range(1, 50), *range(53, 80)])
    every_second(loader, "wild", [2**63 - 1, -(2**63) + 1, 5, 6, 2**62])
    assert [missing(loader, device)[0] for device in ("reboot", "reboots", "set", "loses", "wild")] == [0, 0, 0, 13, 0]


def test_a_gap_counts_when_it_ends_within_the_window_and_no_longer_when_it_was_filled(
    loader: psycopg.Connection,
) -> None:
    every_second(loader, "before", range(1, 11), START - timedelta(hours=3))
    every_second(loader, "before", range(31, 111))
    every_second(loader, "in flight", range(1, 11), END - timedelta(seconds=10))
    every_second(loader, "in flight", range(500, 510), END)
    every_second(loader, "long ago", [1, 2, 90, 91], START - timedelta(seconds=60))
    every_second(loader, "long ago", [92, 93])
    assert missing(loader, "before") == (20, 100)
    assert missing(loader, "in flight") == (0, 10)
    assert missing(loader, "long ago") == (0, 2)
    assert missing(loader, "before", "in flight", "long ago", "unknown") == (20, 112)
    assert queries.Parts(20, 100).per_million == 200_000
    every_second(loader, "before", range(11, 31), START - timedelta(hours=2))
    assert missing(loader, "before") == (0, 80)


# What a plan may not do.


@pytest.fixture
def filled(connection: psycopg.Connection) -> psycopg.Connection:
    """Two chunks of 300 devices and 90,000 readings, as the planner knows them."""
    connection.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, object_id) "
        "SELECT 'device-' || device, %s - n * interval '9 minutes', 1000 - n, 1 "
        "FROM generate_series(1, 300) device, generate_series(1, 300) n ORDER BY n DESC",
        (NOW,),
    )
    connection.execute("ANALYZE telemetry")
    connection.execute("SET ROLE iot_loader")
    return connection


@pytest.mark.parametrize("query", [queries.CONTACTS, queries.MISSING], ids=["contacts", "missing"])
def test_no_chunk_is_read_through(filled: psycopg.Connection, query: str) -> None:
    since = look_back_to(NOW, {})  # the most that it ever looks back
    devices = [f"device-{n}" for n in range(1, 301)]
    parameters = {"now": NOW, "since": since, "start": START, "end": END, "devices": devices}
    row = filled.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", parameters).fetchone()
    assert row is not None
    scans = [node for node in nodes(row[0][0]["Plan"]) if "_chunk" in str(node.get("Relation Name"))]
    assert scans
    for scan in scans:
        assert scan["Node Type"] in {"Index Scan", "Index Only Scan"}, scan
        # A descent per device and chunk, and a reading or so from each; an index that is read through gives 90,000.
        assert scan["Actual Rows"] <= 2, scan
        assert scan["Actual Loops"] <= 301, scan
        assert scan.get("Rows Removed by Filter", 0) == 0, scan


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


def test_what_was_loaded_lately_is_found_by_index(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO ingest.objects (bucket, key, status, loaded_at) "
        "SELECT 'raw', n::text, 'loaded', %s - n * interval '1 minute' FROM generate_series(1, 20000) n",
        (NOW,),
    )
    loaded(connection, "new", NOW - MINUTE, readings=50, quarantined=1)
    loaded(connection, "newer", NOW, readings=150, quarantined=3)
    connection.execute("ANALYZE ingest.objects")
    found = queries.quarantined(connection, NOW - 15 * MINUTE)
    assert (found.part, found.whole, found.per_million) == (4, 200, 20_000)
    row = connection.execute(
        "EXPLAIN (FORMAT JSON) SELECT sum(readings) FROM ingest.objects WHERE loaded_at >= %s", (NOW - 15 * MINUTE,)
    ).fetchone()
    assert row is not None
    assert "objects_loaded_at_idx" in json.dumps(row)


# The server.


def test_connections_are_those_of_clients_among_those_that_clients_may_have(
    loader: psycopg.Connection, connection: psycopg.Connection, database_dsn: str
) -> None:
    def settings(name: str) -> int:
        row = connection.execute("SELECT coalesce(current_setting(%s, true)::integer, 0)", (name,)).fetchone()
        assert row is not None
        return int(row[0])

    allowed = settings("max_connections") - settings("superuser_reserved_connections")
    allowed -= settings("reserved_connections")  # from PostgreSQL 16 on
    before = queries.server(loader).connections_percent
    with psycopg.connect(database_dsn), psycopg.connect(database_dsn):
        assert queries.server(loader).connections_percent == pytest.approx(before + 200 / allowed, abs=0.01)
    assert queries.server(loader).bytes > 1_000_000


def test_the_functions_are_for_the_loader_only_and_no_way_to_more(database_dsn: str) -> None:
    with psycopg.connect(database_dsn, autocommit=True) as connection:
        public = connection.execute(
            "SELECT proname, array_agg(acl.grantee::regrole::text ORDER BY acl.grantee::regrole::text), proconfig FROM pg_proc, "
            "aclexplode(proacl) acl WHERE prosecdef AND pronamespace = 'ingest'::regnamespace AND acl.grantee <> proowner "
            "GROUP BY proname, proconfig ORDER BY proname"
        ).fetchall()
        path, wider = ["search_path=pg_catalog, pg_temp"], ["search_path=public, pg_temp"]
        assert public == [
            ("balance_next", ["iot_loader"], wider),
            ("client_connections", ["iot_loader", "iot_reader"], path),
            ("drop_expired_balance", ["iot_loader"], wider),
            ("quarantined_numbers", ["iot_reader"], path),
            ("refresh_latest", ["iot_loader"], path),
            ("unarchived_wal_seconds", ["iot_loader", "iot_reader"], path),
        ]
        connection.execute("SET ROLE iot_loader")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT pg_ls_archive_statusdir()")


def test_the_oldest_wal_that_waits_to_be_archived_has_an_age(timescaledb_dist: Path) -> None:
    with own_server(timescaledb_dist) as root:
        with psycopg.connect(timescaledb.provide("auto", root).dsn, autocommit=True) as connection:
            migrate(connection, read_migrations())
            assert queries.server(connection).unarchived_wal_seconds is None
            connection.execute("ALTER SYSTEM SET archive_mode = on")
            connection.execute("ALTER SYSTEM SET archive_command = '/bin/false'")
        timescaledb.stop(root)
        with (
            psycopg.connect(timescaledb.provide("auto", root).dsn, autocommit=True) as admin,
            psycopg.connect(timescaledb.provide("auto", root).dsn, autocommit=True) as loader,
        ):
            loader.execute("SET ROLE iot_loader")
            assert queries.server(loader).unarchived_wal_seconds == 0
            admin.execute("SELECT pg_logical_emit_message(true, 'x', 'y'), pg_switch_wal()")
            first = queries.server(loader).unarchived_wal_seconds
            time.sleep(1.1)
            second = queries.server(loader).unarchived_wal_seconds
            assert first is not None
            assert second is not None
            assert first > 0
            assert second >= first + 1
            admin.execute("ALTER SYSTEM SET archive_command = '/bin/true'")
            admin.execute("SELECT pg_reload_conf()")
            wait_until(lambda: queries.server(loader).unarchived_wal_seconds == 0, "the archive's catching up", 90)


# What the loader counts for the alarm on plausible values.


def test_the_loader_counts_readings_with_a_value_out_of_range_once_each(connection: psycopg.Connection) -> None:
    readings: list[dict[str, Any]] = [
        {"temperature": 20},
        {"temperature": 500, "humidity": 101},
        {"battery": -1, "note": "slow way"},
        {"temperature": "hot"},
        {"ts": 1, "pressure": 5000},
    ]
    lines = [
        json.dumps(
            {
                "ts": int(NOW.timestamp() * 1000),
                "seq": seq,
                **members,
                "device_id": "d",
                "received_at": 1,
                "stamp": STAMP,
            }
        )
        for seq, members in enumerate(readings)
    ]
    limits = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
    body = gzip.compress("\n".join(lines).encode())
    for key, duplicates in (("first", 0), ("all known already", 4)):
        outcome = load_object(connection, ObjectVersion("raw", key, "", None), lambda: io.BytesIO(body), limits)
        assert (outcome.rows + outcome.duplicates, outcome.duplicates, outcome.quarantined) == (4, duplicates, 1)
        assert outcome.out_of_range == 2


# The handler.


class Context:
    """Lambda's, with as much time as it is given."""

    aws_request_id = "test"

    def __init__(self, seconds: float = 50) -> None:
        self._seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return round(self._seconds * 1000)


@pytest.fixture
def deployed(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handler's environment, with Secrets Manager played by moto."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "OFFLINE_AFTER_MINUTES": "10",
        "RETENTION_DAYS": "30",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(handlers.metrics.provider, "service", "iot-telemetry-watch")
    with mock_aws():
        point_to(database_dsn, monkeypatch)
        yield
    handlers._database.discard()


def point_to(dsn: str, monkeypatch: pytest.MonkeyPatch, **changed: object) -> None:
    """Puts the database's address into a secret of the handler's."""
    secret = msgspec.structs.replace(parse_dsn(dsn), **changed)
    arn = boto3.client("secretsmanager").create_secret(
        Name=f"watch-{time.monotonic_ns()}", SecretString=msgspec.json.encode(secret).decode()
    )["ARN"]
    monkeypatch.setenv("DATABASE_SECRET_ARN", arn)
    handlers._database.discard()


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """The metrics of the one document that was written."""
    [document] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    [directive] = document["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("Fleetledger", [["service"]])
    assert document["service"] == "iot-telemetry-watch"
    found = {}
    for metric in directive["Metrics"]:
        [found[metric["Name"]]] = document[metric["Name"]]
    return found


def test_everything_is_measured(
    deployed: None, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    object_id = loaded(connection, "k", now - timedelta(seconds=2), readings=1000, quarantined=1)
    start = now - queries.IN_FLIGHT - 2 * MINUTE
    every_second(connection, "lossy", [*range(1, 51), *range(52, 101)], start)
    reading(
        connection,
        "lossy",
        now - timedelta(seconds=8),
        700,
        received_at=now - timedelta(seconds=7),
        object_id=object_id,
    )
    reading(connection, "late", now - 11 * MINUTE, received_at=now - 11 * MINUTE)
    reading(connection, "gone", now - 90 * MINUTE, received_at=now - 90 * MINUTE)
    queries.remember(connection, [Contact("long gone", now - timedelta(days=9), None)], now - timedelta(days=30))
    for _ in range(2):
        handlers.handler({}, Context())
        found = emitted(capsys)
        assert found.pop("LatencySeconds") == pytest.approx(5, abs=0.01)
        assert 0 < found.pop("DatabaseConnectionsPercent") < 100
        assert found.pop("DatabaseBytes") > 1_000_000
        found.pop("UnarchivedWalSeconds", None)  # as the server is
        assert found == {
            "DatabaseReachable": 1,
            "DevicesKnown": 4,
            "DevicesOffline": 3,
            "DevicesOfflinePercent": 75,
            "DevicesOfflineOverAnHour": 2,
            "MissingPartsPerMillion": 10_000,
            "QuarantinedPartsPerMillion": 1000,
            "AnomaliesOpen": 3,
            "AnomaliesOpenCritical": 0,
            "AnomaliesOpenWarning": 3,
            "AnomaliesOpenInfo": 0,
            "AnomaliesDetected": 3,
            "AnomaliesCritical": 0,
        }
    assert set(queries.remembered(connection)) == {"lossy", "late", "gone", "long gone"}


def test_a_device_that_was_retired_is_not_counted_until_it_sends_again(
    deployed: None, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while its last readings are looked at, from which it would be found again had its row been deleted."""

    def counted() -> tuple[float, float]:
        handlers.handler({}, Context())
        found = emitted(capsys)
        return found["DevicesKnown"], found["DevicesOfflineOverAnHour"]

    now = datetime.now(UTC)
    for device in ("gone", "kept"):
        reading(connection, device, now - 90 * MINUTE, received_at=now - 90 * MINUTE)
    assert counted() == (2, 2)
    connection.execute("UPDATE ingest.devices_seen SET retired_at = now() WHERE device_id IN ('gone')")
    assert [counted(), counted()] == [(1, 1), (1, 1)]
    connection.execute("UPDATE ingest.devices_seen SET retired_at = %s", (now - 80 * MINUTE,))
    reading(connection, "gone", now - 70 * MINUTE, received_at=now - 70 * MINUTE)
    assert counted() == (1, 1), "it came back, and is silent again"


def test_a_device_that_the_registry_says_is_out_of_service_is_not_counted(
    deployed: None, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    for device in ("off", "gone"):
        reading(connection, device, now - 90 * MINUTE, received_at=now - 90 * MINUTE)
    connection.execute(
        "INSERT INTO devices (device_id, name, active) VALUES ('off', 'off', false), ('gone', 'gone', true)"
    )
    handlers.handler({}, Context())
    found = emitted(capsys)
    assert (found["DevicesKnown"], found["DevicesOfflineOverAnHour"], found["AnomaliesOpen"]) == (1, 1, 1)


def test_of_an_empty_database_nothing_is_offline_or_missing(deployed: None, capsys: pytest.CaptureFixture[str]) -> None:
    handlers.handler({}, Context())
    found = emitted(capsys)
    assert "LatencySeconds" not in found, "nothing arrived, so nothing took any time"
    names = ("DatabaseReachable", "DevicesKnown", "DevicesOfflinePercent", "MissingPartsPerMillion")
    assert [found[name] for name in names] == [1, 0, 0, 0]


def test_a_database_that_refuses_does_not_answer_and_is_found_again(
    deployed: None, database_dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        for changed in (
            {"port": nobody_listens.getsockname()[1]},
            {"password": "another"},
            {"dbname": "no_such_database"},
        ):
            point_to(database_dsn, monkeypatch, **changed)
            handlers.handler({}, Context())
            assert emitted(capsys) == {"DatabaseReachable": 0}, changed
    monkeypatch.setenv("DATABASE_SECRET_ARN", "arn:aws:secretsmanager:us-east-1:123456789012:secret:gone")
    handlers.handler({}, Context())
    assert emitted(capsys) == {"DatabaseReachable": 0}
    point_to(database_dsn, monkeypatch)
    handlers.handler({}, Context())
    assert emitted(capsys)["DatabaseReachable"] == 1


def test_a_database_that_stalls_or_hangs_up_does_not_answer(
    deployed: None, database_dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = parse_dsn(database_dsn)
    with TcpProxy(address.host, address.port) as proxy:
        point_to(database_dsn, monkeypatch, port=proxy.port)
        handlers.handler({}, Context())
        assert emitted(capsys)["DatabaseReachable"] == 1
        for fault in (proxy.stall, proxy.refuse):
            fault()
            started = time.monotonic()
            handlers.handler({}, Context(8))
            assert emitted(capsys) == {"DatabaseReachable": 0}
            assert time.monotonic() - started < 6, "its time is limited"
            proxy.forward()
        handlers.handler({}, Context())
        assert emitted(capsys)["DatabaseReachable"] == 1


def test_what_was_measured_before_the_connection_broke_is_not_written(
    deployed: None, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(its: psycopg.Connection) -> dict[str, datetime]:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (its.info.backend_pid,))
        return dict(its.execute("SELECT device_id, last_seen FROM ingest.devices_seen").fetchall())

    with monkeypatch.context() as broken:
        broken.setattr(queries, "remembered", break_off)
        handlers.handler({}, Context())
        assert emitted(capsys) == {"DatabaseReachable": 0}
    handlers.handler({}, Context())
    assert emitted(capsys)["DatabaseReachable"] == 1


def test_a_database_that_was_reached_and_then_failed_is_not_counted_as_unreachable(deployed: None) -> None:
    batch = Batch({"Records": []}, Context(), handlers._database, "no queue")
    with pytest.raises(psycopg.errors.AdminShutdown), batch.connection() as opened:
        opened.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert batch.unreachable == 0


def test_a_database_that_answers_with_an_error_is_there_and_the_function_fails(
    deployed: None, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    connection.execute("ALTER TABLE ingest.devices_seen RENAME TO elsewhere")
    with pytest.raises(psycopg.errors.UndefinedTable):
        handlers.handler({}, Context())
    found = emitted(capsys)
    assert found["DatabaseReachable"] == 1
    assert "DatabaseConnectionsPercent" in found
    assert "DevicesKnown" not in found
