"""Values that do not move at all: a sensor that is stuck, though its device goes on sending.

Judged by the rollup by the minute. What it says is read first and written after that: only where a statement does nothing but
read does the Community edition leave out the part of the view that it would compute from raw readings.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

import psycopg
from psycopg.rows import namedtuple_row

from lambdas.shared.contract import METRICS
from lambdas.watch.anomalies import ORDER

WINDOW = timedelta(minutes=30)
"""In which nothing may have moved: the least that `metrics.stuck_after_minutes` can be, but for 0, which is never."""
LEAST_READINGS = 20
"""In that window, to tell a value that does not move from one that is seldom measured."""
SETTLED = timedelta(minutes=4)
"""Minutes younger than that may still get readings."""
STALE = timedelta(minutes=15)
"""A rollup that ends before that says nothing of what is now."""
_MINUTE = timedelta(minutes=1)
_MISSED = 2 * _MINUTE
"""A value may be measured so much later than the window begins, for it to be known all along."""
_SHORT = {"temperature": "temp", "humidity": "humidity", "pressure": "pressure", "battery": "battery"}
"""Names of metrics in the rollups."""

_WIDE = ", ".join(
    f"min(min_{short}) AS low_{short}, max(max_{short}) AS high_{short}, sum(count_{short})::bigint AS readings_{short}, "
    f"coalesce(sum(count_{short}) FILTER (WHERE bucket >= %(end)s - interval '1 minute'), 0)::bigint AS newest_{short}, "
    f"min(bucket) FILTER (WHERE count_{short} > 0) AS first_{short}, max(bucket) FILTER (WHERE count_{short} > 0) AS last_{short}"
    for short in (_SHORT[metric.name] for metric in METRICS)
)
_TALL = ", ".join(
    f"('{name}', low_{short}, high_{short}, readings_{short}, newest_{short}, first_{short}, last_{short}, latest.{name})"
    for name, short in ((metric.name, _SHORT[metric.name]) for metric in METRICS)
)
_END = """
    SELECT least(stored, %(settled)s) FROM rollup.stored_until() AS stored WHERE stored > %(stale)s
"""
_SEEN = f"""
    SELECT tall.*, wide.device_id, m.stuck_after_minutes, d.active, opened.anomaly_id, opened.value AS opened_value
    FROM (
        SELECT device_id, {_WIDE} FROM telemetry_1m
        WHERE bucket >= %(begin)s AND bucket < %(end)s GROUP BY device_id
    ) wide
    LEFT JOIN device_latest latest USING (device_id)
    CROSS JOIN LATERAL (VALUES {_TALL}) AS tall(metric, low, high, readings, newest, first, last, latest)
    JOIN device_metrics m ON m.device_id = wide.device_id AND m.metric = tall.metric
    JOIN devices d ON d.device_id = wide.device_id
    LEFT JOIN anomalies opened ON opened.device_id = wide.device_id AND opened.metric = tall.metric
        AND opened.kind = 'stuck' AND opened.resolved_at IS NULL
    WHERE tall.readings > 0 AND (tall.low = tall.high OR opened.anomaly_id IS NOT NULL)
      AND (m.stuck_after_minutes > 0 OR opened.anomaly_id IS NOT NULL)
"""  # noqa: S608 - texts of ours, here and below
_RESTED = " UNION ALL ".join(
    f"""
    SELECT asked.device_id, asked.metric, rested.* FROM asked CROSS JOIN LATERAL (
        SELECT min(min_{short}) AS low, max(max_{short}) AS high, sum(count_{short})::bigint AS readings, min(bucket) AS first
        FROM telemetry_1m r
        WHERE r.device_id = asked.device_id AND r.bucket >= asked.since AND r.bucket >= %(begin)s AND r.bucket < %(end)s
          AND count_{short} > 0
    ) rested WHERE asked.metric = '{name}'
    """  # noqa: S608
    for name, short in _SHORT.items()
)
_LOOK_BACK = f"""
    WITH asked AS (
        SELECT * FROM unnest(%(devices)s::text[], %(metrics)s::text[], %(since)s::timestamptz[])
            AS asked(device_id, metric, since)
    )
    {_RESTED}
"""  # noqa: S608
_SAID = """
    SELECT DISTINCT ON (device_id, metric) device_id, metric, value, last_at AS since FROM anomalies
    JOIN unnest(%(devices)s::text[], %(metrics)s::text[]) AS asked(device_id, metric) USING (device_id, metric)
    WHERE kind = 'stuck' AND resolved_at > %(since)s
      AND coalesce(resolved_by, '') NOT IN ('recovered', 'retired', 'late')
    ORDER BY device_id, metric, resolved_at DESC
"""
_OVER = f"""
    WITH over AS (
        SELECT anomaly_id FROM anomalies WHERE anomaly_id = ANY(%(over)s) AND resolved_at IS NULL
        ORDER BY {ORDER} FOR UPDATE SKIP LOCKED
    )
    UPDATE anomalies a SET resolved_at = clock_timestamp(), resolved_by = 'recovered'
    FROM over WHERE a.anomaly_id = over.anomaly_id
"""  # noqa: S608
_WRITE = """
    INSERT INTO anomalies AS known (device_id, metric, kind, severity, started_at, last_at, readings, value, metadata)
    SELECT device_id, metric, 'stuck', 'warning', started_at, last_at, readings, value,
           jsonb_build_object('stuck_after_minutes', minutes)
    FROM unnest(
        %(devices)s::text[], %(metrics)s::text[], %(started)s::timestamptz[], %(last)s::timestamptz[], %(readings)s::bigint[],
        %(values)s::float8[], %(minutes)s::integer[]
    ) AS found(device_id, metric, started_at, last_at, readings, value, minutes)
    ORDER BY device_id COLLATE "C", metric COLLATE "C"
    ON CONFLICT (device_id, metric, kind) WHERE resolved_at IS NULL DO UPDATE SET
        last_at = excluded.last_at, readings = known.readings + excluded.readings
        WHERE excluded.last_at > known.last_at
