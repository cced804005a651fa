"""`fleet rebuild`: a database filled from S3 alone equals the original, and when it does not, the command says so."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from local.state import Emulator
from ops.replay.rebuild import clock, compare
from tests.databases import copied_database
from tests.functional.replay_environment import (
    BUCKET,
    HOUR,
    MS,
    NOW,
    TABLE,
    Environment,
    claim_elsewhere,
    ctrl_c,
    environment,
    everything,
    ledger,
    message,
    packed,
    quarantine,
    reading,
    rows,
    waiting_for_a_lock,
)
from tests.stamping import STAMP, STAMPS
from tests.waiting import wait_for

DAY_MS = 86_400_000
TODAY, YESTERDAY = (NOW.date() - timedelta(days=days) for days in (1, 2))  # MS lies a day back


@pytest.fixture
def fleet(local_emulator: Emulator, tmp_path: Path, database_dsn: str) -> Iterator[Environment]:
    """An environment whose own database is the original."""
    with environment(local_emulator, tmp_path, database_dsn) as made:
        yield made


@pytest.fixture
def target_dsn(server_dsn: str, template_database: str, tmp_path: Path) -> Iterator[str]:
    with copied_database(server_dsn, template_database, f"{template_database}_{tmp_path.name[-20:]}") as dsn:
        yield dsn


@pytest.fixture
def target(target_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(target_dsn, autocommit=True) as opened:
        yield opened


def put_history(fleet: Environment) -> None:
    """Two days of readings, with all that can be in objects; loaded by the original in no particular order."""
    for number in range(6):
        first = number * 30
        fleet.put(
            f"{number}.gz",
            message("device-00001", *[reading(n) for n in range(first, first + 40)]),
            message("device-00002", *[reading(n, ts=MS - DAY_MS + n) for n in range(first, first + 5)]),
            b"broken",
            message("device-00003", reading(number, temperature="hot", firmware="1.2"), {"seq": 9}),
        )
    fleet.put("again.gz", *[message("device-00001", *[reading(n) for n in range(200)], received_at=MS + 9000)] * 2)
    fleet.put("overwritten.gz", message("device-00004", reading(1)))
    fleet.put("overwritten.gz", message("device-00004", reading(2)))
    fleet.put_bytes("truncated.gz", packed(*[message(f"device-{n:05}", reading(n)) for n in range(500)])[:700])
    fleet.put_bytes("empty", b"")
    done = fleet.fleet("replay", "--from", "-2h", "--all-versions", "--parallel", "3")
    assert done.returncode == 0, done.stdout + done.stderr


def rebuild(fleet: Environment, target_dsn: str, *arguments: str) -> tuple[int, str]:
    done = fleet.fleet("rebuild", *arguments, FLEET_REBUILD_TO=target_dsn)
    return done.returncode, done.stdout + done.stderr


def test_a_rebuilt_database_equals_the_original(
    fleet: Environment, connection: psycopg.Connection, target_dsn: str, target: psycopg.Connection
) -> None:
    put_history(fleet)
    original = everything(connection)
    status, output = rebuild(fleet, target_dsn, "--parallel", "2")
    assert status == 0, output
    assert "Equal to the original" in output
    assert "readings/s" in output
    for day in (TODAY, YESTERDAY):
        [line] = [line for line in output.splitlines() if str(day) in line]
        assert line.split()[-1] == "equal"
        assert line.split()[1:3] == line.split()[3:5]
    assert rows(target, TABLE) == rows(connection, TABLE)
    assert [row[1:6] for row in quarantine(target)] == [row[1:6] for row in quarantine(connection)]
    assert [(*row[:2], *row[3:6], row[8]) for row in ledger(target)] == [
        (*row[:2], *row[3:6], row[8]) for row in ledger(connection)
    ]
    assert sum(row[7] for row in ledger(target)) == sum(row[7] for row in ledger(connection)) > 200
    assert everything(connection) == original
    status, output = rebuild(fleet, target_dsn)
    assert status == 2
    assert "is not empty" in output


def test_a_rebuild_after_a_change_of_stamp_loads_what_was_before_it(
    fleet: Environment, target_dsn: str, target: psycopg.Connection
) -> None:
    changed = "theStampAfterTheChange0123456789"
    lines = [message("device-00001", reading(n)) for n in range(2)]
    fleet.put("before.gz", lines[0])
    fleet.put("after.gz", lines[1].replace(STAMP.encode(), changed.encode()))
    secrets = fleet.aws.client("secretsmanager")
    secrets.put_secret_value(SecretId="iot-telemetry/stamp", SecretString="{}")
    status, output = rebuild(fleet, target_dsn)
    assert status == 2
    [error] = [line for line in output.splitlines() if "stamp" in line]
    assert error.startswith("fleet: stamp secret iot-telemetry/stamp cannot be used: Object missing required field")
    for earlier, found in (([], [1]), ([STAMP], [0, 1])):
        text = json.dumps({"stamp": changed, "earlier": earlier})
        secrets.put_secret_value(SecretId="iot-telemetry/stamp", SecretString=text)
        target.execute("TRUNCATE telemetry, ingest.objects, ingest.quarantine CASCADE")
        status, output = rebuild(fleet, target_dsn)
        assert rows(target, "seq") == [(seq,) for seq in found]
        assert len(quarantine(target)) == 2 - len(found)
        assert STAMP not in output + str(quarantine(target))
        assert changed not in output + str(quarantine(target))


def test_days_that_differ_are_named(
    fleet: Environment, connection: psycopg.Connection, target_dsn: str, target: psycopg.Connection
) -> None:
    put_history(fleet)
    connection.execute(
        "UPDATE telemetry SET temperature = temperature + 1 WHERE device_id = 'device-00002' AND seq = 3"
    )
    status, output = rebuild(fleet, target_dsn)
    assert status == 1, output
    verdicts = [line for line in output.splitlines() if str(YESTERDAY) in line or str(TODAY) in line]
    assert [line.split()[-1] for line in verdicts] == ["values", "equal"]


def test_a_lost_row_and_an_object_that_the_original_never_loaded_are_differences(
    fleet: Environment, connection: psycopg.Connection, target_dsn: str
) -> None:
    put_history(fleet)
    connection.execute("DELETE FROM telemetry WHERE device_id = 'device-00001' AND seq = 3")
    fleet.put("lost.gz", message("device-00009", reading(1, ts=MS - DAY_MS)))
    status, output = rebuild(fleet, target_dsn)
    assert status == 1
    assert output.count("other readings") == 2
    assert "1 objects in S3 were never loaded by the original" in output


def test_what_the_original_gained_meanwhile_is_left_out(
    connection: psycopg.Connection, target: psycopg.Connection
) -> None:
    limits = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)

    def load(database: psycopg.Connection, key: str, seq: int) -> None:
        body = packed(message("device-00001", reading(seq)))
        load_object(database, ObjectVersion(BUCKET, key, "v1", 1), lambda: _body(body), limits)

    load(connection, "year=1", 1)
    load(target, "year=1", 1)
    load(connection, "year=gone", 2)
    listed_at = clock(connection)
    load(connection, "year=new", 3)
    compared = compare(target, connection, bucket=BUCKET, listed_at=listed_at, retention_days=30)
    assert (compared.arrived_meanwhile, compared.only_theirs, compared.only_ours) == (1, 1, 0)
    [difference] = compared.differences
    assert difference.day == datetime.fromtimestamp(MS / 1000, UTC).date()
    assert difference.ours is not None
    assert difference.theirs is not None
    assert (difference.ours.rows, difference.theirs.rows, difference.same_keys) == (1, 2, False)


def test_the_order_of_loading_makes_no_difference(connection: psycopg.Connection, target: psycopg.Connection) -> None:
    """A redelivered reading has another received_at, and either object may own it; the rule leaves both out."""
    limits = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
    lines = {n: [message("device-00001", *[reading(s) for s in range(n, n + 9)], received_at=MS + n)] for n in range(3)}
    for database, order in ((connection, (0, 1, 2)), (target, (2, 1, 0))):
        for n in order:
            body = packed(*lines[n])
            load_object(database, ObjectVersion(BUCKET, f"year={n}", "v1", 1), lambda body=body: _body(body), limits)  # type: ignore[misc]
    assert rows(connection, "received_at") != rows(target, "received_at")
    compared = compare(target, connection, bucket=BUCKET, listed_at=NOW, retention_days=30)
    assert not compared.differences
    assert [day.rows for day in compared.ours.values()] == [11]


def _body(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)


def test_a_rebuild_that_is_interrupted_goes_on(
    fleet: Environment, connection: psycopg.Connection, target_dsn: str, target: psycopg.Connection
) -> None:
    put_history(fleet)
    version_id = fleet.s3.head_object(Bucket=BUCKET, Key=HOUR + "3.gz")["VersionId"]
    with psycopg.connect(target_dsn, autocommit=True) as other:
        claim_elsewhere(other, HOUR + "3.gz", version_id)
        process = fleet.start("rebuild", "--parallel", "1", FLEET_REBUILD_TO=target_dsn)
        wait_for(lambda: waiting_for_a_lock(target), "a worker that waits")
        ctrl_c(process)
        assert process.stdout is not None
        while "Stopping" not in process.stdout.readline():
            pass
        other.execute("ROLLBACK")
    assert process.wait(60) == 130
    process.communicate()
    loaded = len(ledger(target))
    assert 0 < loaded < len(ledger(connection))
    status, output = rebuild(fleet, target_dsn)
    assert status == 0, output
    assert "Going on with" in output
    assert f"{11 - loaded} of {11 - loaded} objects" in output
    assert rows(target, TABLE) == rows(connection, TABLE)
    assert target.execute("SELECT to_regclass('ingest.rebuild')").fetchone() == (None,)


def test_the_environments_own_database_is_filled_when_it_is_empty(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    fleet.put("a.gz", message("device-00001", reading(1)))
    done = fleet.fleet("rebuild")
    assert done.returncode == 0, done.stderr
    assert "Not compared with an original" in done.stdout
    assert rows(connection, "device_id, seq") == [("device-00001", 1)]


def test_an_original_that_is_away_is_no_obstacle_unless_it_was_named(fleet: Environment, target_dsn: str) -> None:
    fleet.put("a.gz", message("device-00001", reading(1)))
    away = "postgresql://nobody:none@127.0.0.1:1/none"
    status, output = rebuild(fleet, target_dsn, "--compare-with", away)
    assert status == 2
    assert "cannot connect to the database none at 127.0.0.1:1" in output
    fleet.aws.client("secretsmanager").put_secret_value(
        SecretId="iot-database/admin",
        SecretString='{"host": "127.0.0.1", "port": 1, "username": "nobody", "password": "none"}',
    )
    status, output = rebuild(fleet, target_dsn)
    assert status == 0, output
    assert "nothing to compare with" in output
