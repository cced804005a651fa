"""Databases for tests: each of its own name, dropped at the end."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lambdas.migrator.migrate import migrate, read_migrations


@contextmanager
def copied_database(server_dsn: str, template: str, name: str) -> Iterator[str]:
    """The DSN of a copy of the migrated database `template`."""
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    with _database(server_dsn, name, statement) as dsn:
        yield dsn


@contextmanager
def empty_database(server_dsn: str, name: str) -> Iterator[str]:
    """The DSN of a database without a schema."""
    with _database(server_dsn, name, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))) as dsn:
        yield dsn


@contextmanager
def migrated_database(server_dsn: str, name: str) -> Iterator[str]:
    """The DSN of a database that was migrated for itself: rights on a database, unlike those in it, are not copied."""
    with empty_database(server_dsn, name) as dsn:
        with psycopg.connect(dsn) as connection:
            migrate(connection, read_migrations())
        yield dsn


@contextmanager
def _database(server_dsn: str, name: str, create: sql.Composed) -> Iterator[str]:
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(create)
        try:
            yield make_conninfo(server_dsn, dbname=name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
