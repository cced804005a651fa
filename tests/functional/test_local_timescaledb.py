"""The local TimescaleDB for real: installed from Debian's packages, started, killed, stopped, and spoken to over TLS."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from local import timescaledb
from local.debian import apt
from local.timescaledb import PackagesUnavailable, Server, docker, packages, process, server
from local.timescaledb.placement import find_site
from local.timescaledb.tls import make_identity
from ops.errors import UserError

CHECKOUT = Path(__file__).parents[2]
DEADLINE_SECONDS = 20.0


@pytest.fixture(scope="module")
def root(timescaledb_dist: Path) -> Iterator[Path]:
    """A root that anybody may enter, unlike pytest's own folders, with the packages in place."""
    yield from _root(timescaledb_dist, mode=0o755)


@pytest.fixture
def fresh_root(timescaledb_dist: Path) -> Iterator[Path]:
    yield from _root(timescaledb_dist, mode=0o755)


@pytest.fixture
def private_root(timescaledb_dist: Path) -> Iterator[Path]:
    """A root below a folder that only its owner may enter."""
    yield from _root(timescaledb_dist, mode=0o700)


def _root(dist: Path, mode: int) -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="fleet test ")).resolve()  # with a blank, as a checkout may have
    top.chmod(mode)
    made = top / "timescaledb"
    made.mkdir(mode=0o755)
    shutil.copytree(dist, made / "dist", symlinks=True, copy_function=_link_or_copy)
    try:
        yield made
    finally:
        data = _data(made)
        timescaledb.destroy(made)
        assert _processes_in(data) == []
        shutil.rmtree(top)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


@pytest.fixture
def running(root: Path) -> Server:
    return timescaledb.provide("debian", root)


def test_what_is_started_outlives_its_starter(root: Path) -> None:
    timescaledb.stop(root)
    script = "import sys, pathlib; from local import timescaledb as t; print(t.provide('auto', pathlib.Path(sys.argv[1])).pid)"
    starter = subprocess.run(
        [sys.executable, "-c", script, root], cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=60
    )
    found = timescaledb.status(root)
    assert found.state == "running"
    assert found.server is not None
    assert found.pid == int(starter.stdout) == found.server.pid
    assert os.getsid(found.pid) != os.getsid(0)
    assert _query(found.server, "SELECT extname FROM pg_extension WHERE extname = 'timescaledb'") == "timescaledb"
    assert found.server.dbname == "iot_analytics"


def test_a_second_start_is_quick_and_changes_nothing(root: Path, running: Server) -> None:
    started = time.monotonic()
    assert timescaledb.provide("auto", root) == running
    assert time.monotonic() - started < 2


def test_starts_at_the_same_time_share_one_server(fresh_root: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: timescaledb.provide("auto", fresh_root), range(2))
    assert first == second
    assert len([pid for pid in _processes_in(_data(fresh_root)) if process.is_postmaster(pid, _data(fresh_root))]) == 1


def test_a_hypertable_cuts_time_into_chunks(running: Server) -> None:
    with psycopg.connect(running.dsn) as connection:
        connection.execute("CREATE TEMP TABLE unused ()")
        connection.execute("CREATE TABLE readings (time timestamptz NOT NULL, value double precision)")
        connection.execute(
            "SELECT create_hypertable('readings', by_range('time', INTERVAL '1 day'), create_default_indexes => false)"
        )
        connection.execute(
            "INSERT INTO readings SELECT t, 1"
            " FROM generate_series(timestamptz '2026-01-01', '2026-01-03 23:00', interval '1 hour') t"
        )
        chunks = connection.execute("SELECT count(*) FROM show_chunks('readings')").fetchone()
        days = connection.execute("SELECT time_bucket('1 day', time), count(*) FROM readings GROUP BY 1").fetchall()
        connection.rollback()
    assert chunks == (3,)
    assert sorted(count for _, count in days) == [24, 24, 24]


def test_commits_are_durable_and_the_clock_is_gmt(running: Server) -> None:
    settings = {
        name: _query(running, f"SHOW {name}")
        for name in (
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "timezone",
            "jit",
            "timescaledb.telemetry_level",
        )
    }
    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "timezone": "GMT",
        "jit": "off",
        "timescaledb.telemetry_level": "off",
    }


