"""Which hours are balanced anew, and when: whatever else the database does at that moment, on either edition."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from local.timescaledb.edition import is_community
from tests.functional.rollups import bring_up_to_date
from tests.functional.test_rollups import NOW, Store, line, one_value, reading, store

__all__ = ["store"]

HOUR = NOW.replace(minute=0, second=0) - timedelta(hours=5)
"""Closed, whatever the time."""


def numbered(*numbers: int) -> bytes:
    return line("a", [reading(HOUR + timedelta(seconds=n), seq=n, temperature=20) for n in numbers])


def work_marks_off(connection: psycopg.Connection) -> None:
    """What brings the rollups up to date, and nothing else."""
    if is_community(connection):
        connection.execute("CALL rollup.refresh_touched()")
    while not is_community(connection) and one_value(connection, "SELECT rollup.recompute_next()") is not None:
        pass


def due(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT hour, device_ids FROM ingest.balance_due ORDER BY due_id").fetchall()


def missing(connection: psycopg.Connection) -> dict[datetime, int]:
    return dict(connection.execute("SELECT hour, missing FROM ingest.balance").fetchall())


@pytest.fixture
def another(database_dsn: str) -> Iterator[psycopg.Connection]:
    """A run of maintenance that has not committed yet."""
    with psycopg.connect(database_dsn) as connection:
        yield connection
        connection.rollback()


def test_readings_that_come_while_their_hour_is_balanced_are_balanced_after_it(
    store: Store, another: psycopg.Connection
) -> None:
    store.load(numbered(1, 4))
    work_marks_off(store.connection)
    # As the hour has it that has just closed.
    store.connection.execute("INSERT INTO ingest.balance_due (hour) VALUES (%s)", (HOUR,))
    assert one_value(another, "SELECT ingest.balance_next()") == 1
    store.load(numbered(2, 3))
    work_marks_off(store.connection)
    assert one_value(store.connection, "SELECT ingest.balance_next()") is None, "one at a time"
    another.commit()
    assert missing(store.connection) == {HOUR: 2}
    bring_up_to_date(store.connection)
    assert missing(store.connection) == {HOUR: 0}
    assert due(store.connection) == []


def test_late_readings_that_always_come_hold_nothing_up_and_rollups_that_are_behind_do(store: Store) -> None:
    connection = store.connection
    store.load(numbered(1, 4))
    work_marks_off(connection)
    store.load(numbered(3))
    connection.execute("UPDATE ingest.touched SET touched_at = touched_at - interval '3 minutes'")
    assert one_value(connection, "SELECT ingest.balance_next()") is None
    connection.execute("UPDATE ingest.touched SET touched_at = now() + interval '1 hour'")
    assert one_value(connection, "SELECT ingest.balance_next()") == 1
    bring_up_to_date(connection)
    assert missing(connection) == {HOUR: 1}


def test_of_a_closed_hour_only_the_devices_are_due_whose_readings_came_late(store: Store) -> None:
    connection = store.connection
    closed = "date_trunc('hour', now() - interval '1 hour' - ingest.balance_delay(), 'UTC')"
    with connection.transaction():
        connection.execute(
            f"INSERT INTO ingest.touched (first, last, device_ids) SELECT at, at, '{{a}}' FROM unnest(ARRAY["
            f"{closed} + interval '59 minutes 59 seconds', {closed} + interval '60 minutes']) at".encode()
        )
        connection.execute("DELETE FROM ingest.touched")
    assert [device_ids for _, device_ids in sorted(due(connection), key=lambda each: each[0])] == [["a"], None]


def test_of_devices_that_send_no_numbers_nothing_is_said(store: Store) -> None:
    store.load(line("a", [{"ts": reading(HOUR)["ts"], "temperature": 20}]), line("b", [reading(HOUR, seq=7)]))
    done = bring_up_to_date(store.connection)
    assert (done.balances_written, done.balance_expected) == (1, 1)
    by_reading = "SELECT count(*) FROM ingest.sequence_balance(%s, NULL, true)"
    assert store.connection.execute(by_reading, (HOUR,)).fetchone() == (1,)
