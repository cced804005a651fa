"""The database of a benchmark: on a server of one's own choice, or on one for the time of the benchmark."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from rich.console import Console

from lambdas.migrator.migrate import migrate, read_migrations
from local import timescaledb
from ops.errors import UserError
from ops.paths import LOCAL


@contextmanager
def benchmark_server(console: Console) -> Iterator[tuple[str, str]]:
    """The DSN of a migrated, empty database, and a psql: on FLEET_DATABASE_URL's server, or one of Debian's packages.

    Raises UserError when there is no psql, or the server cannot be reached.
    """
    psql, dsn = shutil.which("psql"), os.environ.get("FLEET_DATABASE_URL") or None
    with ExitStack() as undo:
        if dsn is None:
            own = LOCAL / "bench" / "timescaledb"
            undo.callback(timescaledb.destroy, own)
            dsn = timescaledb.provide("debian", own, progress=lambda text: console.print(f"[dim]{text}")).dsn
            psql = str(own / "dist" / "bin" / "psql")
        if psql is None:
            raise UserError("no psql on the PATH: apt-get install postgresql-client")
        yield undo.enter_context(_database(dsn)), psql


@contextmanager
def _database(server_dsn: str) -> Iterator[str]:
    name = f"fleet_bench_{os.getpid()}"
    try:
        admin = psycopg.connect(server_dsn, autocommit=True)
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(f"FLEET_DATABASE_URL: cannot connect: {reason}") from None
    with admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        dsn = make_conninfo(server_dsn, dbname=name)
        with psycopg.connect(dsn) as connection:
            migrate(connection, read_migrations())
        yield dsn
    finally:
        with psycopg.connect(server_dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
