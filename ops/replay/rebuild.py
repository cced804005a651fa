"""`fleet rebuild`: an empty database filled from S3 alone, and compared with the original."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from lambdas.migrator.migrate import MigrationError, migrate, read_migrations
from lambdas.shared.database import DatabaseSecret, connect
from lambdas.shared.listing import EVERYTHING, Listed
from ops.errors import UserError
from ops.replay.checksum import DaySum, Difference, day_sums, days_with_chunks, differing
from ops.replay.plan import list_objects, read_ledger
from ops.target import connection_fault

_STATEMENT_TIMEOUT_SECONDS = 4 * 3600  # a day of a large fleet is a long aggregate


def open_database(secret: DatabaseSecret, application_name: str) -> psycopg.Connection:
    """A connection in autocommit mode. Raises UserError when the database cannot be reached."""
    try:
        connection = connect(
            secret, application_name=application_name, statement_timeout_seconds=_STATEMENT_TIMEOUT_SECONDS
        )
    except psycopg.OperationalError as error:
        raise UserError(
            f"cannot connect to the database {secret.dbname} at {secret.host}:{secret.port}: {connection_fault(error)}"
        ) from None
    connection.autocommit = True
    return connection


@dataclass(frozen=True)
class Begun:
    """A rebuild that may go on."""

    resumed: bool
    objects: Sequence[Listed]
    """Every version of every object, in the order in which they arrived."""
    pending: Sequence[Listed]
    """Those that the database does not have yet."""


def begin(
    connection: psycopg.Connection, secret: DatabaseSecret, s3: Any, bucket: str, listing: Callable[[int], None]
) -> Begun:
    """Migrates the database, makes sure that it is empty or was being rebuilt from this bucket, and lists the objects.

    Raises UserError when it is not, or cannot be migrated.
    """
    where = f"the database {secret.dbname} at {secret.host}:{secret.port}"
    try:
        migrate(connection, read_migrations())
    except MigrationError as error:
        raise UserError(f"{where} cannot be migrated: {error}") from None
    with connection.transaction():
        connection.execute(
            "CREATE TABLE IF NOT EXISTS ingest.rebuild (bucket text PRIMARY KEY, begun_at timestamptz NOT NULL "
            "DEFAULT clock_timestamp())"
        )
        connection.execute("LOCK TABLE ingest.rebuild IN ACCESS EXCLUSIVE MODE")
        before = connection.execute("SELECT bucket FROM ingest.rebuild").fetchone()
        if before is not None and before[0] != bucket:
            raise UserError(f"{where} is being rebuilt from {before[0]}, not from {bucket}: give an empty one")
        if before is None:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM ingest.objects), EXISTS (SELECT FROM telemetry), "
                "EXISTS (SELECT FROM ingest.quarantine)"
            ).fetchone()
            if row is None or row[0] or row[1] or row[2]:
                raise UserError(
                    f"{where} is not empty (its ledger has {row[0] if row else 0:,} objects): give an empty one with --to, "
                    "or load what this one lacks with fleet replay"
                )
            connection.execute("INSERT INTO ingest.rebuild (bucket) VALUES (%s)", (bucket,))
    objects = list_objects(s3, bucket, [EVERYTHING], all_versions=True, progress=listing)
    ledger = read_ledger(connection, bucket, objects)
    pending = [listed for listed in objects if (listed.key, listed.version_id) not in ledger]
    return Begun(before is not None, objects, pending)


def finish(connection: psycopg.Connection) -> None:
    """From here on the database is one like any other."""
    connection.execute("DROP TABLE IF EXISTS ingest.rebuild")


@dataclass(frozen=True)
class Comparison:
    """Two databases side by side; without an original, only what is in ours."""

    since: date
    """Older readings are past the retention, which the two may have applied at different times."""
    ours: dict[date, DaySum]
    theirs: dict[date, DaySum] | None
    differences: Sequence[Difference] = ()
    arrived_meanwhile: int = 0
    """Objects that the original has loaded since the rebuild listed them; their rows are left out."""
    only_ours: int = 0
    """Objects that the original never loaded."""
    only_theirs: int = 0
    """Objects that the original has loaded and S3 no longer has."""


def compare(
    ours: psycopg.Connection,
    theirs: psycopg.Connection | None,
    *,
    bucket: str,
    listed_at: datetime,
    retention_days: int,
) -> Comparison:
    """Compares the rebuilt database with the original, which may be receiving new objects at the same time.

    `listed_at`: when the objects were about to be listed, by the original's clock.
    """
    since = (datetime.now(UTC) - timedelta(days=retention_days)).date() + timedelta(days=1)
    if theirs is None:
        with _snapshot(ours):
            return Comparison(since, day_sums(ours, _days(ours, since)), None)
    # One snapshot each, so that what is loaded meanwhile is neither half there nor half missing.
    with _snapshot(ours), _snapshot(theirs):
        our_objects, their_objects = _ledger(ours, bucket), _ledger(theirs, bucket)
        only_theirs = [their_objects[name] for name in their_objects.keys() - our_objects.keys()]
        newer = [object_id for object_id, claimed_at in only_theirs if claimed_at > listed_at]
        our_sums = day_sums(ours, _days(ours, since))
        their_sums = day_sums(theirs, _days(theirs, since), without_objects=newer)
        days = differing(our_sums, their_sums)
        our_keys = day_sums(ours, days, keys_only=True)
        their_keys = day_sums(theirs, days, keys_only=True, without_objects=newer)
    return Comparison(
        since,
        our_sums,
        their_sums,
        [
            Difference(day, our_sums.get(day), their_sums.get(day), our_keys.get(day) == their_keys.get(day))
            for day in days
        ],
        arrived_meanwhile=len(newer),
        only_ours=len(our_objects.keys() - their_objects.keys()),
        only_theirs=len(only_theirs) - len(newer),
    )


def _days(connection: psycopg.Connection, since: date) -> list[date]:
    return [day for day in days_with_chunks(connection) if day >= since]


@contextmanager
def _snapshot(connection: psycopg.Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def _ledger(connection: psycopg.Connection, bucket: str) -> dict[tuple[str, str], tuple[int, datetime]]:
    rows = connection.execute(
        "SELECT key, version_id, object_id, claimed_at FROM ingest.objects WHERE bucket = %s", (bucket,)
    )
    return {(key, version_id): (object_id, claimed_at) for key, version_id, object_id, claimed_at in rows}


def clock(connection: psycopg.Connection) -> datetime:
    """What time it is to the server."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101 - for the type checker: a SELECT without FROM has one row
    at: datetime = row[0]
    return at
