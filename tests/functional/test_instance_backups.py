"""Backups of the self-hosted database are proven by restoring them: to a time, after a loss, and in a drill."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from lambdas.migrator.migrate import migrate, read_migrations
from local.session import AwsSession
from local.state import Emulator
from tests.functional.conftest import wait_until
from tests.functional.instance_sandbox import (
    PGBACKREST_FOLDER,
    SERVICE,
    Instance,
    install_pgbackrest,
    make_secrets,
    metadata_service,
    sandbox,
    secret,
)

_DATABASE_PART = ("bootstrap.sh", "database")
_numbers = iter(range(1, 1000))


@pytest.fixture(scope="module")
def instance(timescaledb_dist: Path, emulator: Emulator, aws: AwsSession) -> Iterator[Instance]:
    """An instance with a migrated database, some rows and a full backup."""
    pgbackrest = install_pgbackrest(PGBACKREST_FOLDER)
    secrets = make_secrets(aws, f"backups-{os.getpid()}")
    with (
        metadata_service() as metadata,
        sandbox(timescaledb_dist, pgbackrest, metadata, emulator.port, secrets) as made,
    ):
        made.run(*_DATABASE_PART)
        with psycopg.connect(made.dsn(secret(aws, secrets["admin"])["password"])) as connection:
            migrate(connection, read_migrations())
        with made.connect(secret(aws, secrets["admin"])["password"]) as connection:
            _load(connection, 1000)
        made.run("backup.sh")
        # pgBackRest knows by the second when a backup ended, and restores to later seconds only.
        ended = int(time.time())
        wait_until(lambda: time.time() >= ended + 1, "the next second")
        yield made


@pytest.fixture
def password(instance: Instance, aws: AwsSession) -> str:
    """The admin's."""
    found: str = secret(aws, instance.settings["ADMIN_SECRET_ARN"])["password"]
    return found


def _load(connection: psycopg.Connection, rows: int, loaded_seconds_ago: float = 0) -> None:
    """An object of so many readings, as the loader leaves it."""
    number = next(_numbers)
    with connection.transaction():
        (object_id,) = connection.execute(
            "INSERT INTO ingest.objects (bucket, key, status, readings, rows, loaded_at)"
            " VALUES ('raw', %s, 'loaded', %s, %s, clock_timestamp() - make_interval(secs => %s)) RETURNING object_id",
            (f"object-{number}", rows, rows, loaded_seconds_ago),
        ).fetchone() or (0,)
        connection.execute(
            "INSERT INTO telemetry (device_id, timestamp, seq, temperature, object_id)"
            " SELECT %s, now() - make_interval(secs => n), n, 20.5, %s FROM generate_series(1, %s) n",
            (f"device-{number:05}", object_id, rows),
        )


def _readings(instance: Instance, password: str) -> int:
    with instance.connect(password) as connection:
        return int((connection.execute("SELECT count(*) FROM telemetry").fetchone() or (0,))[0])


def _moment(connection: psycopg.Connection) -> str:
    """The server's time, a moment apart from the transactions before and after it."""
    time.sleep(0.05)
    (now,) = connection.execute("SELECT clock_timestamp()").fetchone() or (None,)
    time.sleep(0.05)
    assert isinstance(now, datetime)
    return now.astimezone(UTC).isoformat()


def _remove_kept(output: str) -> None:
    """Removes the data folder that a restore left beside the new one."""
    (kept,) = re.findall(r"what was there is kept in (\S+):", output)
    assert (Path(kept) / "global" / "pg_control").exists()
    shutil.rmtree(kept)


def _verdict(output: str) -> dict[str, str]:
    found = re.search(
        r"^drill (?P<verdict>\w+): RPO (?P<rpo>\d+) s .*, RTO (?P<rto>\d+) s .*, (?P<missing>\d+) objects missing,"
        r" (?P<readings>\d+) readings restored$",
        output,
        re.MULTILINE,
    )
    assert found, output
    return found.groupdict()


