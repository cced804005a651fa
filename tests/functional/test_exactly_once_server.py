"""Exactly once, with a server that is restarted, killed, or out of room in the midst of a load."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from lambdas.migrator.migrate import migrate, read_migrations
from local import timescaledb
from local.timescaledb import Server, process
from local.timescaledb.placement import find_site
from tests.functional.accounting import RawObject, Span, assert_every_reading_once, assert_nothing_stored, raw_object
from tests.functional.conftest import Intake, StartLoader, wait_until
from tests.functional.loader_process import Boundary, Stopped

BEFORE = raw_object("before", Span("device-00001", range(600)))
AFRESH = raw_object("afresh", Span("device-00001", range(600, 2600)), Span("device-00002", range(1500)))
LARGE = raw_object("large", *[Span(f"device-{n:05}", range(5000)) for n in range(3, 9)])
LARGE_OVERLAPPING = raw_object(
    "large", Span("device-00001", range(10)), *[Span(f"device-{n:05}", range(5000)) for n in range(3, 9)]
)
_databases = count(1)
_MIB = 1024 * 1024


@contextmanager
def own_server(dist: Path) -> Iterator[Path]:
    """A server whose life is the test's to end, under a folder that the server's user may enter, too."""
    top = Path(tempfile.mkdtemp(prefix="fleet-exactly-once-")).resolve()
    top.chmod(0o755)
    root = top / "timescaledb"
    root.mkdir(mode=0o755)
    shutil.copytree(dist, root / "dist", symlinks=True, copy_function=_link_or_copy)
    try:
        timescaledb.provide("debian", root)
        yield root
    finally:
        timescaledb.destroy(root)
        shutil.rmtree(top)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def root(timescaledb_dist: Path) -> Iterator[Path]:
    with own_server(timescaledb_dist) as made:
        yield made


def new_database(server: Server, *, tablespace: str = "pg_default") -> str:
    """The DSN of a migrated database."""
    name = f"exactly_once_{next(_databases)}"
    with psycopg.connect(server.dsn_of("postgres"), autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TABLESPACE {}").format(sql.Identifier(name), sql.Identifier(tablespace))
        )
    dsn = server.dsn_of(name)
    with psycopg.connect(dsn) as connection:
        migrate(connection, read_migrations())
    return dsn


def restart_in_order(root: Path, dsn: str) -> None:
    timescaledb.stop(root)


def kill_server(root: Path, dsn: str) -> None:
    pid = timescaledb.status(root).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: timescaledb.status(root).state == "dead", "the server's end")
    # Until its children notice, one that has all that it needs may even commit.
    assert process.end_orphans(find_site(root).data)


def kill_backend(root: Path, dsn: str) -> None:
    """As when memory is short: the server then ends all its sessions, recovers and goes on by itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        [(pid,)] = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'iot-telemetry-processor'"
        ).fetchall()
        os.kill(pid, signal.SIGKILL)
        with suppress(psycopg.OperationalError):
            wait_until(lambda: not connection.execute("SELECT 1").fetchall(), "the end of all sessions")


@pytest.mark.parametrize("boundary", ["mid_copy", "recorded", "committed"])
@pytest.mark.parametrize("fault", [restart_in_order, kill_server, kill_backend])
def test_a_server_that_goes_down_and_comes_back(
    boundary: Boundary, fault: Callable[[Path, str], None], root: Path, intake: Intake, start_loader: StartLoader
) -> None:
    dsn = new_database(timescaledb.provide("auto", root))
    loader = start_loader(dsn)
    messages = intake.put(BEFORE)
    loader.deliver(messages)
    assert not loader.failed()
    intake.acknowledge(messages)

    messages = intake.put(AFRESH)
    ids = {message["messageId"] for message in messages}
    loader.deliver(messages, stop_at=boundary)
    assert loader.outcome() == Stopped(boundary)
    fault(root, dsn)
    loader.go_on()
    assert loader.failed() == (set() if boundary == "committed" else ids)
    if fault is not kill_backend:
        loader.deliver(messages)
        assert loader.failed() == ids, "there is no server"
    timescaledb.provide("auto", root)
    if boundary == "committed":
        assert_every_reading_once(dsn, [BEFORE, AFRESH])
    else:
        assert_nothing_stored(dsn, but=[BEFORE])
    loader.deliver(messages)
    assert not loader.failed()
    assert_every_reading_once(dsn, [BEFORE, AFRESH])