"""


class Value(NamedTuple):
    """What the window shows of a metric of a device, where it rests or has an open episode."""

    metric: str
    low: float
    high: float
    readings: int
    newest: int
    """Readings in the window's last minute."""
    first: datetime
    """First and last minute with a reading."""
    last: datetime
    latest: float | None
    """Of the device's newest reading, if that has one; it may be younger than the window."""
    device_id: str
    stuck_after_minutes: int
    active: bool
    anomaly_id: int | None
    """Of the open episode."""
    opened_value: float | None

    @property
    def moves(self) -> bool:
        """Whether it differs from itself, or from what it is now."""
        return self.low != self.high or self.latest not in (None, self.low)


class Stuck(NamedTuple):
    """An episode to be opened, or readings to be added to the one that is open."""

    device_id: str
    metric: str
    started_at: datetime
    last_at: datetime
    readings: int
    value: float
    stuck_after_minutes: int


def over(seen: Sequence[Value]) -> list[int]:
    """The episodes of values that move, or are not to be judged any more."""
    return [
        each.anomaly_id
        for each in seen
        if each.anomaly_id is not None and (each.moves or each.low != each.opened_value or not each.stuck_after_minutes)
    ]


def going_on(seen: Sequence[Value]) -> list[Stuck]:
    """What is open and rests."""
    done = set(over(seen))
    return [
        _stuck(each, each.first, each.newest)
        for each in seen
        if each.anomaly_id is not None and each.anomaly_id not in done and each.newest
    ]


def candidates(seen: Sequence[Value], begin: datetime) -> list[Value]:
    """What is not open and rests for the whole window."""
    return [
        each
        for each in seen
        if each.anomaly_id is None
        and each.active
        and not each.moves
        and each.stuck_after_minutes
        and each.readings >= LEAST_READINGS
        and each.first <= begin + _MISSED
    ]


def _stuck(value: Value, started_at: datetime, readings: int) -> Stuck:
    return Stuck(value.device_id, value.metric, started_at, value.last, readings, value.low, value.stuck_after_minutes)


def stuck(connection: psycopg.Connection, now: datetime) -> None:
    """Opens or extends an episode for each value that does not move, and resolves those of values that do.

    An episode that an operator resolved is not opened again for a day, unless the value moved meanwhile. Where the rollup is
    stale, which has an alarm of its own, nothing is judged.
    """
    settled = now.replace(second=0, microsecond=0) - SETTLED
    row = connection.execute(_END, {"settled": settled, "stale": now - STALE}).fetchone()
    if row is None:
        return
    (end,) = cast(tuple[datetime], row)
    begin = end - WINDOW
    seen = [Value(*each) for each in _read(connection, _SEEN, {"begin": begin, "end": end})]
    if moved := over(seen):
        connection.execute(_OVER, {"over": moved})
    found = going_on(seen)
    if rests := candidates(seen, begin):
        found += _new(connection, rests, end)
    if found:
        _write(connection, found)


def _new(connection: psycopg.Connection, rests: Sequence[Value], end: datetime) -> list[Stuck]:
    """Of the candidates those that have rested for as long as their type may, and of which nobody said that they may."""
    said = {
        (each.device_id, each.metric): each.since
        for each in _read(connection, _SAID, {**_keys(rests), "since": end - timedelta(days=1)})
        for value in rests
        if (value.device_id, value.metric, value.low) == (each.device_id, each.metric, each.value)
    }
    since = {(each.device_id, each.metric): end - timedelta(minutes=each.stuck_after_minutes) for each in rests}
    further = [
        each
        for each in rests
        if (each.device_id, each.metric) in said or timedelta(minutes=each.stuck_after_minutes) > WINDOW
    ]
    back: dict[tuple[str, str], Any] = {}
    if further:
        asked = [
            min(since[key], said.get(key, since[key])) for key in ((each.device_id, each.metric) for each in further)
        ]
        parameters = {**_keys(further), "since": asked, "begin": min(asked), "end": end}
        back = {(each.device_id, each.metric): each for each in _read(connection, _LOOK_BACK, parameters)}
    found = []
    for each in rests:
        key = each.device_id, each.metric
        if key not in back:
            found.append(_stuck(each, each.first, each.readings))
        elif key not in said and back[key].low == back[key].high and back[key].first <= since[key] + _MISSED:
            found.append(_stuck(each, back[key].first, back[key].readings))
        elif key in said and back[key].low != back[key].high and timedelta(minutes=each.stuck_after_minutes) <= WINDOW:
            found.append(_stuck(each, each.first, each.readings))
    return found


def _keys(values: Sequence[Value]) -> dict[str, Any]:
    return {"devices": [each.device_id for each in values], "metrics": [each.metric for each in values]}


def _read(connection: psycopg.Connection, query: str, parameters: dict[str, Any]) -> list[Any]:
    """Planned for this very time: a plan for any time would not know which part of a view it can leave out."""
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(query.encode(), parameters, prepare=False).fetchall()


def _write(connection: psycopg.Connection, found: Sequence[Stuck]) -> None:
    devices, metrics, started, last, readings, values, minutes = (list(column) for column in zip(*found, strict=True))
    connection.execute(
        _WRITE,
        {
            "devices": devices,
            "metrics": metrics,
            "started": started,
            "last": last,
            "readings": readings,
            "values": values,
            "minutes": minutes,
        },
    )