def test_a_dropped_table_comes_back_as_of_a_moment_before(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection:
        _load(connection, 500)
        moment = _moment(connection)
        before = _readings(instance, password)
        connection.execute("DROP TABLE telemetry CASCADE")
    refused = instance.run("restore.sh", moment, check=False)
    assert refused.returncode == 1
    assert "run it again with --yes" in refused.stderr

    started = time.monotonic()
    output = instance.run("restore.sh", moment, "--yes").stdout
    print(f"restored to a time in {time.monotonic() - started:.1f} s")
    assert _readings(instance, password) == before
    _remove_kept(output)
    # It goes on being backed up on its new timeline.
    instance.run("backup.sh", "diff")


def test_a_restore_that_cannot_be_leaves_the_database_as_it_was(instance: Instance, password: str) -> None:
    before = _readings(instance, password)
    done = instance.run("restore.sh", "2020-01-01T00:00:00Z", "--yes", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("the database is as it was")
    assert _readings(instance, password) == before
    assert not list(instance.data.parent.glob("data.before-*"))


def test_a_restore_to_before_the_instance_became_smaller(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection:
        _load(connection, 15)
        moment = _moment(connection)
    before = _readings(instance, password)
    instance.run(*_DATABASE_PART, MAX_CONNECTIONS="40", VCPUS="1")
    output = instance.run("restore.sh", moment, "--yes", MAX_CONNECTIONS="40", VCPUS="1").stdout
    assert _readings(instance, password) == before
    _remove_kept(output)
    instance.run(*_DATABASE_PART)


def test_a_restore_does_not_end_where_the_archive_cannot_be_read(instance: Instance, password: str) -> None:
    """What pgBackRest ends with when S3 does not answer, PostgreSQL takes for the end of what was archived."""
    with instance.connect(password) as connection:
        _load(connection, 25)
    _archive(instance)
    segment = instance.bash("archive_end").stdout.strip()
    with instance.connect(password) as connection:
        _load(connection, 25)
    before = _readings(instance, password)
    program = Path(instance.environment["PGBACKREST"])
    text = program.read_text()
    fails = f'case "$*" in *"archive-get {segment} "*) exit 103;; esac\n'
    try:
        program.write_text(text.replace("\n", f"\n{fails}", 1))
        done = instance.run("restore.sh", "latest", "--yes", check=False)
    finally:
        program.write_text(text)
    assert _readings(instance, password) == before
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("the database is as it was")


@pytest.mark.parametrize("time_given", ["yesterdayish", "2026-13-45T00:00:00Z", "'; rm -rf /"])
def test_what_is_no_time_is_refused(instance: Instance, time_given: str) -> None:
    for script in ("restore.sh", "drill.sh"):
        done = instance.run(script, time_given, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")


def test_a_drill_measures_and_cleans_up_while_the_database_goes_on(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection:
        _load(connection, 700)
        started = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
        _archive(instance)
        before = _readings(instance, password)
        done = instance.run("drill.sh")
        verdict = _verdict(done.stdout)
        print(done.stdout.splitlines()[-1])
        assert verdict["verdict"] == "met"
        assert (verdict["rpo"], verdict["missing"]) == ("0", "0")
        assert int(verdict["readings"]) == before
        assert connection.execute("SELECT pg_postmaster_start_time()").fetchone() == started
    assert not (instance.volume / "drill").exists()


def test_a_drill_after_one_that_was_killed_ends_no_other_process(instance: Instance) -> None:
    """The number that the killed one left may be another process's by now, after a reboot the database's own."""
    scratch = instance.volume / "drill" / "data"
    scratch.mkdir(parents=True)
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        (scratch / "postmaster.pid").write_text(f"{bystander.pid}\n")
        assert _verdict(instance.run("drill.sh").stdout)["verdict"] == "met"
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_second_copy_is_made_only_where_there_is_room(instance: Instance) -> None:
    """A file that goes away while du looks has it fail, and what it counted must count all the same."""
    # df's answer; du's is what it says and fails with on a living database.
    found = instance.bash(
        'df() { printf "Avail\\n%s\\n" 10000; }; du() { command du "$@"; return 1; }\n'
        'fallocate -l 12G "$DATA_FOLDER/large"; trap \'rm "$DATA_FOLDER/large"\' EXIT\n'
        'require_room "$DATA_MOUNT" "a drill"'
    )
    assert found.returncode == 1
    assert "a drill needs room for a second copy" in found.stderr


def test_a_drill_counts_what_was_not_archived_yet(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection:
        _load(connection, 10)
        _archive(instance)
        before = _readings(instance, password)
        _load(connection, 10)
    verdict = _verdict(instance.run("drill.sh").stdout)
    assert verdict["verdict"] == "met"
    assert 0 < int(verdict["rpo"]) < 60
    assert int(verdict["readings"]) == before


def test_a_drill_fails_when_more_than_five_minutes_would_be_lost(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection:
        connection.execute("UPDATE ingest.objects SET loaded_at = loaded_at - interval '1 hour'")
        _archive(instance)
        _load(connection, 10, loaded_seconds_ago=400)
    done = instance.run("drill.sh", check=False)
    assert done.returncode == 1
    assert _verdict(done.stdout)["verdict"] == "MISSED"
    assert int(_verdict(done.stdout)["rpo"]) > 300


def test_a_drill_to_a_time_restores_that_time(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection:
        _load(connection, 20)
        moment = _moment(connection)
        before = _readings(instance, password)
        _load(connection, 30)
    verdict = _verdict(instance.run("drill.sh", moment).stdout)
    assert verdict["verdict"] == "met"
    assert int(verdict["readings"]) == before


def test_a_lost_volume_comes_back_from_the_backups_by_itself(
    instance: Instance, password: str, aws: AwsSession
) -> None:
    with instance.connect(password) as connection:
        _load(connection, 40)
    _archive(instance)
    before = _readings(instance, password)
    instance.replace()
    for part in instance.volume.iterdir():
        shutil.rmtree(part)
    started = time.monotonic()
    output = instance.run(*_DATABASE_PART).stdout
    print(f"restored after the loss of the volume in {time.monotonic() - started:.1f} s")
    assert "no database on the volume, but backups" in output
    assert _readings(instance, password) == before
    published = secret(aws, instance.settings["LOADER_SECRET_ARN"])["ca"]
    assert published == (instance.volume / "tls" / "ca.crt").read_text()


def test_a_restore_that_was_interrupted_goes_on_in_its_place(instance: Instance, password: str) -> None:
    _archive(instance)
    before = _readings(instance, password)
    instance.systemctl("stop", "fleetledger-database.service")
    # How pgBackRest leaves a folder when it is stopped: its manifest is there, pg_control is not.
    (instance.data / "global" / "pg_control").unlink()
    (instance.data / "postmaster.pid").unlink(missing_ok=True)
    (instance.data / "backup.manifest").write_text("")
    instance.run(*_DATABASE_PART)
    assert _readings(instance, password) == before
    assert not list(instance.data.parent.glob("data.incomplete-*"))
    assert not (instance.data / "backup.manifest").exists()


def test_no_empty_database_is_made_while_the_backups_cannot_be_seen(instance: Instance, password: str) -> None:
    instance.systemctl("stop", "fleetledger-database.service")
    aside = instance.data.rename(instance.data.with_name("aside"))
    template = Path(instance.environment["REPOSITORY_TEMPLATE"])
    text = template.read_text()
    try:
        template.write_text(text.replace("repo1-type=posix", "repo1-type=sftp"))
        done = instance.run(*_DATABASE_PART, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(
            "error: no database on the volume, and the backups cannot be listed"
        )
        assert not instance.data.exists()
    finally:
        template.write_text(text)
        aside.rename(instance.data)
    instance.run(*_DATABASE_PART)


@pytest.mark.parametrize(
    ("newest_hours", "full_hours", "due"),
    [(1, 100, ""), (22.9, 100, ""), (23.1, 100, "diff"), (1, 166.9, ""), (1, 167.1, "full"), (1e5, 1e5, "full")],
)
def test_a_full_backup_is_due_each_week_and_a_differential_one_each_day(
    instance: Instance, newest_hours: float, full_hours: float, due: str
) -> None:
    now = 2_000_000_000
    newest, full = (int(now - hours * 3600) for hours in (newest_hours, full_hours))
    found = instance.bash(f"backup_due {now} {newest} {full}")
    assert found.stdout.strip() == due


def test_the_age_of_the_newest_backup_goes_to_the_agent(instance: Instance) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(10)
        instance.environment["STATSD_PORT"] = str(agent.getsockname()[1])
        try:
            instance.run("metrics.sh")
        finally:
            del instance.environment["STATSD_PORT"]
        message = agent.recv(1000).decode()
    found = re.fullmatch(rf"BackupAgeSeconds:(\d+)\|g\|#service:{SERVICE}", message)
    assert found, message
    assert int(found[1]) < 600


def _archive(instance: Instance) -> None:
    """Waits until everything committed so far is in the archive, as it is within a minute anyhow."""
    done = instance.bash("archive_all")
    assert done.returncode == 0, done.stderr
