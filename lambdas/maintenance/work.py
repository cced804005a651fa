"""What maintenance does to the database, as often and as long as it likes: every step is idempotent and commits by itself.

On the Community edition a job of the database refreshes the rollups (`rollup.refresh_touched`); here is only counted what
it did. On the Apache edition `rollup.recompute_next` computes one hour anew at each call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import psycopg


@dataclass(frozen=True)
class Done:
    """What one run did, and what it left."""

    buckets_recomputed: int
    """Of all levels, by this run or, on the Community edition, since the run before."""
    oldest_touched_seconds: float
    """For how long the oldest change waits that the rollups do not show yet; 0 when none does."""
    chunks_dropped: int
    unfinished: bool
    """Time was up before everything was worked off; the next run goes on."""


def maintain(connection: psycopg.Connection, enough: Callable[[], bool] = lambda: False) -> Done:
    """Works off what loads have touched until nothing is left or it is `enough`. Two at once: one does the work.

    The connection is in autocommit mode, so that each step is a transaction. Raises psycopg.Error; what is committed by
    then stays done, and what is not stays marked.
    """
    unfinished = False
    recomputed = 0.0
    while not unfinished and (buckets := _value(connection, "SELECT rollup.recompute_next()")) is not None:
        recomputed += buckets
        unfinished = enough()
    dropped = _value(connection, "SELECT rollup.drop_expired()")
    recomputed += _value(connection, "SELECT rollup.take_recomputed()") or 0
    oldest = _value(connection, "SELECT extract(epoch FROM clock_timestamp() - min(since)) FROM rollup.waiting")
    return Done(int(recomputed), max(0.0, float(oldest or 0)), int(dropped or 0), unfinished)


def _value(connection: psycopg.Connection, query: str) -> float | None:
    row = connection.execute(query.encode()).fetchone()
    return cast(float | None, row[0]) if row else None
