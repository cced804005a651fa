"""Applies the numbered SQL files in `migrations/`: each once, in order, in a transaction of its own, under a lock."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
from psycopg import errors, sql

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x666C656574  # "fleet": whoever migrates this database takes this advisory lock
_ATTEMPTS = 8


class MigrationError(Exception):
    """The schema cannot be brought up to date; the message names the migration and the reason."""


@dataclass(frozen=True)
class Migration:
    """One file, `NNNN_what_it_does.sql`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, so that a file changed after it was applied is noticed."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The migrations in `folder` in order. Raises MigrationError when a number is missing or used twice."""
    migrations = []
    for expected, path in enumerate(sorted(folder.glob("*.sql")), start=1):
        number, _, name = path.stem.partition("_")
        if not number.isdecimal() or int(number) != expected:
            raise MigrationError(f"{path.name}: expected number {expected:04}; migrations are numbered without gaps")
        migrations.append(Migration(expected, name, path.read_text(encoding="utf-8")))
    return migrations


def migrate(connection: psycopg.Connection, migrations: list[Migration]) -> list[Migration]:
    """Applies what is not yet applied and returns it. Two at once: one waits, then finds nothing to do.

    Raises MigrationError when the database and the files disagree, or when a migration fails (it is rolled back).
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        try:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS ingest")
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS ingest.migrations (version integer PRIMARY KEY, name text NOT NULL, "
                "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
            cursor.execute("SELECT version, checksum FROM ingest.migrations ORDER BY version")
            applied: dict[int, str] = dict(cursor.fetchall())
            _check_history(applied, migrations)
            pending = [migration for migration in migrations if migration.version not in applied]
            for migration in pending:
                _apply(connection, cursor, migration)
        finally:
            if not connection.closed:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
    return pending


def apply_settings(connection: psycopg.Connection, settings: Mapping[str, int]) -> None:
    """Makes the database keep readings as `settings` say: columns of ingest.settings, and their values.

    Raises psycopg.Error where it knows no such setting, or the value makes no sense; then nothing is changed.
    """
    columns = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in settings.items()
    )
    with connection.transaction():
        connection.execute(sql.SQL("UPDATE ingest.settings SET {}").format(columns))
        connection.execute("SELECT ingest.apply_settings()")


def _check_history(applied: dict[int, str], migrations: list[Migration]) -> None:
    known = {migration.version: migration for migration in migrations}
    for version, checksum in applied.items():
        if version not in known:
            raise MigrationError(
                f"the database is at migration {version:04}, which this release does not have: deploy a newer release"
            )
        if known[version].checksum != checksum:
            raise MigrationError(
                f"migration {version:04}_{known[version].name} was changed after it was applied: "
                "restore the file and put the change into a new migration"
            )


def _apply(connection: psycopg.Connection, cursor: psycopg.Cursor, migration: Migration) -> None:
    for attempt in count(1):
        try:
            with connection.transaction():
                cursor.execute(migration.text.encode())
                cursor.execute(
                    "INSERT INTO ingest.migrations (version, name, checksum) VALUES (%s, %s, %s)",
                    (migration.version, migration.name, migration.checksum),
                )
        except psycopg.Error as error:
            if attempt == _ATTEMPTS or not _met_a_job(error):
                reason = error.diag.message_primary or type(error).__name__
                raise MigrationError(f"migration {migration.version:04}_{migration.name} failed: {reason}") from error
            time.sleep(attempt / 4)
        else:
            return


def _met_a_job(error: psycopg.Error) -> bool:
    """The database's own jobs (rollups, columnstore) change what migrations grant on and alter; either may lose."""
    if isinstance(error, errors.DeadlockDetected):
        return True
    return isinstance(error, errors.InternalError_) and "concurrently" in (error.diag.message_primary or "")
