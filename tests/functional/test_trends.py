"""The trend functions against a real TimescaleDB of either edition."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.functional.rollups import bring_up_to_date

NOW = datetime.now(UTC).replace(second=0, microsecond=0)
MIDNIGHT = datetime(NOW.year, NOW.month, NOW.day, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def store(connection: psycopg.Connection, values: Mapping[datetime, float | None]) -> None:
    """Temperatures of the device `d`, in the rollups too."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO telemetry (device_id, timestamp, seq, temperature, quality, object_id) VALUES ('d', %s, %s, %s, 0, 1)",
            [(at, n, value) for n, (at, value) in enumerate(values.items())],
        )
        cursor.executemany("INSERT INTO ingest.touched (first, last) VALUES (%s, %s)", [(at, at) for at in values])
    bring_up_to_date(connection)


def ask(connection: psycopg.Connection, function: str, *parameters: Any) -> list[tuple[Any, ...]]:
    places = ", ".join(["%s"] * len(parameters))
    return connection.execute(f"SELECT * FROM {function}({places})".encode(), parameters).fetchall()


def test_a_line_is_found_and_weighted_by_readings(connection: psycopg.Connection) -> None:
    start = MIDNIGHT - 4 * DAY
    # 20 degrees and 2 a day, but for one hour in which a single reading is far off, among 30 in each of the others.
    line = {start + n * 12 * HOUR + s * MINUTE: 20.0 + n for n in range(8) for s in range(30)}
    store(connection, line | {start + 6 * HOUR: 90.0})
    ((slope, r2, readings),) = ask(connection, "trend_slope", "d", "temperature", start, MIDNIGHT)
    days = [*(n / 2 for n in range(8) for _ in range(30)), 0.25]
    numbers = [*(20.0 + n for n in range(8) for _ in range(30)), 90.0]
    x, y = fmean(days), fmean(numbers)
    xx = sum((a - x) ** 2 for a in days)
    xy = sum((a - x) * (b - y) for a, b in zip(days, numbers, strict=True))
    yy = sum((b - y) ** 2 for b in numbers)
    assert (slope, r2, readings) == (pytest.approx(xy / xx), pytest.approx(xy**2 / xx / yy), 241)
    assert 1.5 < slope < 2
    # Two days of it, without that hour, are a line.
    ((slope, r2, readings),) = ask(connection, "trend_slope", "d", "temperature", start + DAY, MIDNIGHT)
    assert (slope, r2, readings) == (pytest.approx(2), pytest.approx(1), 180)


def test_what_has_no_slope(connection: psycopg.Connection) -> None:
    start = MIDNIGHT - DAY
    store(connection, {start + n * HOUR: 7.0 for n in range(3)} | {start + 5 * HOUR: None})
    assert ask(connection, "trend_slope", "d", "temperature", start, MIDNIGHT) == [(0, 1, 3)]
    assert ask(connection, "trend_slope", "d", "temperature", start, start + MINUTE) == [(None, None, 1)]
    for nothing in (
        ("d", "humidity", start, MIDNIGHT), ("x", "temperature", start, MIDNIGHT), ("d", "temperature", start, start),
        ("d", "temperature", start + 5 * HOUR, start + 6 * HOUR),
    ):  # fmt: skip
        assert ask(connection, "trend_slope", *nothing) == []
        assert ask(connection, "change_against_previous", *nothing) == [] or nothing[1:] == (
            "temperature", start + 5 * HOUR, start + 6 * HOUR,
        )  # fmt: skip
        assert ask(connection, "moving_average", *nothing, HOUR, 2) == []


def test_a_single_bucket_has_no_slope_whatever_rounding_leaves(connection: psycopg.Connection) -> None:
    start = NOW - 3 * HOUR
    store(connection, {start + timedelta(seconds=second): 7.1 for second in range(11)})
    for minutes in range(1, 40):
        assert ask(connection, "trend_slope", "d", "temperature", start - minutes * MINUTE, start + MINUTE) == [
            (None, None, 11)
        ]


