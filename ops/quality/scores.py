"""What `fleet quality` asks the database: scores per device or per day from `data_quality`, and trends of its metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from lambdas.shared.contract import METRICS
from ops.errors import UserError
from ops.times import parse_time

DEFAULT_DAYS = 7
_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Days:
    """UTC days, the first and the last of them included."""

    first: date
    last: date

    @property
    def begin(self) -> datetime:
        """The first midnight."""
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """The midnight after the last day."""
        return datetime.combine(self.last, time(), UTC) + _ONE_DAY

    @property
    def before(self) -> "Days":
        """As many days, until the day before the first."""
        return Days(self.first - (self.last - self.first) - _ONE_DAY, self.first - _ONE_DAY)


def parse_days(since: str | None, until: str | None, now: datetime) -> Days:
    """The days in which --from and --to lie (`7d`: the day a week ago); the last seven unless given.

    Raises UserError when they make no range.
    """
    today = now.date()
    last = today if until is None else parse_time(until, "--to", now).date()
    first = last - (DEFAULT_DAYS - 1) * _ONE_DAY if since is None else parse_time(since, "--from", now).date()
    if first > today:
        raise UserError(f"--from {first} is in the future: today is {today} (UTC)")
    if first > last:
        raise UserError(f"--from {first} is after --to {last}: give the earlier day first")
    if first.year < 2000:
        raise UserError(f"--from {first}: there are no readings that old: give a day since 2000-01-01")
    return Days(first, last)


@dataclass(frozen=True)
class Choice:
    """Which devices are shown."""

    site_id: str | None = None
    below: float | None = None
    """Only those whose mean score is below that."""
    worst: int | None = None
    """At most so many."""


_FLEET = """
    WITH days AS MATERIALIZED (
        SELECT q.* FROM data_quality q
        WHERE q.day BETWEEN %(first)s AND %(last)s
          AND (%(site)s::text IS NULL OR q.device_id IN (SELECT device_id FROM devices WHERE site_id = %(site)s))
    ), fleet AS (
        SELECT device_id, count(*) AS days, avg(score) AS score, min(score) AS worst_score, sum(expected)::bigint AS expected,
               sum(received)::bigint AS received, sum(missing)::bigint AS missing, sum(invalid)::bigint AS invalid,
               sum(out_of_range)::bigint AS out_of_range, sum(late)::bigint AS late, sum(duplicates)::bigint AS duplicates
        FROM days GROUP BY device_id
    )
    SELECT f.*, d.site_id, w.worst_day, w.reason, count(*) OVER () AS matching,
           (SELECT count(*) FROM anomalies a WHERE a.device_id = f.device_id AND a.started_at < %(end)s
            AND (a.last_at >= %(begin)s OR (a.kind = 'silence' AND a.resolved_at IS NULL))) AS anomalies
    FROM fleet f
    JOIN devices d USING (device_id)
    JOIN LATERAL (
        SELECT day AS worst_day, reason FROM days WHERE days.device_id = f.device_id ORDER BY score, day DESC LIMIT 1
    ) w ON true
    WHERE %(below)s::double precision IS NULL OR f.score < %(below)s
    ORDER BY f.score, f.device_id COLLATE "C" LIMIT %(worst)s
"""


def of_fleet(connection: psycopg.Connection, days: Days, chosen: Choice) -> list[dict[str, Any]]:
    """One row per device, the worst first: the mean of its days' scores, and what was wrong on its worst day."""
    parameters = {
        "first": days.first,
        "last": days.last,
        "begin": days.begin,
        "end": days.end,
        "site": chosen.site_id,
        "below": chosen.below,
        "worst": chosen.worst,
    }
    return _rows(connection, _FLEET, parameters)


def of_device(connection: psycopg.Connection, days: Days, device_id: str) -> list[dict[str, Any]]:
    """One row per day on which the device was in service or sent something, in order."""
    return _rows(
        connection,
        "SELECT * FROM data_quality WHERE device_id = %(device)s AND day BETWEEN %(first)s AND %(last)s ORDER BY day",
        {"device": device_id, "first": days.first, "last": days.last},
    )


def mean_score(connection: psycopg.Connection, days: Days, device_id: str) -> float | None:
    """The mean of the days' scores; None when there is no day."""
    query = "SELECT avg(score) AS score FROM data_quality WHERE device_id = %(device)s AND day BETWEEN %(first)s AND %(last)s"
    (row,) = _rows(connection, query, {"device": device_id, "first": days.first, "last": days.last})
    score: float | None = row["score"]
    return score


def trends(connection: psycopg.Connection, days: Days, device_id: str) -> list[dict[str, Any]]:
    """Per metric that has readings: its average, the change against as many days before, and its slope."""
    query = """
        SELECT m.name AS metric, u.unit, c.*, t.slope_per_day, t.r2
        FROM unnest(%(metrics)s::text[]) WITH ORDINALITY AS m(name, place)
        LEFT JOIN device_metrics u ON u.device_id = %(device)s AND u.metric = m.name
        CROSS JOIN LATERAL change_against_previous(%(device)s, m.name, %(begin)s, %(end)s) c
        LEFT JOIN LATERAL trend_slope(%(device)s, m.name, %(begin)s, %(end)s) t ON true
        ORDER BY m.place
    """
    parameters = {
        "device": device_id,
        "metrics": [metric.name for metric in METRICS],
        "begin": days.begin,
        "end": days.end,
    }
    return _rows(connection, query, parameters)


def has_device(connection: psycopg.Connection, device_id: str) -> bool:
    """Whether the registry has it."""
    return connection.execute("SELECT FROM devices WHERE device_id = %s", [device_id]).fetchone() is not None


def _rows(connection: psycopg.Connection, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()
