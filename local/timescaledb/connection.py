"""How a client reaches the local database."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ops.errors import UserError

DATABASE = "iot_analytics"
SUPERUSER = "postgres"
HOST = "127.0.0.1"

_CONNECT_TIMEOUT_SECONDS = 2  # libpq takes no less
_POLL_SECONDS = 0.02

Provider = Literal["debian", "docker"]
State = Literal["stopped", "running", "unresponsive", "dead"]


@dataclass(frozen=True)
class Server:
    """A running TimescaleDB and the superuser of it."""

    provider: Provider
    host: str
    port: int
    dbname: str
    user: str
    password: str = field(repr=False)
    ca_file: Path
    pid: int
    log_file: Path
    psql_command: str  # a line for a shell; it holds no password

    @property
    def dsn(self) -> str:
        """A libpq connection string with the password; the server's certificate is verified."""
        return self.dsn_of(self.dbname)

    def dsn_of(self, dbname: str) -> str:
        """The same for another database of this server."""
        return make_conninfo(
            host=self.host,
            port=self.port,
            dbname=dbname,
            user=self.user,
            password=self.password,
            sslmode="verify-full",
            sslrootcert=str(self.ca_file),
        )


@dataclass(frozen=True)
class Status:
    """What is known of the local database without changing anything.

    `dead`: it was started and ended without being stopped. `unresponsive`: its process is there but answers no query.
    `server` is given when it runs.
    """

    state: State
    pid: int | None
    port: int | None
    log_file: Path
    server: Server | None = None


def answers(server: Server) -> bool:
    """Whether the server answers a query now."""
    return _complaint(server) is None


def wait_until_answers(server: Server, *, silence_seconds: float, is_alive: Callable[[], bool]) -> str | None:
    """Wait for an answer to a query; None when it came, else the last complaint of the client.

    Gives up when the process is gone, or after `silence_seconds` without a sign of progress. A server that says that
    it is starting up is recovering after a crash: that takes as long as its log is, so it counts as progress.
    """
    silent_since = time.monotonic()
    while (complaint := _complaint(server)) is not None:
        if "the database system is starting up" in complaint:
            silent_since = time.monotonic()
        if not is_alive() or time.monotonic() - silent_since > silence_seconds:
            return complaint
        time.sleep(_POLL_SECONDS)
    return None


def create_database(server: Server) -> None:
    """Make the database and the extension in it, whichever is not there yet. Raises UserError when it cannot."""
    try:
        _create_database(server)
        _create_extension(server)
    except psycopg.Error as error:
        raise UserError(
            f"The database {server.dbname} cannot be made: {' '.join(str(error).split())}; the log is {server.log_file}"
        ) from error


def _create_database(server: Server) -> None:
    with psycopg.connect(server.dsn_of("postgres"), autocommit=True) as connection:
        exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [server.dbname]).fetchone()
        if exists is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(server.dbname)))


def _create_extension(server: Server) -> None:
    with psycopg.connect(server.dsn) as connection:
        if connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'").fetchone() is not None:
            return
        connection.execute("CREATE EXTENSION timescaledb")
        # Job 3 prunes the history of jobs, by code that the Apache edition does not have: there it fails for ever. In
        # the same transaction, so that the scheduler never sees it enabled.
        connection.execute(
            "UPDATE _timescaledb_config.bgw_job SET scheduled = false"
            " WHERE id = 3 AND current_setting('timescaledb.license') = 'apache'"
        )


def _complaint(server: Server) -> str | None:
    try:
        with psycopg.connect(
            server.dsn_of("postgres"), connect_timeout=_CONNECT_TIMEOUT_SECONDS, autocommit=True
        ) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return str(error)
    return None