def test_a_moving_average_looks_back_in_time_and_weighs(connection: psycopg.Connection) -> None:
    start = MIDNIGHT - DAY
    values: dict[datetime, float | None] = {start + 59 * MINUTE: 10.0}
    values |= {start + HOUR + n * MINUTE: 20.0 for n in range(3)}
    values |= {start + 2 * HOUR: 40.0, start + 5 * HOUR: 100.0}  # and nothing in the two hours between
    store(connection, values)
    rows = ask(connection, "moving_average", "d", "temperature", start + HOUR, MIDNIGHT, HOUR, 2)
    assert rows == [
        (start + HOUR, pytest.approx(20), pytest.approx((10 + 3 * 20) / 4), 3),
        (start + 2 * HOUR, pytest.approx(40), pytest.approx((3 * 20 + 40) / 4), 1),
        (start + 5 * HOUR, pytest.approx(100), pytest.approx(100), 1),
    ]
    # Of minutes, of quarters of an hour, and of days.
    assert len(ask(connection, "moving_average", "d", "temperature", start, MIDNIGHT, MINUTE, 5)) == 6
    (first, *_) = ask(connection, "moving_average", "d", "temperature", start, MIDNIGHT, 15 * MINUTE, 1)
    assert first == (start + 45 * MINUTE, 10, 10, 1)
    ((day, average, moving, readings),) = ask(connection, "moving_average", "d", "temperature", start, MIDNIGHT, DAY, 7)
    assert (day, average, moving, readings) == (start, pytest.approx(35), pytest.approx(35), 6)


def test_a_period_beside_the_one_before(connection: psycopg.Connection) -> None:
    start = MIDNIGHT - 2 * DAY
    store(connection, {start: -10.0, start + HOUR: -30.0, start + DAY: -10.0, start + DAY + HOUR: -10.0, MIDNIGHT: 5.0})
    change = ask(connection, "change_against_previous", "d", "temperature", start + DAY, MIDNIGHT)
    assert change == [(-10, -20, 10, 50, 2, 2)]
    assert ask(connection, "change_against_previous", "d", "temperature", start, start + DAY) == [
        (-20, None, None, None, 2, 0)
    ]


@pytest.mark.parametrize(
    ("length", "view"), [(23 * HOUR, "1m"), (DAY, "hourly"), (89 * DAY, "hourly"), (90 * DAY, "daily")]
)
def test_long_ranges_read_wide_buckets(connection: psycopg.Connection, length: timedelta, view: str) -> None:
    begin = MIDNIGHT - 2 * DAY
    store(connection, {begin + 90 * MINUTE: 1.0, begin + 91 * MINUTE: 3.0, begin + 150 * MINUTE: 8.0})
    bucket = {"1m": 90 * MINUTE, "hourly": HOUR, "daily": timedelta(0)}[view]
    rows = ask(connection, "metric_series", "d", "temperature", begin, begin + length)
    assert min(rows)[0] == begin + bucket
    assert len(rows) == {"1m": 3, "hourly": 2, "daily": 1}[view]


@pytest.mark.parametrize(
    ("function", "parameters", "said"),
    [
        ("trend_slope", ("d", "wind", NOW - DAY, NOW), "no metric wind: use battery, humidity, pressure, temperature"),
        ("trend_slope", ("d", None, NOW - DAY, NOW), "no metric NULL"),
        ("change_against_previous", ("d", "humidity'; --", NOW - DAY, NOW), "no metric humidity'; --"),
        ("trend_slope", ("d", "humidity", NOW, NOW - DAY), "the range is upside down"),
        ("moving_average", ("d", "humidity", NOW - DAY, NOW, timedelta(seconds=30), 3), "width is 00:00:30"),
        ("moving_average", ("d", "humidity", NOW - DAY, NOW, HOUR, 0), "window is 0"),
    ],
)
def test_a_mistake_says_what_is_right(
    connection: psycopg.Connection, function: str, parameters: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(errors.InvalidParameterValue) as raised:
        ask(connection, function, *parameters)
    assert said in str(raised.value.diag.message_primary)
