"""What maintenance does to the database, as often and as long as it likes: every step is idempotent and commits by itself.

On the Community edition a job of the database refreshes the rollups (`rollup.refresh_touched`); here is only counted what
it did. On the Apache edition `rollup.recompute_next` computes one hour anew at each call. `ingest.balance_next` then draws up
the balance of one closed hour at each call (docs/audit.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import psycopg


@dataclass(frozen=True)
class Done:
    """What one run did, and what it left."""

    buckets_recomputed: int
    """Of all levels, by this run or, on the Community edition, since the run before."""
    oldest_touched_seconds: float
    """For how long the oldest change waits that the rollups do not show yet; 0 when none does."""
    chunks_dropped: int
    """Of readings and rollups."""
    balances_written: int
    """Of a device and an hour."""
    balance_expected: int
    """Readings that there should be of the last 24 closed hours, by sequence numbers."""
    balance_missing_ppm: float
    """Those of them that are nowhere, in parts per million."""
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
    written = 0.0
    while not unfinished and (rows := _value(connection, "SELECT ingest.balance_next()")) is not None:
        written += rows
        unfinished = enough()
    _value(connection, "SELECT ingest.drop_expired_balance()")
    expected, missing_ppm = _row(connection, "SELECT expected, missing_ppm FROM ingest.balance_lately")
    return Done(
        buckets_recomputed=int(recomputed),
        oldest_touched_seconds=max(0.0, float(oldest or 0)),
        chunks_dropped=int(dropped or 0),
        balances_written=int(written),
        balance_expected=int(expected),
        balance_missing_ppm=float(missing_ppm),
        unfinished=unfinished,
    )


def _value(connection: psycopg.Connection, query: str) -> float | None:
    return cast(float | None, _row(connection, query)[0])


def _row(connection: psycopg.Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101 - for the type checker: each of them has one row
    return row
