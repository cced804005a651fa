"""What the watch finds and resolves, against a real TimescaleDB: silence, values that do not move, and what is over."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from lambdas.shared.anomalies import record
from lambdas.shared.touched import Touched
from lambdas.watch import anomalies
from lambdas.watch.stuck import stuck
from tests.functional import test_anomalies
from tests.functional.rollups import bring_up_to_date, stop_refreshing
from tests.functional.test_anomalies import episodes, spike

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE = timedelta(minutes=1)
TEN = timedelta(minutes=10)


@pytest.fixture(autouse=True)
def _now() -> None:
    """When a test begins, and not when the file was read."""
    global NOW  # noqa: PLW0603
    NOW = test_anomalies.NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def loader(connection: psycopg.Connection, database_dsn: str) -> Iterator[psycopg.Connection]:
    """As the watch has it: with the loader's rights and no more."""
    stop_refreshing(connection)
    with psycopg.connect(database_dsn, autocommit=True) as opened:
        opened.execute("SET ROLE iot_loader")
        yield opened


def readings(connection: psycopg.Connection, device: str, rows: list[tuple[datetime, dict[str, Any]]]) -> None:
    """Stores them as a loader does: with the newest one, and with marks for the rollups."""
    touched = Touched()
    with connection.cursor() as cursor:
        for at, values in rows:
            cursor.execute(
                "INSERT INTO telemetry (device_id, timestamp, seq, temperature, humidity, quality, received_at, object_id) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, 1) ON CONFLICT (device_id, timestamp, seq) "
                "DO UPDATE SET temperature = excluded.temperature",
                (device, at, 1, values.get("temperature"), values.get("humidity"), values.get("quality", 0), at),
            )
        touched.add_rows((device, at) for at, _ in rows)
        touched.mark(cursor)
        cursor.execute("SELECT ingest.refresh_latest(%s)", ([device],))


def state_of(connection: psycopg.Connection) -> dict[str, Any]:
    """How each device's one episode was resolved; None: it is open."""
    return {row["device_id"]: row["resolved_by"] for row in episodes(connection)}


# Silence.


def silence(
    connection: psycopg.Connection, seen: dict[str, timedelta], *, out_of_service: frozenset[str] = frozenset()
) -> None:
    last_seen = {device: NOW - ago for device, ago in seen.items()}
    in_service = {device: at for device, at in last_seen.items() if device not in out_of_service}
    anomalies.silence(connection, NOW, last_seen, in_service, TEN)


def test_a_silent_device_has_one_episode_until_it_is_heard(loader: psycopg.Connection) -> None:
    seen = {"gone": 11 * MINUTE, "here": TEN, "long": timedelta(days=9)}
    for _ in range(2):
        silence(loader, seen)
    rows = episodes(loader)
    assert [row["device_id"] for row in rows] == ["gone", "long"]
    first = rows[0]
    assert (first["kind"], first["metric"], first["severity"], first["readings"]) == ("silence", None, "warning", 0)
    assert (first["started_at"], first["value"], first["expected"]) == (NOW - 11 * MINUTE, 660, 600)
    silence(loader, seen | {"gone": MINUTE})
    first, other = episodes(loader)
    assert (first["resolved_by"], first["last_at"], first["value"]) == ("recovered", NOW - MINUTE, 600)
    assert other["resolved_at"] is None
    silence(loader, seen | {"gone": timedelta(0)})
    assert len(episodes(loader)) == 2


def test_one_that_was_heard_and_is_silent_again_is_another(loader: psycopg.Connection) -> None:
    silence(loader, {"d": 60 * MINUTE})
    silence(loader, {"d": 20 * MINUTE})
    assert [row["resolved_by"] for row in episodes(loader)] == ["recovered", None]


