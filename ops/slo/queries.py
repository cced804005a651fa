"""What `fleet slo` asks the database about a span of time: descents of an index, and samples where there is too much."""

from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg

from dashboards.reading.macros import TimeRange
from lambdas.watch.queries import IN_FLIGHT
from ops.rows import single_row

SLICES = 12
"""Moments of the span at which every device is looked at."""
SAMPLED_DEVICES = 1000
LONGEST_GAPS = timedelta(hours=1)
"""Each reading of it is looked at, so gaps are looked for at the end of a longer span only."""

_RATE = """
    SELECT max(loaded) / 60.0 FROM (
        SELECT sum(readings) OVER (
            ORDER BY loaded_at RANGE BETWEEN interval '59.999999 seconds' PRECEDING AND CURRENT ROW
        ) AS loaded
        FROM ingest.objects WHERE loaded_at > %(begin)s AND loaded_at <= %(end)s AND status = 'loaded'
    ) minutes
"""
# The first reading of every slice: of each device as many, whatever it sends. An object's last statement before its commit
# is loaded_at.
_LATENCY = """
    WITH chosen AS MATERIALIZED (
        SELECT device_id FROM devices ORDER BY hashtext(device_id), device_id LIMIT %(devices)s
    ), sampled AS MATERIALIZED (
        SELECT t.timestamp, t.received_at, t.object_id
        FROM chosen CROSS JOIN generate_series(0, %(slices)s - 1) slice
        CROSS JOIN LATERAL (
            SELECT timestamp, received_at, object_id FROM telemetry
            WHERE telemetry.device_id = chosen.device_id
              AND timestamp >= %(begin)s + slice * %(width)s AND timestamp < %(begin)s + (slice + 1) * %(width)s
            ORDER BY timestamp LIMIT 1
        ) t
    )
    SELECT count(*),
           percentile_disc(0.95) WITHIN GROUP (ORDER BY greatest(extract(epoch FROM loaded_at - timestamp), 0))::float8,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY greatest(extract(epoch FROM loaded_at - received_at), 0))::float8
    FROM sampled JOIN ingest.objects USING (object_id) WHERE loaded_at IS NOT NULL
"""
_BALANCE = """
    SELECT sum(expected)::bigint, sum(missing)::bigint, count(DISTINCT hour) FROM ingest.balance
    WHERE source = 'sequence' AND hour >= %(begin)s AND hour <= %(end)s - interval '1 hour'
"""
_GAPS = """
    SELECT sum(gaps.present)::bigint, sum(gaps.missing)::bigint, sum(CASE WHEN gaps.missing > 0 THEN
        least(gaps.missing, ingest.quarantined_numbers(device_id, %(begin)s, %(end)s)) ELSE 0 END)::bigint
    FROM devices CROSS JOIN LATERAL ingest.sequence_gaps(device_id, %(since)s, %(begin)s, %(end)s) gaps
"""
# In service at a moment: registered by then, and not taken out of it. Heard in time: a reading whose own time and arrival
# are no more than the device's patience apart, so that what comes from a backlog does not count.
_CONNECTED = """
    WITH fleet AS MATERIALIZED (
        SELECT d.device_id, d.registered_at, s.retired_at, greatest(
            %(offline_after)s, 2 * coalesce(d.reading_interval_seconds, y.reading_interval_seconds, 0) * interval '1 second'
        ) AS patience
        FROM devices d
        LEFT JOIN (
            SELECT device_type, max(reading_interval_seconds) AS reading_interval_seconds FROM device_types GROUP BY device_type
        ) y USING (device_type)
        LEFT JOIN ingest.devices_seen s USING (device_id)
        WHERE d.active
    ), moments AS (
        SELECT %(begin)s + slice * %(width)s AS at FROM generate_series(1, %(slices)s) slice
    )
    SELECT count(*), count(*) FILTER (WHERE EXISTS (
        SELECT FROM telemetry t
        WHERE t.device_id = fleet.device_id AND t.timestamp > at - patience AND t.timestamp <= at
          AND coalesce(t.received_at, t.timestamp) <= t.timestamp + patience
    ))
    FROM fleet CROSS JOIN moments
    WHERE registered_at <= at AND (retired_at IS NULL OR retired_at > at)
"""
_HOLDS_READINGS = """
    SELECT EXISTS (SELECT FROM telemetry WHERE timestamp > %(end)s - interval '1 day' AND timestamp <= %(end)s)
"""


class Latency(NamedTuple):
    """95th percentiles, in seconds."""

    readings: int
    from_device: float | None
    from_arrival: float | None
    """From AWS IoT Core on, of readings that say when that was."""


class Loss(NamedTuple):
    """Readings that are nowhere."""

    missing: int
    expected: int
    over: str


def highest_rate(connection: psycopg.Connection, span: TimeRange) -> float | None:
    """Readings a second, in the minute in which most were loaded; None: none was loaded."""
    (rate,) = single_row(connection.execute(_RATE, {"begin": span.begin, "end": span.end}))
    return None if rate is None else float(rate)


def latency(connection: psycopg.Connection, span: TimeRange) -> Latency:
    """Of a sample of the span, by the devices' clocks: the same number of readings of each device."""
    parameters = {"begin": span.begin, "width": span.length / SLICES, "slices": SLICES, "devices": SAMPLED_DEVICES}
    return Latency(*single_row(connection.execute(_LATENCY, parameters)))


def loss(connection: psycopg.Connection, span: TimeRange, now: datetime) -> Loss | None:
    """By the balance of the span's whole hours where that is drawn up, else by gaps in sequence numbers; None: neither.

    What is in quarantine is not lost, and of what may still be on its way nothing is said.
    """
    expected, missing, hours = single_row(connection.execute(_BALANCE, {"begin": span.begin, "end": span.end}))
    if expected:
        return Loss(missing, expected, f"{hours} closed hour{'s' if hours > 1 else ''}")
    end = min(span.end, now - IN_FLIGHT)
    begin = max(span.begin, end - LONGEST_GAPS)
    if begin >= end:
        return None
    parameters = {"begin": begin, "end": end, "since": begin - timedelta(days=1)}
    present, gaps, refused = single_row(connection.execute(_GAPS, parameters))
    if not present:
        return None
    return Loss(gaps - refused, present + gaps, f"{clock(begin)} to {clock(end)}")


def connected(connection: psycopg.Connection, span: TimeRange, offline_after: timedelta) -> tuple[int, int]:
    """Over the span's moments, how often devices in service were heard in time, and how often they should have been."""
    parameters = {
        "begin": span.begin,
        "width": span.length / SLICES,
        "slices": SLICES,
        "offline_after": offline_after,
    }
    whole, part = single_row(connection.execute(_CONNECTED, parameters))
    return part, whole


def holds_readings(connection: psycopg.Connection, span: TimeRange) -> bool:
    """Whether dashboards that are opened at the span's end have anything to show."""
    return bool(single_row(connection.execute(_HOLDS_READINGS, {"end": span.end}))[0])


def clock(at: datetime) -> str:
    """`13:05`, in UTC."""
    return at.strftime("%H:%M")
