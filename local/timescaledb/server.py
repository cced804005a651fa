"""One PostgreSQL server with TimescaleDB for this checkout, from Debian's packages, as an ordinary process.

It listens on 127.0.0.1 only, over TLS only, and outlives the command that started it. Everything can be repeated:
what is there is used, what is half made is made again, what died is started and recovers.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from psycopg.conninfo import make_conninfo

from local.timescaledb import process
from local.timescaledb.connection import (
    DATABASE,
    HOST,
    SUPERUSER,
    Server,
    Status,
    answers,
    create_database,
    wait_until_answers,
)
from local.timescaledb.credentials import make_credentials, read_credentials
from local.timescaledb.locking import exclusive, os_errors_for_users
from local.timescaledb.packages import Progress, install
from local.timescaledb.placement import Site, find_site, prepare_site, reachable_dist, write_file
from local.timescaledb.ports import choose_port, read_port, refuse_other_port
from local.timescaledb.server_log import last_failure, open_log
from local.timescaledb.settings import LOCALE_ARGUMENTS, SETTINGS, quote, render
from ops.errors import UserError

START_SILENCE_SECONDS = 60.0
RUNNING_SILENCE_SECONDS = 10.0

# No unix socket (its path is limited to 107 bytes), no other address, nothing without TLS.
_ACCESS_RULES = "hostssl all all 127.0.0.1/32 scram-sha-256\n"
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
# The shell leaves at once, so the server is nobody's child that would have to be waited for.
_IN_BACKGROUND = '"$@" >&2 & echo $!'


def start(root: Path, port: int | None = None, progress: Progress = lambda _message: None) -> Server:
    """Make the server under `root` run and answer, with the database and the extension in it, and return it.

    A running one is returned as it is. Raises UserError when `port` is taken or differs from that of the running
    server, when Debian's packages cannot be had (PackagesUnavailable), or when the server does not start.
    """
    root = root.resolve()
    with exclusive(root / "lock") as lock, os_errors_for_users(root):
        site = find_site(root)
        running = _running(site)
        if running is not None:
            refuse_other_port(port, running.port)
            if _complaint_of(running, RUNNING_SILENCE_SECONDS) is None:
                create_database(running)
                return running
            progress(f"TimescaleDB (process {running.pid}) does not answer: starting it again")
            _end(running.pid, site, process.UNRESPONSIVE)
        return _start(root, port, progress, lock)


def stop(root: Path) -> None:
    """Shut the server of `root` down and wait until its processes are gone; nothing to do is no error.

    Transactions under way are rolled back, what was committed stays. Raises UserError when it cannot be ended.
    """
    root = root.resolve()
    if not root.is_dir():
        return
    with exclusive(root / "lock"), os_errors_for_users(root):
        _stop(find_site(root))


def destroy(root: Path) -> None:
    """Stop the server and remove its data, credentials and log. The downloaded packages stay."""
    root = root.resolve()
    if not root.is_dir():
        return
    with exclusive(root / "lock"), os_errors_for_users(root):
        site = find_site(root)
        _stop(site)
        for folder in (site.data, site.new_data, site.conf):
            if folder.exists():
                shutil.rmtree(folder)
        for name in ("ca.crt", "pgpass"):
            (root / name).unlink(missing_ok=True)
        site.port_file.unlink(missing_ok=True)
        site.log_file.unlink(missing_ok=True)
        site.remove_outside()


def status(root: Path) -> Status:
    """What the server of `root` does now; changes nothing."""
    root = root.resolve()
    with os_errors_for_users(root):
        site = find_site(root)
        port = read_port(site.port_file)
        pid = process.read_pid_file(site.data)
        if pid is None:
            return Status("stopped", None, port, site.log_file)
        if not process.is_postmaster(pid, site.data):
            return Status("dead", None, port, site.log_file)
        server = _running(site)
        if server is None or not answers(server):
            return Status("unresponsive", pid, port, site.log_file)
        return Status("running", pid, port, site.log_file, server)


def _start(root: Path, wanted_port: int | None, progress: Progress, lock: int) -> Server:
    found = find_site(root)
    _forget_dead_server(found)  # its children still hold the port
    port = choose_port(wanted_port, found.port_file)
    dist = install(root, progress)
    site = prepare_site(root)
    dist = reachable_dist(site, dist)
    if not site.data.exists():
        progress("creating an empty database")
        _initialise(site, dist, lock)
    _configure(site, port)
    read_credentials(site.root)  # complain before anything runs
    log_bytes = site.log_file.stat().st_size if site.log_file.exists() else 0
    progress(f"starting TimescaleDB on {HOST}:{port}")
    pid = _launch(site, dist)
    server = _server(site, pid, port)
    complaint = _complaint_of(server, START_SILENCE_SECONDS)
    if complaint is not None:
        process.end(pid, site.data, process.UNRESPONSIVE)
        reason = last_failure(site.log_file, log_bytes) or " ".join(complaint.split())
        raise UserError(f"TimescaleDB did not start: {reason}; its log is {site.log_file}")
    create_database(server)
    return server


def _initialise(site: Site, dist: Path, lock: int) -> None:
    """Make an empty cluster beside its place and rename it, so that a half-made one is never taken for one."""
    if site.new_data.exists():
        shutil.rmtree(site.new_data)
    site.new_data.mkdir(mode=0o700)
    site.conf.mkdir(exist_ok=True)
    site.conf.chmod(0o755)
    if site.account:
        os.chown(site.new_data, site.account.uid, site.account.gid)
    credentials = make_credentials(site.root, site.conf, site.account)
    password_file = site.conf / "initdb.password"
    write_file(password_file, credentials.password, private=True, owner=site.account)
    try:
        _run_initdb(site, dist, password_file, lock)
    finally:
        password_file.unlink()
    site.new_data.rename(site.data)


def _run_initdb(site: Site, dist: Path, password_file: Path, lock: int) -> None:
    log = open_log(site.log_file)
    try:
        done = subprocess.run(
            [
                dist / "bin" / "initdb",
                f"--pgdata={site.new_data}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                *LOCALE_ARGUMENTS,
                "--no-instructions",
            ],
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),  # if we are killed, the next run waits for initdb to end before it removes its folder
            check=False,
            **site.run_as(),
        )
    finally:
        os.close(log)
    if done.returncode != 0:
        raise UserError(f"initdb failed: {last_failure(site.log_file)}; its log is {site.log_file}")


def _configure(site: Site, port: int) -> None:
    settings = {
        **SETTINGS,
        "listen_addresses": HOST,
        "port": str(port),
        "unix_socket_directories": "",
        "hba_file": str(site.conf / "pg_hba.conf"),
        "ssl_cert_file": str(site.conf / "server.crt"),
        "ssl_key_file": str(site.conf / "server.key"),
    }
    # What initdb found out about this machine comes first, so that ours wins.
    own = f"include {quote(str(site.data / 'postgresql.conf'))}\n"
    write_file(site.conf / "postgresql.conf", own + render(settings))
    write_file(site.conf / "pg_hba.conf", _ACCESS_RULES)
    write_file(site.port_file, f"{port}\n")


def _launch(site: Site, dist: Path) -> int:
    config_file = site.conf / "postgresql.conf"
    postgres: list[str | Path] = [dist / "bin" / "postgres", "-D", site.data, "-c", f"config_file={config_file}"]
    log = open_log(site.log_file)
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", _IN_BACKGROUND, "sh", *postgres],
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            check=True,
            **site.run_as(),
        )
    finally:
        os.close(log)
    return int(shell.stdout)


def _running(site: Site) -> Server | None:
    pid = process.read_pid_file(site.data)
    port = read_port(site.port_file)
    if pid is None or port is None or not process.is_postmaster(pid, site.data):
        return None
    return _server(site, pid, port)


def _server(site: Site, pid: int, port: int) -> Server:
    credentials = read_credentials(site.root)
    address = make_conninfo(
        host=HOST,
        port=port,
        dbname=DATABASE,
        user=SUPERUSER,
        sslmode="verify-full",
        sslrootcert=str(credentials.ca_file),
    )
    psql = shlex.join([str(site.root / "dist" / "bin" / "psql"), address])
    return Server(
        provider="debian",
        host=HOST,
        port=port,
        dbname=DATABASE,
        user=SUPERUSER,
        password=credentials.password,
        ca_file=credentials.ca_file,
        pid=pid,
        log_file=site.log_file,
        psql_command=f"PGPASSFILE={shlex.quote(str(credentials.pgpass_file))} {psql}",
    )


def _complaint_of(server: Server, silence_seconds: float) -> str | None:
    return wait_until_answers(server, silence_seconds=silence_seconds, is_alive=lambda: process.is_alive(server.pid))


def _stop(site: Site) -> None:
    pid = process.read_pid_file(site.data)
    if pid is None:
        return
    _end(pid, site, process.ORDERLY)
    _forget_dead_server(site)


def _forget_dead_server(site: Site) -> None:
    """Remove the mark of a killed server, once nothing of it works in the data folder any more.

    PostgreSQL itself would not start while its process id is still taken, be it by a zombie or by a stranger.
    """
    if not process.end_orphans(site.data):
        raise UserError(f"Processes of an earlier server still work in {site.data}; see `ps`, end them and try again")
    (site.data / "postmaster.pid").unlink(missing_ok=True)


def _end(pid: int, site: Site, steps: process.Steps) -> None:
    if not process.end(pid, site.data, steps):
        raise UserError(f"TimescaleDB (process {pid}) cannot be ended, not even by SIGKILL; its log is {site.log_file}")
