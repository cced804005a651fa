"""The Community edition of TimescaleDB as a Docker container, for whoever asks for it.

The same address, certificate check and settings as the server of Debian's packages. Written after the manuals: so far
it has not met a real Docker engine, only the lack of one.
https://hub.docker.com/r/timescale/timescaledb  https://hub.docker.com/_/postgres
"""

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

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
from local.timescaledb.credentials import have_credentials, make_credentials, read_credentials
from local.timescaledb.locking import exclusive, os_errors_for_users
from local.timescaledb.packages import Progress
from local.timescaledb.placement import write_file
from local.timescaledb.ports import choose_port, read_port, refuse_other_port
from local.timescaledb.server_log import last_failure
from local.timescaledb.settings import LOCALE_ARGUMENTS, SETTINGS
from ops.errors import UserError

IMAGE = "timescale/timescaledb:2.19.3-pg17"  # the version of Debian's package
START_SILENCE_SECONDS = 120.0

_COMMAND_DEADLINE_SECONDS = 60.0
_PULL_DEADLINE_SECONDS = 1800.0
# From the host a client arrives over Docker's bridge; the port is published on the host's 127.0.0.1 only.
_ACCESS_RULES = "local all all peer\nhostssl all all all scram-sha-256\n"
# The server takes its key only from a file of its own user, which a file of the host never is.
_ENTRY = (
    "install -d -o postgres -g postgres -m 700 /run/fleetledger"
    " && install -o postgres -g postgres -m 600 /fleetledger/server.key /run/fleetledger/server.key"
    ' && exec docker-entrypoint.sh postgres "$@"'
)


def is_available() -> bool:
    """Whether the docker command is here and its engine answers."""
    try:
        _require_engine()
    except UserError:
        return False
    return True


def start(root: Path, port: int | None = None, progress: Progress = lambda _message: None) -> Server:
    """Make the container of `root` run and answer, and return it; its data are a Docker volume.

    Raises UserError when Docker is missing or its engine silent, the port taken, or when the server does not start.
    """
    folder = _folder(root)
    _require_engine()  # before anything is left in the folder
    with exclusive(folder / "lock"), os_errors_for_users(folder):
        running = _running(folder)
        if running is not None:
            refuse_other_port(port, running.port)
            if answers(running):
                return running
        _remove_container(folder)
        port = choose_port(port, folder / "port")
        progress(f"starting {IMAGE} on {HOST}:{port}; the first time Docker downloads it")
        _run_container(folder, port)
        server = _running(folder)
        complaint = "its container ended"
        if server is not None:
            complaint = (
                wait_until_answers(
                    server,
                    silence_seconds=START_SILENCE_SECONDS,
                    is_alive=lambda: _container_pid(folder) is not None,
                )
                or ""
            )
        _save_log(folder)
        if server is None or complaint:
            reason = last_failure(folder / "postgres.log") or complaint
            raise UserError(f"TimescaleDB did not start in Docker: {reason}; its log is {folder / 'postgres.log'}")
        create_database(server)
        return server


def stop(root: Path) -> None:
    """Shut the container down and remove it; the volume with the data stays."""
    folder = _folder(root)
    if not folder.is_dir():
        return
    with exclusive(folder / "lock"), os_errors_for_users(folder):
        _require_engine()
        _save_log(folder)
        _remove_container(folder)


def destroy(root: Path) -> None:
    """Stop, and remove the volume and the credentials. The image stays."""
    folder = _folder(root)
    if not folder.is_dir():
        return
    stop(root)
    _docker("volume", "rm", "--force", _name(folder))
    with os_errors_for_users(folder):
        shutil.rmtree(folder)


def status(root: Path) -> Status:
    """What the container of `root` does now; changes nothing."""
    folder = _folder(root)
    log_file, port = folder / "postgres.log", read_port(folder / "port")
    if not folder.is_dir():
        return Status("stopped", None, port, log_file)
    _require_engine()
    state = _container_state(folder)
    if state is None:
        return Status("stopped", None, port, log_file)
    server = _running(folder)
    if server is None:
        return Status("dead", None, port, log_file)
    if not answers(server):
        return Status("unresponsive", server.pid, port, log_file)
    return Status("running", server.pid, port, log_file, server)