def test_what_an_operator_resolved_is_not_opened_again_before_the_device_was_heard(loader: psycopg.Connection) -> None:
    silence(loader, {"d": 60 * MINUTE})
    loader.execute("UPDATE anomalies SET resolved_at = now(), resolved_by = 'ann'")
    silence(loader, {"d": 60 * MINUTE})
    silence(loader, {"d": 100 * MINUTE})  # what is remembered of it may be up to an hour older
    assert state_of(loader) == {"d": "ann"}
    silence(loader, {"d": 30 * MINUTE})
    assert len(episodes(loader)) == 2


def test_a_device_out_of_service_has_nothing_open_once_it_is_silent(loader: psycopg.Connection) -> None:
    with loader.cursor() as cursor:
        record(cursor, [spike("gone"), spike("tested"), spike("here")])
    silence(
        loader, {"gone": 20 * MINUTE, "tested": MINUTE, "here": MINUTE}, out_of_service=frozenset({"gone", "tested"})
    )
    assert state_of(loader) == {"gone": "retired", "tested": None, "here": None}
    silence(loader, {"gone": 20 * MINUTE, "forgotten": 20 * MINUTE})
    silence(loader, {"gone": 20 * MINUTE}, out_of_service=frozenset({"gone"}))
    assert [row["resolved_by"] for row in episodes(loader) if row["kind"] == "silence"] == ["retired", "retired"]


def test_what_a_loader_holds_is_left_for_the_next_minute(
    loader: psycopg.Connection, connection: psycopg.Connection
) -> None:
    silence(loader, {"a": 20 * MINUTE, "b": 20 * MINUTE})
    loader.execute("SET lock_timeout = '1s'")
    with connection.transaction():
        connection.execute("SELECT FROM anomalies WHERE device_id = 'a' FOR UPDATE")
        silence(loader, {"a": MINUTE, "b": MINUTE})
        assert state_of(loader) == {"a": None, "b": "recovered"}
    silence(loader, {"a": MINUTE, "b": MINUTE})
    assert state_of(loader) == {"a": "recovered", "b": "recovered"}


# What loaders found, and is over.

BAD = {"temperature": 500.0, "quality": 16}
GOOD = {"temperature": 20.0}
OTHER = {"humidity": 1.0}


def every_minute(since: int, until: int, values: dict[str, Any]) -> list[tuple[datetime, dict[str, Any]]]:
    """From so many minutes ago until so many."""
    return [(NOW - n * MINUTE, values) for n in range(since, until - 1, -1)]


@pytest.mark.parametrize("kind", ["out_of_range", "spike", "jump"])
@pytest.mark.parametrize(
    ("spans", "resolved_by"),
    [
        pytest.param([(19, 0, GOOD)], "recovered", id="good for long"),
        pytest.param([(19, 11, GOOD)], None, id="good for less than the quiet period, and silent"),
        pytest.param([], None, id="silent"),
        pytest.param([(19, 0, BAD)], None, id="still bad, though nobody said so"),
        pytest.param([(19, 0, OTHER)], None, id="the metric is not measured any more"),
        pytest.param([(19, 1, GOOD), (0, 0, OTHER)], "recovered", id="not in every reading"),
        pytest.param([(10, 10, GOOD)], "recovered", id="one good reading after the quiet period"),
    ],
)
def test_an_episode_is_over_after_good_readings_for_the_quiet_period(
    loader: psycopg.Connection,
    connection: psycopg.Connection,
    kind: Any,
    spans: list[tuple[int, int, dict[str, Any]]],
    resolved_by: str | None,
) -> None:
    readings(connection, "d-1", [row for span in [(25, 20, BAD), *spans] for row in every_minute(*span)])
    with loader.cursor() as cursor:
        record(cursor, [spike(ago=25 * MINUTE, lasting=5 * MINUTE, kind=kind), spike(ago=25 * MINUTE, kind="stuck")])
    anomalies.recover(loader, NOW - timedelta(days=1))
    assert [row["resolved_by"] for row in episodes(loader)] == [resolved_by, None]


def test_it_is_by_the_devices_clock(loader: psycopg.Connection, connection: psycopg.Connection) -> None:
    readings(connection, "behind", [(NOW - timedelta(hours=5, minutes=n), GOOD) for n in range(15)])
    readings(connection, "ahead", [(NOW + timedelta(minutes=50 - n), GOOD) for n in range(15)])
    with loader.cursor() as cursor:
        record(cursor, [spike("behind"), spike("ahead")])
    loader.execute(
        "UPDATE anomalies SET started_at = %s, last_at = %s", (NOW - timedelta(hours=9), NOW - timedelta(hours=5))
    )
    loader.execute(
        "UPDATE anomalies SET last_at = %s WHERE device_id = 'behind'", (NOW - timedelta(hours=5, minutes=12),)
    )
    loader.execute("UPDATE anomalies SET last_at = %s WHERE device_id = 'ahead'", (NOW + timedelta(minutes=45),))
    anomalies.recover(loader, NOW - timedelta(days=1))
    assert state_of(loader) == {"behind": "recovered", "ahead": None}


# What does not move.


def resting(connection: psycopg.Connection, device: str, since: int, until: int = 0, **values: float) -> None:
    """A device whose humidity rests; its temperature moves, unless it is given."""
    rows = every_minute(since, until, {"humidity": 40.1})
    readings(connection, device, [(at, row | {"temperature": 20 + n % 7} | values) for n, (at, row) in enumerate(rows)])


def test_a_value_that_does_not_move_is_found_and_no_other(
    loader: psycopg.Connection, connection: psycopg.Connection
) -> None:
    connection.execute(
        "INSERT INTO metrics (name, device_type, unit, low, high, description, stuck_after_minutes) "
        "SELECT 'humidity', t, '%', 0, 100, t, s FROM (VALUES ('sealed', 0), ('patient', 60), ('plain', NULL)) v(t, s)"
    )
    since = {"stuck": 70, "sealed": 70, "plain": 70, "patient": 50, "hours": 70, "new": 30, "gone": 70, "off": 70}
    for device, minutes in since.items():
        resting(connection, device, minutes, 10 if device == "gone" else 0)
    readings(connection, "sparse", every_minute(70, 0, {"humidity": 40.1})[::4])
    for device, device_type in {"sealed": "sealed", "plain": "plain", "patient": "patient", "hours": "patient"}.items():
        connection.execute("UPDATE devices SET device_type = %s WHERE device_id = %s", (device_type, device))
    connection.execute("UPDATE devices SET active = false WHERE device_id = 'off'")
    bring_up_to_date(connection)
    stuck(loader, NOW)
    rows = {row["device_id"]: row for row in episodes(loader)}
    assert sorted(rows) == ["gone", "hours", "plain", "stuck"]
    one, hours = rows["stuck"], rows["hours"]
    assert (one["metric"], one["kind"], one["severity"], one["readings"]) == ("humidity", "stuck", "warning", 30)
    assert one["value"] == pytest.approx(40.1, abs=1e-5)
    end = NOW.replace(second=0) - 4 * MINUTE
    assert (one["started_at"], one["last_at"]) == (end - 30 * MINUTE, end - MINUTE)
    assert (hours["started_at"], hours["readings"]) == (end - 60 * MINUTE, 60)
    assert (one["metadata"], hours["metadata"]) == ({"stuck_after_minutes": 30}, {"stuck_after_minutes": 60})
    stuck(loader, NOW)
    stuck(loader, NOW + MINUTE)
    again = {row["device_id"]: row for row in episodes(loader)}
    assert again["stuck"] == one | {"last_at": end, "readings": 31}
    assert again["gone"] == rows["gone"], "silent: it stays as it is"


def test_it_is_over_when_the_value_moves(loader: psycopg.Connection, connection: psycopg.Connection) -> None:
    for device in ("stays", "moves", "moved"):
        resting(connection, device, 70, 1)
    bring_up_to_date(connection)
    stuck(loader, NOW)
    assert state_of(loader) == {"stays": None, "moves": None, "moved": None}
    readings(connection, "moves", [(NOW, {"humidity": 41.0})])
    readings(connection, "moved", [(NOW - 6 * MINUTE + timedelta(seconds=1), {"humidity": 41.0})])
    bring_up_to_date(connection)
    for _ in range(2):
        stuck(loader, NOW)
        assert state_of(loader) == {"stays": None, "moves": "recovered", "moved": "recovered"}


def test_what_an_operator_said_holds_until_the_value_moves(
    loader: psycopg.Connection, connection: psycopg.Connection
) -> None:
    for device in ("said", "other", "moved"):
        resting(connection, device, 70)
    readings(connection, "moved", [(NOW - 50 * MINUTE + timedelta(seconds=1), {"humidity": 39.0})])
    bring_up_to_date(connection)
    stuck(loader, NOW)
    loader.execute(
        "UPDATE anomalies SET resolved_at = %s, resolved_by = CASE device_id WHEN 'said' THEN NULL ELSE 'ann' END, "
        "started_at = %s, last_at = %s",
        (NOW - 55 * MINUTE, NOW - 90 * MINUTE, NOW - 60 * MINUTE),
    )
    loader.execute("UPDATE anomalies SET value = 7 WHERE device_id = 'other'")
    stuck(loader, NOW)
    assert sorted(row["device_id"] for row in episodes(loader) if row["resolved_at"] is None) == ["moved", "other"]


def test_where_rollups_are_stale_nothing_is_judged(loader: psycopg.Connection, connection: psycopg.Connection) -> None:
    """On the Community edition, where they would be computed from raw readings as they are read: of a fleet that takes long."""
    resting(connection, "d", 70)
    stuck(loader, NOW)
    assert episodes(loader) == []
    bring_up_to_date(connection)
    stuck(loader, NOW)
    assert state_of(loader) == {"d": None}


# What is counted.


def test_what_there_is_is_counted_by_severity_and_since_when(
    loader: psycopg.Connection, connection: psycopg.Connection
) -> None:
    assert anomalies.state(loader, NOW) == anomalies.State(0, 0, 0, 0, 0, None)
    readings(connection, "kept", [(NOW - 30 * MINUTE, GOOD)])
    connection.execute("UPDATE telemetry SET received_at = %s", (NOW - 4 * timedelta(seconds=1),))
    with loader.cursor() as cursor:
        record(
            cursor,
            [
                spike("a", ago=timedelta(seconds=20)),
                spike("b", severity="critical", ago=timedelta(seconds=8)),
                spike("c", severity="info", ago=timedelta(seconds=6)),
                spike("kept", ago=30 * MINUTE, metric="humidity"),
                spike("late", severity="critical", ago=timedelta(hours=3)),
                spike("over", severity="critical", ago=TEN),
                spike("worse", ago=TEN),
            ],
        )
    loader.execute("UPDATE anomalies SET detected_at = %s", (NOW,))
    loader.execute("UPDATE anomalies SET detected_at = %s WHERE device_id = 'over'", (NOW - 6 * MINUTE,))
    loader.execute("UPDATE anomalies SET detected_at = %s WHERE device_id = 'worse'", (NOW - 4 * TEN,))
    now = NOW + timedelta(seconds=1)
    found = anomalies.state(loader, now)
    assert found[:5] == (1, 3, 2, 4, 1)
    assert found.open == 6
    assert found.detection_seconds == 4 * 60, "of five: 4, 6, 8, 20 and 240 s"
    with loader.cursor() as cursor:
        record(cursor, [spike("worse", ago=TEN, severity="critical")])
    worse = anomalies.state(loader, datetime.now(UTC))
    assert (worse.open_critical, worse.critical) == (3, 2)


def test_two_runs_at_once_find_everything_once(database_dsn: str, connection: psycopg.Connection) -> None:
    seen = {f"d-{n}": 20 * MINUTE for n in range(200)}

    def run(_: int) -> None:
        with psycopg.connect(database_dsn, autocommit=True, options="-c deadlock_timeout=50ms") as own:
            silence(own, seen)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert connection.execute("SELECT count(*) FROM anomalies").fetchone() == (200,)
