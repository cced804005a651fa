"""Episodes of `anomalies`: opened, extended, resolved; whoever records them, in whatever order and how many at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from lambdas.shared.anomalies import Finding, merged, record

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
NOW = datetime.now(UTC).replace(microsecond=0)


def spike(
    device: str = "d-1", ago: timedelta = SECOND, *, lasting: timedelta = timedelta(0), **changed: Any
) -> Finding:
    """One that began so long ago."""
    whole = Finding(
        device_id=device,
        metric="temperature",
        kind="spike",
        severity="warning",
        started_at=NOW - ago,
        last_at=NOW - ago + lasting,
        readings=1,
        value=80.0,
        expected=20.0,
        score=6.0,
        metadata=None,
    )
    return replace(whole, **changed)


@pytest.fixture(autouse=True)
def _now() -> None:
    """When a test begins, and not when the file was read: what is late depends on it."""
    global NOW  # noqa: PLW0603
    NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def loader(database_dsn: str) -> Iterator[psycopg.Connection]:
    """With the loader's rights and no more."""
    with psycopg.connect(database_dsn, autocommit=True) as opened:
        opened.execute("SET ROLE iot_loader")
        yield opened


def found(connection: psycopg.Connection, *findings: Finding) -> list[dict[str, Any]]:
    """Records, and what there is then."""
    with connection.cursor() as cursor:
        record(cursor, findings)
    return episodes(connection)


def episodes(connection: psycopg.Connection) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM anomalies ORDER BY anomaly_id").fetchall()


# What is recorded.


def test_a_finding_opens_an_episode_and_those_that_follow_extend_it(loader: psycopg.Connection) -> None:
    [opened] = found(loader, spike(ago=60 * SECOND, metadata={"window": 60}))
    assert opened["resolved_at"] is None
    assert abs(opened["detected_at"] - datetime.now(UTC)) < MINUTE
    [extended] = found(
        loader, spike(ago=30 * SECOND, lasting=5 * SECOND, readings=4, value=99.0, expected=21.0, score=9.0)
    )
    expected = opened | {
        "last_at": NOW - 25 * SECOND,
        "readings": 5,
        "value": 99.0,
        "expected": 21.0,
        "score": 9.0,
    }
    assert extended == expected
    [milder] = found(loader, spike(ago=70 * SECOND, score=7.0, value=85.0))
    assert milder == expected | {"started_at": NOW - 70 * SECOND, "readings": 6}


def test_an_episode_is_of_one_device_metric_and_kind(loader: psycopg.Connection) -> None:
    several = [
        spike(),
        spike("d-2"),
        spike(metric="humidity"),
        spike(kind="jump"),
        spike(metric=None, kind="silence"),
    ]
    for readings in (1, 2):
        rows = found(loader, *several)
        assert [row["readings"] for row in rows] == [readings] * 5
    assert found(loader) == rows


def test_findings_of_one_call_that_are_one_episode_are_merged(loader: psycopg.Connection) -> None:
    several = [
        spike(ago=30 * SECOND, score=None, value=None, metadata={"a": 1, "b": 1}),
        spike(ago=10 * SECOND, score=3.0, value=50.0, severity="critical", metadata={"b": 2}),
        spike(ago=20 * SECOND, score=2.0, severity="info", readings=5),
    ]
    [row] = found(loader, *several)
    assert (row["started_at"], row["last_at"], row["readings"]) == (NOW - 30 * SECOND, NOW - 10 * SECOND, 7)
    assert (row["value"], row["score"], row["severity"], row["metadata"]) == (50.0, 3.0, "critical", {"a": 1, "b": 2})
    assert merged(reversed(several)) == merged(several)


def test_an_episode_becomes_worse_and_never_milder(loader: psycopg.Connection) -> None:
    [mild] = found(loader, spike(severity="info"))
    [worse] = found(loader, spike(severity="critical", score=1.0))
    assert (mild["severity"], worse["severity"], worse["score"]) == ("info", "critical", 6.0)
    at = datetime.fromisoformat(worse["metadata"]["critical_at"])
    assert timedelta(0) <= datetime.now(UTC) - at < MINUTE
    [later] = found(loader, spike(severity="warning", score=99.0, metadata={"why": "x"}))
    assert (later["severity"], later["metadata"]) == ("critical", worse["metadata"] | {"why": "x"})


def test_what_follows_one_that_is_over_is_another(loader: psycopg.Connection) -> None:
    found(loader, spike(ago=20 * SECOND))
    loader.execute("UPDATE anomalies SET resolved_at = now(), resolved_by = 'ann'")
    rows = found(loader, spike(ago=10 * SECOND))
    assert [row["resolved_by"] for row in rows] == ["ann", None]