def _run_container(folder: Path, port: int) -> None:
    if not have_credentials(folder):
        if _docker("volume", "ls", "--quiet", "--filter", f"name=^{_name(folder)}$").strip():
            raise UserError(
                f"The password of the Docker volume {_name(folder)} is gone from {folder}; "
                "remove the volume with `docker volume rm` to start with an empty database"
            )
        (folder / "conf").mkdir(exist_ok=True)
        (folder / "conf").chmod(0o755)  # whatever our umask: the server's user in the container reads it
        make_credentials(folder, folder / "conf")
    credentials = read_credentials(folder)
    write_file(folder / "conf" / "pg_hba.conf", _ACCESS_RULES)
    write_file(folder / "conf" / "password", credentials.password, private=True)
    write_file(folder / "port", f"{port}\n")
    settings = {
        **SETTINGS,
        "hba_file": "/fleetledger/pg_hba.conf",
        "ssl_cert_file": "/fleetledger/server.crt",
        "ssl_key_file": "/run/fleetledger/server.key",
    }
    _docker(
        *("run", "--detach", "--name", _name(folder), "--publish", f"{HOST}:{port}:5432", "--shm-size", "256m"),
        *("--mount", f"type=volume,source={_name(folder)},target=/var/lib/postgresql/data"),
        *("--mount", f"type=bind,source={folder / 'conf'},target=/fleetledger,readonly"),
        # The password is read from the mounted file: it shows neither here nor in `docker inspect`.
        *("--env", "POSTGRES_PASSWORD_FILE=/fleetledger/password", "--env", f"POSTGRES_USER={SUPERUSER}"),
        *("--env", f"POSTGRES_INITDB_ARGS={' '.join(LOCALE_ARGUMENTS)}"),
        *("--env", "TIMESCALEDB_TELEMETRY=off", "--env", "NO_TS_TUNE=true"),
        *("--entrypoint", "/bin/sh", IMAGE, "-c", _ENTRY, "sh"),
        *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        deadline_seconds=_PULL_DEADLINE_SECONDS,
    )


def _running(folder: Path) -> Server | None:
    pid, port = _container_pid(folder), read_port(folder / "port")
    if pid is None or port is None:
        return None
    credentials = read_credentials(folder)
    return Server(
        provider="docker",
        host=HOST,
        port=port,
        dbname=DATABASE,
        user=SUPERUSER,
        password=credentials.password,
        ca_file=credentials.ca_file,
        pid=pid,
        log_file=folder / "postgres.log",
        psql_command=shlex.join(["docker", "exec", "-it", "-u", SUPERUSER, _name(folder), "psql", DATABASE]),
    )


def _container_pid(folder: Path) -> int | None:
    running, _, pid = (_container_state(folder) or "").partition(" ")
    return int(pid) if running == "true" else None


def _container_state(folder: Path) -> str | None:
    """Either `true PID` or `false 0`; None when there is no such container."""
    if not _docker("ps", "--all", "--quiet", "--filter", f"name=^{_name(folder)}$").strip():
        return None
    return _docker("inspect", "--format", "{{.State.Running}} {{.State.Pid}}", _name(folder)).strip()


def _remove_container(folder: Path) -> None:
    if _container_state(folder) is not None:
        _docker("stop", "-t", "30", _name(folder))
        _docker("rm", "--force", _name(folder))


def _save_log(folder: Path) -> None:
    if _container_state(folder) is not None:
        write_file(folder / "postgres.log", _docker("logs", _name(folder)), private=True)


def _folder(root: Path) -> Path:
    return root.resolve() / "docker"


def _name(folder: Path) -> str:
    """One container and one volume per checkout."""
    return f"fleetledger-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"


def _require_engine() -> None:
    if shutil.which("docker") is None:
        raise UserError(
            "TimescaleDB in Docker needs the docker command, which is not installed; install it, give a database of "
            "your own in FLEET_DATABASE_URL, or use Debian's packages with `--database debian`"
        )
    try:
        _docker("version", "--format", "{{.Server.Version}}")
    except UserError as error:
        raise UserError(
            f"Docker's engine does not answer ({error}); start it, give a database of your own in FLEET_DATABASE_URL, "
            "or use Debian's packages with `--database debian`"
        ) from error


def _docker(*arguments: str, deadline_seconds: float = _COMMAND_DEADLINE_SECONDS) -> str:
    """Run docker and return what it prints (for `logs`, both streams of the server)."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if arguments[0] == "logs" else subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=deadline_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"Docker did not finish `docker {arguments[0]}` in {deadline_seconds:.0f} s; look at its engine"
        ) from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"`docker {arguments[0]}` failed: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout
