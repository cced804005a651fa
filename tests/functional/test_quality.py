"""Data quality per device and day, and `fleet quality`, against a real TimescaleDB of either edition."""

import json
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from rich.console import Console

from local.timescaledb.edition import is_community
from ops.devices import service
from ops.quality import cli
from tests.functional.commands import Commands, commands_use
from tests.functional.rollups import bring_up_to_date, stop_refreshing

NOW = datetime.now(UTC)
TODAY = NOW.date()
MIDNIGHT = datetime.combine(TODAY, datetime.min.time(), UTC)
YESTERDAY = TODAY - timedelta(days=1)
WRONG_TYPE, OUT_OF_RANGE = 1, 16


@pytest.fixture(autouse=True)
def _no_job(connection: psycopg.Connection) -> None:
    stop_refreshing(connection)


def device(connection: psycopg.Connection, name: str, registered_at: datetime, interval: float | None = None) -> None:
    connection.execute(
        "INSERT INTO devices (device_id, name, registered_at, reading_interval_seconds) VALUES (%s, %s, %s, %s)",
        (name, name, registered_at, interval),
    )


def readings(
    connection: psycopg.Connection,
    name: str,
    first: datetime,
    seqs: range,
    step: timedelta,
    quality: int = 0,
    late: int = 0,
) -> None:
    """One reading per sequence number."""
    last = first + (len(seqs) - 1) * step
    connection.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, temperature, quality, received_at, object_id) "
        "SELECT %s, %s + n * %s, %s + n, 20, %s, %s + n * %s + CASE WHEN n < %s THEN interval '6 min' ELSE '1 s' END, 1 "
        "FROM generate_series(0, %s) n",
        (name, first, step, seqs.start, quality, first, step, late, len(seqs) - 1),
    )
    connection.execute("SELECT ingest.refresh_latest(ARRAY[%s])", [name])
    connection.execute(
        "INSERT INTO ingest.touched (first, last, device_ids) "
        "SELECT greatest(hour, %(first)s), least(hour + interval '1 hour' - interval '1 us', %(last)s), ARRAY[%(name)s] "
        "FROM generate_series(date_trunc('hour', %(first)s, 'UTC'), %(last)s, interval '1 hour') hour",
        {"first": first, "last": last, "name": name},
    )