@contextmanager
def small_disk(at: Path, size_mib: int) -> Iterator[Path]:
    """A file system of its own, of so many MiB, that the server's user may write. Skips where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount the small disk that is to be filled")
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0777", "tmpfs", at],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        at.rmdir()
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True, timeout=30)
        at.rmdir()


def fill(disk: Path, *, but_bytes: int) -> Path:
    """A file that leaves so much room."""
    ballast = disk / "ballast"
    free_bytes = shutil.disk_usage(disk).free
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, free_bytes - but_bytes)
    return ballast


@pytest.mark.parametrize("known", [LARGE, LARGE_OVERLAPPING], ids=["straight", "through the temporary table"])
def test_a_disk_that_fills_up(known: RawObject, root: Path, intake: Intake, start_loader: StartLoader) -> None:
    server = timescaledb.provide("auto", root)
    with (
        small_disk(root.parent / "disk", 64) as disk,
        psycopg.connect(server.dsn_of("postgres"), autocommit=True) as admin,
    ):
        folder = disk / "tablespace"
        folder.mkdir()
        if account := find_site(root).account:
            os.chown(folder, account.uid, account.gid)
        admin.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(folder))))
        dsn = new_database(server, tablespace="small")
        try:
            loader = start_loader(dsn)
            messages = intake.put(BEFORE)
            loader.deliver(messages)
            assert not loader.failed()
            intake.acknowledge(messages)

            ballast = fill(disk, but_bytes=_MIB)
            messages = intake.put(known)
            for _ in range(2):
                loader.deliver(messages)
                assert loader.failed() == {message["messageId"] for message in messages}
                assert_nothing_stored(dsn, but=[BEFORE])
            assert "DiskFull (53100)" in loader.log()
            ballast.unlink()
            loader.deliver(messages)
            assert not loader.failed()
            assert_every_reading_once(dsn, [BEFORE, known])
        finally:
            name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name))))
            admin.execute("DROP TABLESPACE small")


def test_a_disk_of_the_log_that_fills_up_and_takes_the_server_down(
    timescaledb_dist: Path, intake: Intake, start_loader: StartLoader
) -> None:
    """Without room for its log PostgreSQL panics; it comes back when there is room and it is started."""
    with own_server(timescaledb_dist) as root, small_disk(root.parent / "disk", 64) as disk:
        try:
            timescaledb.stop(root)
            log, elsewhere = find_site(root).data / "pg_wal", disk / "pg_wal"
            subprocess.run(["cp", "-a", log, elsewhere], check=True)
            shutil.rmtree(log)
            log.symlink_to(elsewhere)
            dsn = new_database(timescaledb.provide("auto", root))
            loader = start_loader(dsn)
            messages = intake.put(BEFORE)
            loader.deliver(messages)
            assert not loader.failed()
            intake.acknowledge(messages)

            ballast = fill(disk, but_bytes=_MIB)
            use_up_log(dsn)
            messages = intake.put(LARGE)
            ids = {message["messageId"] for message in messages}
            for _ in range(2):
                loader.deliver(messages)
                assert loader.failed() == ids
            assert "PANIC" in find_site(root).log_file.read_text()
            ballast.unlink()
            timescaledb.provide("auto", root)
            assert_nothing_stored(dsn, but=[BEFORE])
            loader.deliver(messages)
            assert not loader.failed()
            assert_every_reading_once(dsn, [BEFORE, LARGE])
        finally:
            timescaledb.stop(root)


def use_up_log(dsn: str) -> None:
    """Writes until less than a MiB is left of the segments that there are."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def left_bytes() -> int:
            row = connection.execute(
                "SELECT (SELECT max(('x' || substr(name, 9, 8))::bit(32)::bigint * 256 + "
                "('x' || substr(name, 17, 8))::bit(32)::bigint) + 1 FROM pg_ls_waldir() WHERE length(name) = 24) "
                "* 16 * 1024 * 1024 - (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)"
            ).fetchone()
            assert row
            return int(row[0])

        while left_bytes() > _MIB:
            connection.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 500000))")
