"""`fleet replay` as a user runs it: real S3 and a real TimescaleDB."""

import io
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from local.state import Emulator
from ops.replay.replacement import replace_object
from ops.replay.source import UnavailableError
from tests.functional.replay_environment import (
    BUCKET,
    HOUR,
    MS,
    NOW,
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

LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
EARLIER = NOW - timedelta(hours=5)
EARLIER_HOUR = f"year={EARLIER:%Y}/month={EARLIER:%m}/day={EARLIER:%d}/hour={EARLIER:%H}/"


@pytest.fixture
def fleet(local_emulator: Emulator, tmp_path: Path, database_dsn: str) -> Iterator[Environment]:
    with environment(local_emulator, tmp_path, database_dsn) as made:
        yield made


def put_mix(fleet: Environment) -> None:
    """Three objects: two share readings (one of them within itself, too), two have lines that are no readings."""
    fleet.put("a.gz", message("device-00001", *[reading(n) for n in range(50)]), b"broken", b'{"seq": 1}')
    again = message("device-00001", *[reading(n) for n in range(40, 60)], received_at=MS + 7000)
    fleet.put("b.gz", again, again, message("device-00002", reading(1, firmware="1.2")))
    fleet.put("c.gz", message("device-00003", reading(1, temperature="hot"), {"seq": 9}), hour=EARLIER_HOUR)


def test_a_dry_run_says_what_there_is_to_do_and_does_nothing(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    put_mix(fleet)
    done = fleet.fleet("replay", "--from", "-6h", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "to load                3 objects" in done.stdout
    assert "by the lines of one object" in done.stdout
    assert "minute" in done.stdout
    assert everything(connection) == ([], [], [])


def test_it_loads_what_the_ledger_lacks_and_over_loaded_objects_changes_nothing(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    put_mix(fleet)
    assert fleet.fleet("replay", "--from", "-2h").returncode == 0
    assert [row[0] for row in ledger(connection)] == [HOUR + "a.gz", HOUR + "b.gz"]
    done = fleet.fleet("replay", "--from", "-6h", "--parallel", "1")
    assert "1 of 1 objects" in done.stdout
    assert len(rows(connection)) == 50 + 10 + 1 + 1
    before = everything(connection)
    again = fleet.fleet("replay", "--from", "-6h")
    assert again.returncode == 0
    assert "to load                0 objects" in again.stdout
    assert everything(connection) == before


def test_force_over_sound_objects_changes_nothing_and_says_so(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    put_mix(fleet)
    fleet.fleet("replay", "--from", "-6h", "--parallel", "1")
    before = everything(connection)
    done = fleet.fleet("replay", "--from", "-6h", "--force")
    assert done.returncode == 0, done.stderr
    assert "Nothing changed" in done.stdout
    assert everything(connection) == before


def test_force_restores_what_was_deleted_or_altered_and_reports_it(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    put_mix(fleet)
    fleet.fleet("replay", "--from", "-6h", "--parallel", "1")
    before = everything(connection)
    ids = {row[0].rpartition("/")[2]: row[2] for row in ledger(connection)}
    connection.execute("DELETE FROM telemetry WHERE object_id = %s AND seq < 10", (ids["a.gz"],))
    connection.execute("UPDATE telemetry SET temperature = 0 WHERE object_id = %s AND seq = 55", (ids["b.gz"],))
    connection.execute("DELETE FROM ingest.quarantine WHERE object_id = %s", (ids["c.gz"],))
    done = fleet.fleet("replay", "--from", "-6h", "--force")
    assert done.returncode == 0, done.stderr
    assert "Changed: 3 of 3 objects" in done.stdout
    report = {line.split()[0].rpartition("/")[2]: line for line in done.stdout.splitlines() if " year=" in line}
    assert "40 -> 50" in report["a.gz"]
    assert "values" in report["b.gz"]
    assert "->" not in report["b.gz"]
    assert "0 -> 1" in report["c.gz"]
    assert everything(connection) == before


@pytest.mark.parametrize("hour", [HOUR, EARLIER_HOUR])
def test_forcing_one_of_two_objects_that_share_readings_leaves_each_reading_where_it_was(
    fleet: Environment, connection: psycopg.Connection, hour: str
) -> None:
    """Whether the one whose rows they are is loaded again, or the one in which they are duplicates."""
    shared = [reading(n) for n in range(20)]
    fleet.put("first.gz", message("device-00001", *shared), hour=EARLIER_HOUR)
    fleet.put("second.gz", message("device-00001", *shared, reading(99)), hour=HOUR)
    assert fleet.fleet("replay", "--from", "-6h", "--parallel", "1").returncode == 0
    before = everything(connection)
    assert [row[6:8] for row in ledger(connection)] in ([(20, 0), (1, 20)], [(1, 20), (20, 0)])
    at = EARLIER if hour == EARLIER_HOUR else NOW
    span = ("--from", f"{at:%Y-%m-%dT%H:00Z}", "--to", f"{at:%Y-%m-%dT%H:59Z}")
    done = fleet.fleet("replay", *span, "--force")
    assert "1 of 1 objects" in done.stdout
    assert "Nothing changed" in done.stdout
    assert everything(connection) == before


def test_objects_that_hold_readings_of_each_other_can_be_forced_in_parallel(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    for number in range(6):
        lines = [message("device-00001", reading((number * 7 + n * 5) % 40)) for n in range(25)]
        fleet.put(f"{number}.gz", *lines)
    assert fleet.fleet("replay", "--from", "-1h").returncode == 0
    keys = rows(connection, "device_id, timestamp, seq")
    done = fleet.fleet("replay", "--from", "-1h", "--force", "--parallel", "4")
    assert done.returncode == 0, done.stdout
    assert rows(connection, "device_id, timestamp, seq") == keys
    for _, _, object_id, _, _, readings, stored, duplicates, *_ in ledger(connection):
        assert readings == 25 == stored + duplicates
        assert sum(row[-1] == object_id for row in rows(connection)) == stored


def test_ctrl_c_finishes_what_is_under_way_and_the_next_run_goes_on(
    fleet: Environment, connection: psycopg.Connection, database_dsn: str
) -> None:
    for number in range(8):
        fleet.put(f"{number}.gz", message("device-00001", *[reading(number * 100 + n) for n in range(100)]))
    version_id = fleet.s3.head_object(Bucket=BUCKET, Key=HOUR + "3.gz")["VersionId"]
    with psycopg.connect(database_dsn, autocommit=True) as other:
        claim_elsewhere(other, HOUR + "3.gz", version_id)
        process = fleet.start("replay", "--from", "-1h", "--parallel", "1")
        wait_for(lambda: waiting_for_a_lock(connection), "a worker that waits")
        ctrl_c(process)
        assert process.stdout is not None
        seen = ""
        while "Stopping" not in seen:
            seen += process.stdout.read(1)
        other.execute("ROLLBACK")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, output + errors
    assert "Interrupted: 4 of 8 objects" in output
    assert [row[6] for row in ledger(connection)] == [100] * 4
    assert len(rows(connection)) == 400
    done = fleet.fleet("replay", "--from", "-1h", "--parallel", "1")
    assert "4 of 4 objects" in done.stdout
    assert len(rows(connection)) == 800


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)])
def test_a_second_ctrl_c_or_a_kill_rolls_back_what_is_under_way(
    fleet: Environment, connection: psycopg.Connection, database_dsn: str, signals: tuple[signal.Signals, ...]
) -> None:
    for number in range(4):
        fleet.put(f"{number}.gz", message("device-00001", *[reading(number * 100 + n) for n in range(100)]))
    version_id = fleet.s3.head_object(Bucket=BUCKET, Key=HOUR + "2.gz")["VersionId"]
    with psycopg.connect(database_dsn, autocommit=True) as other:
        claim_elsewhere(other, HOUR + "2.gz", version_id)
        process = fleet.start("replay", "--from", "-1h", "--parallel", "1")
        wait_for(lambda: waiting_for_a_lock(connection), "a worker that waits")
        assert process.stdout is not None
        for number, what in enumerate(signals):
            ctrl_c(process) if what == signal.SIGINT else process.send_signal(what)
            while number == 0 and what == signal.SIGINT and "Stopping" not in process.stdout.readline():
                pass
        assert process.wait(60) == (130 if signal.SIGINT in signals else -signal.SIGKILL)
        assert len(ledger(connection)) == 2
        other.execute("ROLLBACK")
    process.communicate(timeout=60)
    wait_for(lambda: not workers(connection), "the end of the workers")
    # A worker whose parent was killed finishes its object; one that was ended has left nothing of it.
    assert [row[6] for row in ledger(connection)] == [100] * (2 if signal.SIGINT in signals else 3)
    assert len(rows(connection)) == 100 * len(ledger(connection))
    assert fleet.fleet("replay", "--from", "-1h").returncode == 0
    assert [row[6] for row in ledger(connection)] == [100] * 4
    assert len(rows(connection)) == 400


def workers(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'fleet %'"
    ).fetchone()
    assert row
    return int(row[0])


def test_with_a_device_only_objects_that_hold_it_are_touched(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    fleet.put("one.gz", message("device-00001", reading(1)), message("device-00002", reading(1)))
    fleet.put("two.gz", message("device-00002", reading(2, note="device-00001")))
    fleet.put("three.gz", b'{"ts": %d, "seq": 3, "device_id": "device-00001", "stamp": "%s"}' % (MS, STAMP.encode()))
    done = fleet.fleet("replay", "--from", "-1h", "--device", "device-00001")
    assert done.returncode == 0, done.stderr
    assert "looking into 3" in done.stdout
    assert [row[0] for row in ledger(connection)] == [HOUR + "one.gz", HOUR + "three.gz"]
    fleet.fleet("replay", "--from", "-1h")
    before = everything(connection)
    # The table knows nothing of an object whose rows are gone: it is found by looking into it.
    connection.execute("DELETE FROM telemetry WHERE device_id = 'device-00001' AND seq = 3")
    done = fleet.fleet("replay", "--from", "-1h", "--device", "device-00001", "--force")
    assert "2 of 2 objects" in done.stdout
    assert "1 by what the table has of it, the others found by looking into 2" in done.stdout
    assert "Changed: 1 of 2 objects" in done.stdout
    assert everything(connection) == before


def test_the_latest_version_of_a_key_unless_all_are_asked_for(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    fleet.put("same.gz", message("device-00001", reading(1)))
    fleet.put("same.gz", message("device-00001", reading(2)))
    fleet.put("deleted.gz", message("device-00001", reading(3)))
    fleet.s3.delete_object(Bucket=BUCKET, Key=HOUR + "deleted.gz")
    fleet.fleet("replay", "--from", "-1h")
    assert rows(connection, "seq") == [(2,)]
    fleet.fleet("replay", "--from", "-1h", "--all-versions")
    assert rows(connection, "seq") == [(1,), (2,)]


def test_a_broken_object_is_rejected_and_a_forced_replay_tries_it_again(
    fleet: Environment, connection: psycopg.Connection
) -> None:
    fleet.put_bytes("broken.gz", packed(*[message(f"device-{n:05}", reading(n)) for n in range(500)])[:800])
    done = fleet.fleet("replay", "--from", "-1h")
    assert "1 rejected" in done.stdout
    assert [row[3:5] for row in ledger(connection)] == [("rejected", "gzip_truncated")]
    assert "Nothing changed" in fleet.fleet("replay", "--from", "-1h", "--force").stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--from", "yesterday"), "--from yesterday: not a time"),
        (("--from", "-1h", "--to", "-2h"), "is not before --to -2h"),
        (("--from", "-1h", "--env", "prdo"), "unknown environment 'prdo'"),
    ],
)
def test_bad_input_is_one_line(fleet: Environment, arguments: tuple[str, ...], line: str) -> None:
    done = fleet.fleet("replay", *arguments)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_database_that_is_away_is_one_line(fleet: Environment) -> None:
    secrets = fleet.aws.client("secretsmanager")
    secrets.put_secret_value(
        SecretId="iot-database/admin",
        SecretString='{"host": "127.0.0.1", "port": 1, "username": "nobody", "password": "none"}',
    )
    done = fleet.fleet("replay", "--from", "-1h")
    assert done.returncode == 2
    assert "cannot connect to the database at 127.0.0.1:1" in done.stderr


VERSION = ObjectVersion("bucket", "year=2026/a.gz", "v1", 1)


def test_a_loaded_object_that_can_no_longer_be_read_keeps_its_rows(connection: psycopg.Connection) -> None:
    body = packed(*[message(f"device-{n:05}", reading(n)) for n in range(300)])
    load_object(connection, VERSION, lambda: io.BytesIO(body), LIMITS)
    before = everything(connection)
    with pytest.raises(UnavailableError, match="gzip_truncated, though it was loaded once"):
        replace_object(connection, VERSION, lambda: io.BytesIO(body[:200]), LIMITS)
    assert everything(connection) == before


def test_what_an_operator_decided_about_quarantined_lines_is_kept(connection: psycopg.Connection) -> None:
    old = message("device-00001", reading(1), {"ts": MS - 86_400_000 * 10, "seq": 2})
    body = packed(old, b"broken")
    strict = Limits.around(NOW, retention_days=2, max_future_seconds=3600, stamps=STAMPS)
    load_object(connection, VERSION, lambda: io.BytesIO(body), strict)
    connection.execute(
        "UPDATE ingest.quarantine SET resolution = 'discarded', resolved_at = now(), resolved_by = 'me', note = 'seen'"
    )
    unchanged = replace_object(connection, VERSION, lambda: io.BytesIO(body), strict)
    assert not unchanged.changed
    assert [row[-2:] for row in quarantine(connection)] == [("discarded", "seen")] * 2
    # With other rules one of the lines is a reading: it counts as redriven, and the other stays given up.
    replaced = replace_object(connection, VERSION, lambda: io.BytesIO(body), LIMITS)
    assert replaced.before is not None
    assert (replaced.before.rows, replaced.after.rows) == (1, 2)
    assert (replaced.before.quarantined, replaced.after.quarantined) == (2, 1)
    assert [(row[1], row[-2]) for row in quarantine(connection)] == [(1, "redriven"), (2, "discarded")]
    assert replace_object(connection, VERSION, lambda: io.BytesIO(body), LIMITS).changed is False


def test_rows_that_the_object_no_longer_yields_are_removed(connection: psycopg.Connection) -> None:
    body = packed(message("device-00001", reading(1), reading(2, ts=MS - 86_400_000 * 10)))
    load_object(connection, VERSION, lambda: io.BytesIO(body), LIMITS)
    strict = Limits.around(NOW, retention_days=2, max_future_seconds=3600, stamps=STAMPS)
    replaced = replace_object(connection, VERSION, lambda: io.BytesIO(body), strict)
    assert replaced.before is not None
    assert (replaced.before.rows, replaced.after.rows, replaced.after.quarantined) == (2, 1, 1)
    assert rows(connection, "seq") == [(1,)]
    assert [row[6:9] for row in ledger(connection)] == [(1, 0, 1)]