def test_what_lies_within_one_that_is_over_was_known(loader: psycopg.Connection) -> None:
    """An object that is loaded again finds what it found before."""
    first = spike(ago=40 * MINUTE, lasting=9 * MINUTE, readings=500)
    found(loader, first)
    loader.execute("UPDATE anomalies SET resolved_at = now(), resolved_by = 'recovered'")
    known = episodes(loader)
    assert found(loader, first) == known
    assert found(loader, spike(ago=39 * MINUTE)) == known
    assert len(found(loader, spike(ago=39 * MINUTE, lasting=9 * MINUTE))) == 2


# What is found late.


def test_old_readings_open_nothing_that_pages(loader: psycopg.Connection) -> None:
    rows = found(loader, spike(ago=61 * MINUTE), spike("d-2", ago=59 * MINUTE))
    assert [(row["device_id"], row["resolved_by"]) for row in rows] == [("d-1", "late"), ("d-2", None)]
    assert abs(rows[0]["resolved_at"] - datetime.now(UTC)) < MINUTE


def test_a_backlog_is_as_many_episodes_as_it_was_in_whatever_order_it_comes(loader: psycopg.Connection) -> None:
    hours = [timedelta(hours=5, minutes=5 * n) for n in range(12)]
    for ago in [*hours[:6], *reversed(hours[6:]), *hours]:
        rows = found(loader, spike(ago=ago, lasting=4 * MINUTE, readings=2), spike("d-2", ago=10 * ago))
    mine = [row for row in rows if row["device_id"] == "d-1"]
    assert sum(row["readings"] for row in mine) == 24, "what came twice counts once"
    # Two may begin apart and grow together; they are not a row per object.
    assert len(mine) <= 2
    assert min(row["started_at"] for row in mine) == NOW - hours[-1]
    assert max(row["last_at"] for row in mine) == NOW - hours[0] + 4 * MINUTE
    assert len(rows) - len(mine) == 12, "50 minutes apart are other episodes"


def test_old_readings_of_an_episode_that_goes_on_belong_to_it(loader: psycopg.Connection) -> None:
    found(loader, spike(ago=180 * MINUTE))
    loader.execute("UPDATE anomalies SET resolved_at = NULL, resolved_by = NULL, last_at = %s", (NOW,))
    [row] = found(loader, spike(ago=185 * MINUTE, score=50.0))
    assert (row["started_at"], row["readings"], row["score"]) == (NOW - 185 * MINUTE, 2, 50.0)
    assert found(loader, spike(ago=100 * MINUTE)) == [row], "lies within it: known"
    assert len(found(loader, spike(ago=220 * MINUTE))) == 2


# Many at once.


def test_loaders_that_find_the_same_at_once_neither_deadlock_nor_lose_any(
    database_dsn: str, connection: psycopg.Connection
) -> None:
    devices = [f"d-{n}" for n in range(40)] + ["D-1", "ü"]
    late = timedelta(hours=3)

    def load(worker: int) -> None:
        with psycopg.connect(database_dsn, options="-c deadlock_timeout=50ms") as own:
            for turn in range(10):
                ordered = devices if (worker + turn) % 2 else devices[::-1]
                with own.transaction(), own.cursor() as cursor:
                    record(cursor, [spike(device) for device in ordered])
                    record(cursor, [spike(device, ago=late - (worker * 10 + turn) * SECOND) for device in ordered])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, range(4)))
    opened = connection.execute(
        "SELECT count(*), min(readings), max(readings) FROM anomalies WHERE resolved_at IS NULL"
    ).fetchone()
    assert opened == (42, 40, 40)
    late_ones = connection.execute(
        "SELECT count(DISTINCT device_id), count(*) <= 4 * 42, min(started_at), max(last_at) FROM anomalies "
        "WHERE resolved_by = 'late'"
    ).fetchone()
    assert late_ones == (42, True, NOW - late, NOW - late + 39 * SECOND)


def test_it_is_part_of_the_transaction_that_stores_the_readings(loader: psycopg.Connection) -> None:
    with loader.transaction(force_rollback=True):
        assert len(found(loader, spike())) == 1
    assert episodes(loader) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "odd"},
        {"severity": "fatal"},
        {"metric": "speed"},
        {"metric": None},
        {"kind": "silence"},
        {"last_at": NOW - MINUTE},
        {"device_id": ""},
    ],
    ids=str,
)
def test_what_is_no_anomaly_is_refused(loader: psycopg.Connection, wrong: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        found(loader, spike(**wrong))
