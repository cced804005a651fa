"""The local environment as a whole: `up` mends whatever is not running, `status` says what is, `down` leaves nothing."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg

from infra.settings import load
from lambdas.migrator.migrate import MigrationError, migrate, read_migrations
from lambdas.shared.database import DatabaseSecret, connect
from lambdas.shared.logins import set_login
from local import deployment, processes, timescaledb
from local import emulator as emulators
from local.firehose import process as firehose
from local.given_database import parse_dsn
from local.ports import choose
from local.session import emulator_session
from local.state import Database, Emulator, State, StateFile
from ops.errors import UserError
from ops.paths import LOCAL

Progress = Callable[[str], None]
DatabaseKind = Literal["auto", "debian", "docker"]


@dataclass(frozen=True)
class Ports:
    """Ports to use; None is any free one."""

    emulator: int | None = None
    mqtt: int | None = None
    database: int | None = None


@dataclass(frozen=True)
class Part:
    """One part of the local environment, for `fleet status`."""

    name: str
    running: bool
    detail: str
    log: str


def read_state(root: Path = LOCAL) -> State:
    """What is known of the local environment."""
    return StateFile(root).read()


def running_emulator(root: Path = LOCAL) -> Emulator:
    """The emulator of the running local environment. Raises UserError when there is none."""
    emulator = StateFile(root).read().emulator
    if emulator is None or not processes.is_running(emulator.process):
        raise UserError("the local environment is not running: start it with fleet up")
    return emulator


def up(
    progress: Progress,
    *,
    root: Path = LOCAL,
    ports: Ports = Ports(),
    database: DatabaseKind = "auto",
    database_url: str | None = None,
) -> State:
    """Starts what is not running, deploys what is not deployed. Raises UserError with one line when a part fails."""
    file = StateFile(root)
    with file.locked():
        before = file.read()
        _preflight(ports, before)
        where, admin = _database(root, ports.database, database, database_url, progress)
        emulator = before.emulator
        deployed, delivery = before.deployed, before.firehose
        if emulator is None or not processes.is_running(emulator.process) or not emulators.answers(emulator):
            if emulator is not None:
                progress("the AWS emulator was dead: starting it again")
                processes.stop(emulator.process)
            python = emulators.install(root / "emulator", progress)
            progress("starting the AWS emulator")
            emulator = emulators.start(
                root / "emulator", python, port=ports.emulator, mqtt_port=ports.mqtt, before=emulator
            )
            deployed = None
        file.write(State(emulator, where, delivery, deployed))
        fingerprint = deployment.fingerprint()
        if deployed != fingerprint:
            deployment.deploy(root / "deployment", emulator, progress)
            deployed = fingerprint
        _migrate(emulator, admin, progress)
        file.write(State(emulator, where, delivery, deployed))
        fresh = before.emulator is None or before.emulator.process != emulator.process
        if fresh or not processes.is_running(delivery):
            if delivery is not None:
                progress("the Firehose process was dead: starting it again")
                processes.stop(delivery)
            progress("starting the Firehose process")
            delivery = firehose.start(root / "firehose", emulator, emulator_session(emulator.port).client("iot"))
        state = State(emulator, where, delivery, deployed)
        file.write(state)
        return state


def _preflight(ports: Ports, before: State) -> None:
    """Finds what would stop `up` half-way before anything is started."""
    deployment.check_tools()
    emulator = before.emulator
    if emulator is None or not processes.is_running(emulator.process):
        choose(ports.emulator, what="the AWS emulator")
        choose(ports.mqtt, what="the MQTT listener")
    elif (ports.emulator or emulator.port, ports.mqtt or emulator.mqtt_port) != (emulator.port, emulator.mqtt_port):
        raise UserError(
            f"the AWS emulator runs already, on ports {emulator.port} and {emulator.mqtt_port}: fleet down first"
        )


def _database(
    root: Path, port: int | None, kind: DatabaseKind, url: str | None, progress: Progress
) -> tuple[Database, DatabaseSecret]:
    """The database's place, and the admin's way in."""
    given = url or os.environ.get("FLEET_DATABASE_URL")
    if given:
        secret = parse_dsn(given)
        return Database("given", secret.host, secret.port, secret.dbname), secret
    server = timescaledb.provide(kind, root / "timescaledb", port, progress)
    secret = DatabaseSecret(
        host=server.host,
        port=server.port,
        dbname=server.dbname,
        username=server.user,
        password=server.password,
        ca=server.ca_file.read_text(),
    )
    return Database(server.provider, server.host, server.port, server.dbname), secret


def _migrate(emulator: Emulator, admin: DatabaseSecret, progress: Progress) -> None:
    """Fills in the deployed secrets and brings the schema up to date, as an operator does after a first deployment."""
    secrets = emulator_session(emulator.port).client("secretsmanager")
    names = load("local").names
    where: dict[str, Any] = {"host": admin.host, "port": admin.port, "dbname": admin.dbname, "ca": admin.ca}
    credentials = {"username": admin.username, "password": admin.password}
    _fill_in(secrets, names.secret("admin"), where | credentials)
    logins = [_fill_in(secrets, names.secret(role), where) for role in ("loader", *load("local").consumers)]
    try:
        with connect(admin, application_name="fleet up", statement_timeout_seconds=300) as connection:
            applied = migrate(connection, read_migrations())
            for login in logins:
                set_login(connection, login["username"], login["password"])
    except (psycopg.Error, MigrationError) as error:
        raise UserError(
            f"cannot migrate the database at {admin.host}:{admin.port}: {str(error).splitlines()[0]}"
        ) from None
    if applied:
        progress(f"applied {len(applied)} migrations to {admin.dbname}")


def _fill_in(secrets: Any, name: str, members: dict[str, Any]) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(secrets.get_secret_value(SecretId=name)["SecretString"])
    if held | members != held:
        secrets.put_secret_value(SecretId=name, SecretString=msgspec.json.encode(held | members).decode())
    return held | members


def status(root: Path = LOCAL) -> list[Part]:
    """Every part: whether it runs, where, and the place of its log."""
    state = StateFile(root).read()
    return [_database_part(root, state), _emulator_part(root, state), _firehose_part(root, state)]


def _database_part(root: Path, state: State) -> Part:
    database = state.database
    if database is None:
        return Part("TimescaleDB", False, "not started", "")
    where = f"{database.host}:{database.port}/{database.dbname} ({database.kind})"
    if database.kind == "given":
        return Part("TimescaleDB", True, where, "its own")
    server = timescaledb.status(root / "timescaledb")
    return Part(
        "TimescaleDB",
        server.state == "running",
        where if server.state == "running" else server.state,
        str(server.log_file),
    )


def _emulator_part(root: Path, state: State) -> Part:
    emulator = state.emulator
    if emulator is None:
        return Part("AWS emulator", False, "not started", "")
    alive = processes.is_running(emulator.process)
    if not alive or not emulators.answers(emulator):
        return Part("AWS emulator", False, "does not answer" if alive else "dead", emulator.process.log)
    detail = f"http://{emulators.HOST}:{emulator.port}, MQTT {emulators.HOST}:{emulator.mqtt_port}"
    if state.deployed is None:
        return Part("AWS emulator", False, f"{detail}; nothing deployed", str(root / "deployment"))
    return Part("AWS emulator", True, detail, emulator.process.log)


def _firehose_part(root: Path, state: State) -> Part:
    if state.firehose is None:
        return Part("Firehose", False, "not started", "")
    alive = processes.is_running(state.firehose)
    return Part("Firehose", alive, f"process {state.firehose.pid}" if alive else "dead", state.firehose.log)


def down(progress: Progress, root: Path = LOCAL) -> None:
    """Stops every part and removes its data; what was downloaded stays, so that the next `up` is quick."""
    file = StateFile(root)
    if not root.exists():
        return
    with file.locked():
        state = file.read()
        started = {"Firehose": state.firehose, "AWS emulator": state.emulator.process if state.emulator else None}
        for name, process in started.items():
            if process is not None:
                progress(f"stopping {name}")
                processes.stop(process)
        if state.database is None or state.database.kind != "given":
            progress("stopping TimescaleDB")
            timescaledb.destroy(root / "timescaledb")
        for folder in ("firehose", "deployment", "certs", "emulator/tmp"):
            shutil.rmtree(root / folder, ignore_errors=True)
        file.write(State())