def quality(connection: psycopg.Connection, condition: str = "true") -> dict[tuple[str, date], dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(f"SELECT * FROM data_quality WHERE {condition}".encode()).fetchall()
    found = {(row["device_id"], row["day"]): row for row in rows}
    assert len(found) == len(rows), "a device has a day twice"
    return found


def day_of(found: dict[tuple[str, date], dict[str, Any]], name: str, day: date = YESTERDAY) -> tuple[Any, ...]:
    row = found[name, day]
    return row["expected"], row["received"], row["missing"], row["reason"]


HOUR = timedelta(hours=1)
START = MIDNIGHT - timedelta(days=1)


def test_a_day_says_what_was_expected_what_came_and_what_was_wrong(connection: psycopg.Connection) -> None:
    early = START - timedelta(days=3)
    device(connection, "full", early, 3600)
    device(connection, "half", early, 3600)
    device(connection, "bad", early, 3600)
    device(connection, "silent", early, 3600)
    device(connection, "counter", early)
    device(connection, "restarted", early)
    device(connection, "noon", START + 12 * HOUR, 3600)
    readings(connection, "full", START, range(100, 124), HOUR)
    readings(connection, "half", START, range(12), HOUR, late=3)
    readings(connection, "bad", START, range(6), HOUR, quality=OUT_OF_RANGE)
    readings(connection, "bad", START + 6 * HOUR, range(6, 12), HOUR, quality=WRONG_TYPE)
    readings(connection, "bad", START + 12 * HOUR, range(12, 24), HOUR)
    readings(connection, "counter", START, range(10, 15), HOUR)
    readings(connection, "counter", START + 9 * HOUR, range(20, 25), HOUR)
    readings(connection, "restarted", START, range(9_000, 9_005), HOUR)
    readings(connection, "restarted", START + 6 * HOUR, range(5), HOUR)
    readings(connection, "noon", START + 12 * HOUR, range(12), HOUR)
    connection.execute(
        "INSERT INTO ingest.objects (object_id, bucket, key, version_id) OVERRIDING SYSTEM VALUE "
        "SELECT n, 'bucket', n::text, 'v' FROM generate_series(1, 2) n"
    )
    connection.execute(
        "INSERT INTO ingest.duplicates (object_id, device_id, hour, duplicates) "
        "VALUES (1, 'full', %s, 4), (2, 'full', %s, 3), (1, 'full', %s, 9)",
        (START, START + 23 * HOUR, MIDNIGHT),
    )
    bring_up_to_date(connection)
    found = quality(connection)
    assert day_of(found, "full") == (24, 24, 0, "")
    assert found["full", YESTERDAY]["score"] == 100
    assert found["full", YESTERDAY]["duplicates"] == 7
    assert day_of(found, "half") == (24, 12, 12, "missing 12 of 24")
    assert found["half", YESTERDAY]["score"] == pytest.approx(85)
    assert found["half", YESTERDAY]["late"] == 3
    assert day_of(found, "bad") == (24, 24, 0, "6 out of range; 6 of a wrong type")
    assert found["bad", YESTERDAY]["score"] == pytest.approx(80)
    assert day_of(found, "silent") == (24, 0, 24, "nothing of 24 came")
    assert found["silent", YESTERDAY]["score"] == 0
    assert day_of(found, "counter") == (15, 10, 5, "missing 5 of 15")
    assert day_of(found, "restarted") == (10, 10, 0, "")
    assert day_of(found, "noon") == (12, 12, 0, "")
    # From the day of registration on, and not in the future.
    assert {day for name, day in found if name == "silent"} - {TODAY} == {
        START.date() - n * timedelta(1) for n in range(4)
    }
    assert {day for name, day in found if name == "noon"} - {TODAY} == {YESTERDAY}
    assert max(day for _, day in found) <= TODAY


def test_what_is_filtered_is_what_there_is(connection: psycopg.Connection) -> None:
    for name in ("a", "b"):
        device(connection, name, START - timedelta(days=2), 3600)
        readings(connection, name, START - timedelta(days=1), range(100, 130), HOUR)
    whole = quality(connection)
    bring_up_to_date(connection)
    assert whole == quality(connection) or not is_community(connection)  # as fresh as the readings, on that edition
    whole = quality(connection)
    for condition, chosen in (
        (f"day = '{YESTERDAY}'", {key for key in whole if key[1] == YESTERDAY}),
        (f"day >= '{YESTERDAY}'", {key for key in whole if key[1] >= YESTERDAY}),
        ("device_id = 'a'", {key for key in whole if key[0] == "a"}),
        (f"device_id IN ('a', 'x') AND day < '{YESTERDAY}'", {k for k in whole if k[0] == "a" and k[1] < YESTERDAY}),
    ):
        assert quality(connection, condition) == {key: whole[key] for key in chosen}


def test_today_expects_nothing_of_the_last_minutes(connection: psycopg.Connection) -> None:
    began = max(MIDNIGHT, datetime.now(UTC) - timedelta(minutes=30))
    device(connection, "d", began, 1)
    readings(connection, "d", began, range(1, 2), HOUR)
    bring_up_to_date(connection)
    found = quality(connection, f"day = '{began.date()}'")
    expected = (datetime.now(UTC) - began).total_seconds() - 300
    assert expected - 30 <= found["d", began.date()]["expected"] <= max(1, expected)


def test_an_interval_of_the_type_is_that_of_devices_without_one(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO device_types (device_type, reading_interval_seconds) VALUES ('meter', 7200)")
    for name, interval in (("own", 3600), ("types", None)):
        device(connection, name, START - HOUR, interval)
    connection.execute("UPDATE devices SET device_type = 'meter'")
    found = quality(connection)
    assert (found["own", YESTERDAY]["expected"], found["types", YESTERDAY]["expected"]) == (24, 12)


def episode(
    connection: psycopg.Connection, kind: str, first: datetime, last: datetime, count: int, *, over: bool
) -> None:
    connection.execute(
        "INSERT INTO anomalies (device_id, metric, kind, severity, started_at, last_at, readings, resolved_at) "
        "VALUES ('d', %s, %s, 'warning', %s, %s, %s, %s)",
        (None if kind == "silence" else "temperature", kind, first, last, count, last if over else None),
    )


def test_anomalies_count_on_each_day_that_they_touch(connection: psycopg.Connection) -> None:
    days = [START - n * timedelta(days=1) for n in (2, 1, 0)]
    device(connection, "d", days[0] - HOUR, 3600)
    for n, midnight in enumerate(days):
        readings(connection, "d", midnight, range(1000 + 24 * n, 1024 + 24 * n), HOUR)
    episode(connection, "spike", days[0] + HOUR, days[0] + HOUR, 1, over=True)
    episode(connection, "stuck", days[0] + 12 * HOUR, days[1] + 12 * HOUR, 24, over=True)
    episode(connection, "out_of_range", days[1], days[1] + HOUR, 20, over=True)  # costs as out of range, and once
    episode(connection, "jump", days[2] + HOUR, days[2] + 4 * HOUR, 3, over=False)
    episode(connection, "silence", days[2] - 3 * HOUR, days[2] - 3 * HOUR, 0, over=False)  # goes on
    episode(connection, "silence", days[0] + HOUR, days[0] + 3 * HOUR, 0, over=True)
    bring_up_to_date(connection)
    found = quality(connection, f"day <= '{YESTERDAY}'")
    shown = [found["d", midnight.date()] for midnight in days]
    assert [row["anomalies"] for row in shown] == [3, 3, 2]
    assert [row["reason"] for row in shown] == ["13 in anomalies", "12 in anomalies", "3 in anomalies"]
    assert [row["score"] for row in shown] == pytest.approx([100 - 30 * n / 24 for n in (13, 12, 3)])


def test_out_of_service_is_not_silence_and_both_columns_say_so(
    connection: psycopg.Connection, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "database", lambda *_, **__: psycopg.connect(database_dsn, autocommit=True))
    began = START - timedelta(days=2)
    for name in ("d", "never-heard"):
        device(connection, name, began, 3600)
    readings(connection, "d", began, range(1, 5), HOUR)
    bring_up_to_date(connection)

    def retired_at() -> Any:
        row = connection.execute("SELECT retired_at FROM ingest.devices_seen WHERE device_id = 'd'").fetchone()
        return row and row[0]

    assert service.set_active("local", ["d", "never-heard", "unknown"], active=False) == 2
    assert service.set_active("local", ["d"], active=False) == 0
    assert abs((retired_at() - datetime.now(UTC)).total_seconds()) < 60
    connection.execute("UPDATE ingest.devices_seen SET retired_at = %s WHERE device_id = 'd'", (START + 6 * HOUR,))
    found = quality(connection)
    assert day_of(found, "d") == (6, 0, 6, "nothing of 6 came")
    assert ("d", TODAY) not in found
    assert not any(name == "never-heard" for name, _ in found)
    assert service.set_active("local", ["d"], active=True) == 1
    assert retired_at() is None
    assert day_of(quality(connection), "d")[:2] == (24, 0)
    # Whoever changes it by SQL changes both as well.
    connection.execute("UPDATE devices SET active = false WHERE device_id = 'd'")
    assert retired_at() is not None


COUNTS = st.one_of(st.none(), st.integers(0, 10**6))


def test_the_score_at_its_edges_and_that_worse_is_never_better(connection: psycopg.Connection) -> None:
    def score(expected: int | None, received: int | None, bad: int | None = 0, odd: float | None = 0) -> float:
        row = connection.execute("SELECT data_quality_score(%s, %s, %s, %s)", (expected, received, bad, odd)).fetchone()
        assert row is not None
        value: float = row[0]
        return value

    assert score(100, 100) == score(None, 7, None, None) == score(0, 5) == score(50, 100) == 100
    assert score(100, 0) == score(0, 0) == score(None, None) == score(5, None) == 0
    assert score(10**15, 1, 1, 1) == pytest.approx(0, abs=1e-9)
    assert (score(100, 50), score(100, 100, 50), score(100, 100, 0, 50)) == (85, 80, 85)
    assert score(100, 100, 10**9, 10**9) == 30  # shares of what was received, at most all of it

    @settings(deadline=None, max_examples=150)
    @given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(1, 10**6))
    def monotonic(expected: int | None, received: int | None, bad: int | None, odd: int | None, more: int) -> None:
        base = score(expected, received, bad, odd)
        assert 0 <= base <= 100
        assert score((expected or 0) + more, received, bad, odd) <= base or not received
        assert score(expected, received, (bad or 0) + more, odd) <= base
        assert score(expected, received, bad, (odd or 0) + more) <= base
        assert score(expected, (received or 0) + more, bad, odd) >= base - 1e-9

    monotonic()


@pytest.fixture
def command(connection: psycopg.Connection, database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Commands:
    connection.execute("INSERT INTO sites (site_id, name) VALUES ('north', 'North'), ('south', 'South')")
    for name in ("good", "poor", "silent"):
        device(connection, name, START - timedelta(days=4), 3600)
    connection.execute("UPDATE devices SET site_id = CASE device_id WHEN 'good' THEN 'north' ELSE 'south' END")
    readings(connection, "good", START - timedelta(days=4), range(1000, 1120), HOUR)
    readings(connection, "poor", START - timedelta(days=2), range(2000, 2072), HOUR, quality=OUT_OF_RANGE)
    bring_up_to_date(connection)
    commands_use(monkeypatch, database_dsn)
    monkeypatch.setattr(cli, "_console", Console(width=80))
    app = typer.Typer()
    app.command()(cli.quality)
    return Commands(app)


RANGE = ("--from", str(START.date() - timedelta(days=2)), "--to", str(YESTERDAY))


def test_the_fleet_is_listed_worst_first(command: Commands) -> None:
    lines = command.ok(*RANGE).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:4]] == ["silent", "poor", "good"]
    assert "nothing of 24 came" in lines[1]
    assert "24 out of range" in lines[2]
    assert lines[3].split()[2] == "100.0"
    assert lines[-1].startswith("3 devices; ")
    rows = json.loads(command.ok(*RANGE, "--json"))
    assert [(row["device_id"], row["score"], row["received"]) for row in rows] == [
        ("silent", 0, 0), ("poor", pytest.approx(60), 72), ("good", 100, 72),
    ]  # fmt: skip
    assert "1 of 3 devices, the worst" in command.ok(*RANGE, "--worst", "1")
    assert [row["device_id"] for row in json.loads(command.ok(*RANGE, "--below", "70", "--site", "south", "--json"))] == [
        "silent", "poor",
    ]  # fmt: skip
    assert "no device below 50 from" in command.ok(*RANGE, "--site", "north", "--below", "50")
    assert "silent" in command.ok()
    assert f"; {TODAY - timedelta(days=3)} to {TODAY - timedelta(days=1)} (UTC)" in command.ok(
        "--from", "-3d", "--to", "1d"
    )


def test_a_device_is_shown_by_day_with_trends(command: Commands) -> None:
    lines = command.ok("--device", "good", *RANGE).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:4] for line in lines[1:4]] == [
        [str(YESTERDAY - timedelta(days=n)), "100.0", "24", "24"] for n in (2, 1, 0)
    ]
    assert "mean score 100.0; 100.0 in as many days before" in lines
    assert lines[-1].split()[:5] == ["temperature", "20", "20", "+0.0%", "+0"]
    shown = json.loads(command.ok("--device", "poor", *RANGE, "--json"))
    assert shown["score"] == pytest.approx(60)
    assert shown["score_before"] == 0
    assert [row["reason"] for row in shown["days"]] == ["24 out of range"] * 3
    assert shown["trends"][0]["readings"] == 72
    old = ("--from", "2020-01-01", "--to", "2020-01-02")
    assert "good was not in service" in command.ok("--device", "good", *old)


def test_a_mistake_is_one_line(command: Commands) -> None:
    assert "there is no device x in local" in command.refused("--device", "x")
    assert "--site west: there is no such site" in command.refused("--site", "west")
    assert "is after --to" in command.refused("--from", "2026-02-03", "--to", "2026-02-01")
    assert "--from 3. Mai: not a time; use ISO 8601" in command.refused("--from", "3. Mai")
    assert "in the future" in command.refused("--from", str(TODAY + timedelta(days=2)))
    assert "in the future" in command.refused("--from", str(TODAY + timedelta(days=2)), "--to", "2999-01-01")
    assert "leave --site" in command.refused("--device", "good", "--site", "north")


def test_a_month_of_a_fleet_reads_those_days_only(connection: psycopg.Connection) -> None:
    """200 devices and two years: a month takes no longer for what lies before it."""
    connection.execute(
        "INSERT INTO devices (device_id, name, registered_at) "
        "SELECT 'd-' || n, 'x', now() - interval '700 days' FROM generate_series(1, 200) n"
    )

    def seconds(condition: str, days: int) -> float:
        began = time.perf_counter()
        assert len(quality(connection, condition)) >= days * 200
        return time.perf_counter() - began

    month = min(seconds(f"day > '{TODAY - timedelta(days=30)}'", 30) for _ in range(3))
    assert month < seconds("true", 700) / 3