def test_no_job_is_scheduled_that_the_edition_cannot_run(running: Server) -> None:
    assert _query(running, "SHOW timescaledb.license") == "apache"
    assert _query(running, "SELECT scheduled FROM _timescaledb_config.bgw_job WHERE id = 3") is False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_connection_is_encrypted_and_the_server_verified(running: Server, host: str) -> None:
    with psycopg.connect(running.dsn, host=host, hostaddr="127.0.0.1") as connection:
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row == (True, "TLSv1.3")


def test_a_client_that_trusts_another_authority_is_stopped(running: Server, tmp_path: Path) -> None:
    other = tmp_path / "ca.crt"
    other.write_text(make_identity().ca_certificate)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(running.dsn, sslrootcert=str(other))


def test_a_server_of_another_name_is_not_accepted(running: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(running.dsn, host="database.example", hostaddr="127.0.0.1")


def test_a_client_without_tls_is_refused(running: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(running.dsn, sslmode="disable", sslrootcert="")


def test_a_wrong_password_is_refused(running: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(running.dsn, password="guessed")


def test_the_psql_line_works_as_printed_and_holds_no_password(running: Server) -> None:
    assert running.password not in running.psql_command
    assert running.password not in repr(running)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{running.psql_command} -AtXc 'SELECT current_database()'"],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("iot_analytics\n", "")


def test_secrets_are_for_their_owner_alone(root: Path, running: Server) -> None:
    site = find_site(root)
    for path in (root / "pgpass", site.conf / "server.key", running.log_file):
        assert path.stat().st_mode & 0o777 == 0o600, path
    secret = running.password.encode()
    holders = [p for p in _files(root) if secret in p.read_bytes()]
    assert holders == [root / "pgpass"]
    assert not any(b"PRIVATE KEY" in p.read_bytes() for p in _files(root) if p != site.conf / "server.key")


def test_the_log_tells_of_an_error_without_the_statement(running: Server) -> None:
    with (
        psycopg.connect(running.dsn, autocommit=True) as connection,
        pytest.raises(psycopg.errors.UndefinedObject),
    ):
        connection.execute("ALTER ROLE not_there PASSWORD 'hunter2'")
    _wait(lambda: 'role "not_there" does not exist' in running.log_file.read_text())
    assert "hunter2" not in running.log_file.read_text()


def test_a_killed_server_is_dead_until_it_is_started_and_keeps_what_was_committed(root: Path, running: Server) -> None:
    with closing(psycopg.connect(running.dsn, autocommit=True)) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO kept VALUES (0)")
        os.kill(running.pid, signal.SIGKILL)
        _wait(lambda: timescaledb.status(root).state == "dead")
        assert timescaledb.status(root).pid is None
        again = timescaledb.provide("auto", root)
    assert again.pid != running.pid
    assert again.port == running.port
    assert _query(again, "SELECT count(*) FROM kept WHERE n > 0") == 1000
    assert _query(again, "SELECT count(*) FROM kept WHERE n = 0") == 0
    assert "automatic recovery in progress" in again.log_file.read_text()


def test_a_server_that_does_not_answer_is_replaced(
    root: Path, running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RUNNING_SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(process, "UNRESPONSIVE", ((signal.SIGQUIT, 0.2), (signal.SIGKILL, 10.0)))
    os.kill(running.pid, signal.SIGSTOP)
    said: list[str] = []
    again = timescaledb.provide("auto", root, None, said.append)
    assert again.pid != running.pid
    assert any(f"process {running.pid}" in line for line in said)
    assert timescaledb.status(root).state == "running"


def test_stop_leaves_no_process_and_no_listener_but_the_data(root: Path, running: Server) -> None:
    data = _data(root)
    with psycopg.connect(running.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS stopped ()")
        before = _processes_in(data)
        assert running.pid in before
        assert len(before) > 3
        timescaledb.stop(root)
    assert _processes_in(data) == []
    assert not any(process.is_alive(pid) for pid in before)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((running.host, running.port), timeout=5)
    assert timescaledb.status(root).state == "stopped"
    timescaledb.stop(root)
    assert _query(timescaledb.provide("auto", root), "SELECT to_regclass('stopped')::text") == "stopped"


def test_a_process_that_took_over_the_id_is_left_alone(root: Path, running: Server) -> None:
    timescaledb.stop(root)
    data = _data(root)
    # The most alike: it works in the data folder, too.
    with subprocess.Popen(["sleep", "60"], cwd=data) as stranger:
        try:
            (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n")
            assert timescaledb.status(root).state == "dead"
            timescaledb.stop(root)
            assert timescaledb.status(root).state == "stopped"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_taken_port_is_named_and_nothing_is_begun(fresh_root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {port} on 127\.0\.0\.1 is taken"):
            timescaledb.provide("debian", fresh_root, port)
    assert timescaledb.status(fresh_root).state == "stopped"
    assert not _data(fresh_root).exists()
    assert timescaledb.provide("debian", fresh_root, port).port == port


@pytest.mark.parametrize("port", [0, 80, 65536])
def test_an_impossible_port_is_refused(fresh_root: Path, port: int) -> None:
    with pytest.raises(UserError, match=f"port {port}; choose"):
        timescaledb.provide("debian", fresh_root, port)


def test_another_port_than_that_of_the_running_server_is_refused(root: Path, running: Server) -> None:
    with pytest.raises(UserError, match=rf"already runs on port {running.port}, not 1234;"):
        timescaledb.provide("auto", root, 1234)
    assert timescaledb.status(root).pid == running.pid


def test_a_half_made_cluster_is_made_anew(fresh_root: Path) -> None:
    half = find_site(fresh_root).new_data
    half.mkdir()
    (half / "PG_VERSION").write_text("17\n")
    (fresh_root / "pgpass").write_text("of a run that was killed\n")
    assert _query(timescaledb.provide("auto", fresh_root), "SELECT 1") == 1
    assert not half.exists()


def test_a_server_that_cannot_start_is_one_line_with_the_reason_and_the_log(fresh_root: Path) -> None:
    timescaledb.provide("auto", fresh_root)
    timescaledb.stop(fresh_root)
    (_data(fresh_root) / "global" / "pg_control").unlink()
    with pytest.raises(UserError, match=r"did not start: .*pg_control.*; its log is .*postgres\.log") as caught:
        timescaledb.provide("auto", fresh_root)
    assert "\n" not in str(caught.value)
    assert _processes_in(_data(fresh_root)) == []


def test_a_lost_password_file_is_named(fresh_root: Path) -> None:
    timescaledb.provide("auto", fresh_root)
    timescaledb.stop(fresh_root)
    (fresh_root / "pgpass").unlink()
    with pytest.raises(UserError, match="pgpass cannot be read"):
        timescaledb.provide("auto", fresh_root)
    assert _data(fresh_root).exists()


def test_destroy_removes_all_but_the_packages(fresh_root: Path) -> None:
    data = _data(fresh_root)
    timescaledb.provide("auto", fresh_root)
    timescaledb.destroy(fresh_root)
    assert _processes_in(data) == []
    assert {path.name for path in fresh_root.iterdir()} - {"lock", "dist.lock"} == {"dist"}
    timescaledb.destroy(fresh_root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_root_in_a_folder_of_its_own_has_the_server_run_elsewhere(
    private_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(private_root.parent))  # TMPDIR is no way out here
    running = timescaledb.provide("auto", private_root)
    home = find_site(private_root).home
    assert private_root not in home.parents
    assert home.stat().st_mode & 0o777 == 0o711
    assert Path(f"/proc/{running.pid}").stat().st_uid != 0
    assert _query(running, "SELECT 1") == 1
    assert _processes_in(home / "data") != []

    os.kill(running.pid, signal.SIGKILL)
    _wait(lambda: timescaledb.status(private_root).state == "dead")
    again = timescaledb.provide("auto", private_root)
    assert again.port == running.port
    timescaledb.stop(private_root)
    assert (home / "data").exists()
    timescaledb.destroy(private_root)
    assert not home.exists()
    assert {path.name for path in private_root.iterdir()} - {"lock", "dist.lock"} == {"dist"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as another user")
def test_a_folder_that_others_put_in_the_way_is_not_used(private_root: Path) -> None:
    timescaledb.provide("auto", private_root)
    home = find_site(private_root).home
    timescaledb.destroy(private_root)
    home.mkdir()
    try:
        os.chown(home, 1, 1)
        with pytest.raises(UserError, match="is in the way"):
            timescaledb.provide("auto", private_root)
    finally:
        home.rmdir()
        (private_root / "outside").unlink()


def test_an_installation_is_kept_and_found_at_once(root: Path) -> None:
    started = time.monotonic()
    assert packages.install(root, pytest.fail) == root / "dist"
    assert time.monotonic() - started < 0.1


def test_an_installation_without_its_stamp_is_none(fresh_root: Path) -> None:
    assert packages.is_installed(fresh_root / "dist")
    (fresh_root / "dist" / "installed.json").unlink()
    assert not packages.is_installed(fresh_root / "dist")


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not answer, whether or not this machine has one."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)


def test_a_host_without_debian_mirror_is_told_the_three_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_docker: None
) -> None:
    (tmp_path / "sources.list").write_text("deb http://127.0.0.1:9/ubuntu noble main universe\n")
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list"; Dir::Etc::sourceparts "/dev/null";'
        f' Dir::State::lists "{tmp_path}/lists";'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    root = tmp_path / "root"
    with pytest.raises(PackagesUnavailable) as caught:
        timescaledb.provide("auto", root)
    for way in ("no Debian mirror", "FLEET_DATABASE_URL", "--database docker", "Debian host"):
        assert way in str(caught.value)
    assert {path.name for path in root.iterdir()} == {"lock", "dist.lock"}


def test_a_mirror_that_does_not_answer_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # bound and not listening: refuses
        closed.bind(("127.0.0.1", 0))
        (tmp_path / "apt.conf").write_text(
            f'Acquire::http::Proxy "http://127.0.0.1:{closed.getsockname()[1]}";'
            f' Acquire::https::Proxy "http://127.0.0.1:{closed.getsockname()[1]}";'
        )
        monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
        monkeypatch.setattr(apt, "RETRIES", 0)
        with pytest.raises(PackagesUnavailable, match="Could not connect") as caught:
            packages.install(tmp_path / "root", print)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["dist.lock"]


def test_docker_without_an_engine_is_one_line_and_leaves_nothing(tmp_path: Path, no_docker: None) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    with pytest.raises(UserError, match="engine does not answer"):
        timescaledb.provide("docker", tmp_path / "root")
    assert not docker.is_available()
    assert list((tmp_path / "root").iterdir()) == []


def test_docker_without_its_command_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs the docker command"):
        timescaledb.provide("docker", tmp_path / "root")


def test_debian_mirrors_are_told_from_others() -> None:
    assert apt.debian_mirrors(
        [
            "http://mirror.example/debian/\tDebian\tbookworm\tmain",
            "http://mirror.example/debian/\tDebian\tbookworm-updates\tmain",
            "http://mirror.example/security/\tDebian-Security\tbookworm-security\tmain",
            "http://other.example/\tPostgreSQL for Debian\tbookworm\tmain",
            "http://unread.example/debian/\t\ttrixie\tmain",
            "http://unread.example/ubuntu/\t\tnoble\tmain",
            "cdrom:[Debian]/\tDebian\tbookworm\tmain",
        ]
    ) == ["http://mirror.example/debian/", "http://unread.example/debian/"]


def test_lines_of_print_uris_are_packages() -> None:
    line = "'http://m.example/pool/z.deb' zlib1g_1%3a1.3.1-1+b1_amd64.deb 88892 SHA256:00"
    assert apt.parse_uris(["Reading ...", line]) == [apt.Package("zlib1g", "1:1.3.1-1+b1", 88892)]


def _data(root: Path) -> Path:
    return find_site(root).data


def _files(root: Path) -> list[Path]:
    """The files of `root` that are neither the server's own nor Debian's."""
    own = (root / "dist", _data(root))
    return [p for p in root.rglob("*") if p.is_file() and not any(p.is_relative_to(folder) for folder in own)]


def _query(running: Server, query: str) -> object:
    with psycopg.connect(running.dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def _processes_in(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
