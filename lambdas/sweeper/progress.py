"""How far a sweep over everything has come, kept in the database from one run to the next."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg

from lambdas.shared.listing import Marker
from lambdas.sweeper.sweep import Findings

_LOCK = 0x7377656570  # "sweep": whoever is at a sweep over everything holds this advisory lock


@dataclass(frozen=True)
class Progress:
    """What the parts of a sweep have found together, and where it goes on."""

    after: Marker | None = None
    """None: at the beginning, or, of a sweep that has run, at its end."""
    listed: int = 0
    never_loaded: int = 0
    announced: int = 0
    archived: int = 0
    oldest: datetime | None = None

    def plus(self, found: Findings) -> "Progress":
        """With another part."""
        return replace(
            self,
            after=found.unfinished,
            listed=self.listed + found.listed,
            never_loaded=self.never_loaded + found.never_loaded,
            announced=self.announced + found.announced,
            archived=self.archived + found.archived,
            oldest=min((at for at in (self.oldest, found.oldest) if at is not None), default=None),
        )


@contextmanager
def only_one(connection: psycopg.Connection) -> Iterator[bool]:
    """Whether no other run is at a sweep over everything; none will be within the block.

    The lock is the connection's: a run that dies, or loses its connection, holds it no longer.
    """
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
    ours = row == (True,)
    try:
        yield ours
    finally:
        if ours and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))


def load(connection: psycopg.Connection, bucket: str) -> Progress | None:
    """The sweep that ran out of time, or None when none did."""
    row = connection.execute(
        "SELECT key, version_id, deleted, listed, never_loaded, announced, archived, oldest "
        "FROM ingest.whole_sweep WHERE bucket = %s",
        (bucket,),
    ).fetchone()
    return Progress(Marker(*row[:3]), *row[3:]) if row else None


def save(connection: psycopg.Connection, bucket: str, progress: Progress) -> None:
    """Keeps where the sweep goes on; of one that is at its end, nothing."""
    if progress.after is None:
        connection.execute("DELETE FROM ingest.whole_sweep WHERE bucket = %s", (bucket,))
        return
    connection.execute(
        "INSERT INTO ingest.whole_sweep "
        "(bucket, key, version_id, deleted, listed, never_loaded, announced, archived, oldest) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (bucket) DO UPDATE SET "
        "(key, version_id, deleted, listed, never_loaded, announced, archived, oldest) = (excluded.key, "
        "excluded.version_id, excluded.deleted, excluded.listed, excluded.never_loaded, excluded.announced, "
        "excluded.archived, excluded.oldest)",
        (
            bucket,
            *progress.after,
            progress.listed,
            progress.never_loaded,
            progress.announced,
            progress.archived,
            progress.oldest,
        ),
    )
