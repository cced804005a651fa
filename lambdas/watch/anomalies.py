"""Anomalies that only time shows, and the end of those that are over: one statement each for the whole fleet.

Rows are written in the loaders' order, and what a loader holds is left for the next minute, so that neither can deadlock.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, cast

import psycopg

from lambdas.shared.anomalies import QUIET
from lambdas.shared.contract import METRICS

ORDER = 'device_id COLLATE "C", metric COLLATE "C", kind COLLATE "C"'

_SILENT = """
    INSERT INTO anomalies (device_id, kind, severity, started_at, last_at, readings, value, expected, score)
    SELECT device_id, 'silence', 'warning', heard_at, heard_at, 0, seconds, %(limit)s, seconds / %(limit)s
    FROM unnest(%(devices)s::text[], %(heard)s::timestamptz[], %(seconds)s::float8[]) AS silent(device_id, heard_at, seconds)
    LEFT JOIN LATERAL (
        SELECT true AS known FROM anomalies a
        WHERE a.device_id = silent.device_id AND a.kind = 'silence' AND a.started_at >= silent.heard_at LIMIT 1
    ) earlier ON true
    WHERE earlier.known IS NULL
    ORDER BY device_id COLLATE "C"
    ON CONFLICT DO NOTHING
"""
_HEARD = """
    WITH over AS (
        SELECT anomaly_id, heard.at FROM anomalies a
        LEFT JOIN unnest(%(devices)s::text[], %(heard)s::timestamptz[]) AS heard(device_id, at) USING (device_id)
        WHERE resolved_at IS NULL AND kind = 'silence' AND (heard.at IS NULL OR heard.at > started_at)
        ORDER BY device_id COLLATE "C" FOR UPDATE OF a SKIP LOCKED
    )
    UPDATE anomalies a SET
        resolved_at = clock_timestamp(),
        resolved_by = CASE WHEN at IS NULL THEN 'retired' ELSE 'recovered' END,
        last_at = coalesce(at, last_at),
        value = coalesce(extract(epoch FROM at - started_at), value),
        score = coalesce(extract(epoch FROM at - started_at) / expected, score)
    FROM over WHERE a.anomaly_id = over.anomaly_id
"""
_RETIRED = f"""
    WITH over AS (
        SELECT anomaly_id FROM anomalies WHERE resolved_at IS NULL AND device_id = ANY(%(devices)s)
        ORDER BY {ORDER} FOR UPDATE SKIP LOCKED
    )
    UPDATE anomalies a SET resolved_at = clock_timestamp(), resolved_by = 'retired'
    FROM over WHERE a.anomaly_id = over.anomaly_id
"""  # noqa: S608 - texts of ours, here and below


def _good(metric: str, reading: str) -> str:
    """Whether the reading has a plausible value of the metric that the column `metric` names."""
    cases = " ".join(
        f"WHEN '{each.name}' THEN {reading}.{each.name} IS NOT NULL AND {reading}.quality & {each.out_of_range} = 0"
        for each in METRICS
    )
    return f"CASE {metric} {cases} END"


# By the device's clock, which may be behind; a reading need not have every metric, so a few more than the newest are looked at.
_RECOVERED = f"""
    WITH over AS (
        SELECT anomaly_id FROM anomalies a JOIN device_latest l USING (device_id)
        WHERE resolved_at IS NULL AND kind IN ('out_of_range', 'spike', 'jump') AND l.timestamp >= a.last_at + %(quiet)s
          AND EXISTS (
            SELECT FROM telemetry t
            WHERE t.device_id = a.device_id AND t.timestamp >= %(since)s
              AND t.timestamp > l.timestamp - %(quiet)s AND t.timestamp <= l.timestamp
              AND {_good("a.metric", "t")}
          )
        ORDER BY {ORDER} FOR UPDATE OF a SKIP LOCKED
    )
    UPDATE anomalies a SET resolved_at = clock_timestamp(), resolved_by = 'recovered'
    FROM over WHERE a.anomaly_id = over.anomaly_id
"""  # noqa: S608

# Of what loaders find, from when AWS IoT Core received the reading: what a device kept to itself is not our delay. A day back
# leaves out the chunks in which nothing of it can be.
_DETECTION_SECONDS = """
    SELECT percentile_disc(0.95) WITHIN GROUP (
        ORDER BY greatest(extract(epoch FROM detected_at - greatest(started_at, reading.received_at)), 0)
    )
    FROM lately LEFT JOIN LATERAL (
        SELECT received_at FROM telemetry t
        WHERE t.device_id = lately.device_id AND t.timestamp = lately.started_at
          AND t.timestamp > %(now)s - interval '1 day'
        LIMIT 1
    ) reading ON true
    WHERE kind IN ('out_of_range', 'spike', 'jump')
"""
_STATE = f"""
    WITH lately AS MATERIALIZED (
        SELECT * FROM anomalies
        WHERE detected_at > %(now)s - interval '10 minutes' AND resolved_by IS DISTINCT FROM 'late'
        ORDER BY detected_at DESC LIMIT 5000
    ), going_on AS MATERIALIZED (
        SELECT severity, metadata FROM anomalies WHERE resolved_at IS NULL
    )
    SELECT count(*) FILTER (WHERE severity = 'info'),
           count(*) FILTER (WHERE severity = 'warning'),
           count(*) FILTER (WHERE severity = 'critical'),
           (SELECT count(*) FROM lately WHERE detected_at > %(now)s - interval '1 minute'),
           count(*) FILTER (
               WHERE severity = 'critical' AND (metadata ->> 'critical_at')::timestamptz > %(now)s - interval '5 minutes'
           ) + (
               SELECT count(*) FROM lately WHERE severity = 'critical' AND detected_at > %(now)s - interval '5 minutes'
               AND NOT metadata ? 'critical_at'
           ),
           ({_DETECTION_SECONDS})
    FROM going_on
"""  # noqa: S608
_DETECTED = f"""
    WITH lately AS MATERIALIZED (
        SELECT * FROM anomalies
        WHERE detected_at > %(now)s AND detected_at <= %(until)s AND resolved_by IS DISTINCT FROM 'late'
        ORDER BY detected_at DESC LIMIT 5000
    )
    {_DETECTION_SECONDS}
"""  # noqa: S608


class State(NamedTuple):
    """How many anomalies there are, and how soon they are found."""

    open_info: int
    open_warning: int
    open_critical: int
    detected: int
    """In the last minute."""
    critical: int
    """Found, or become so, in the last five minutes."""
    detection_seconds: float | None
    """From AWS IoT Core to the episode, of 95 in 100 that loaders found in the last ten minutes; None: they found none."""

    @property
    def open(self) -> int:
        """Of every severity."""
        return self.open_info + self.open_warning + self.open_critical


def silence(
    connection: psycopg.Connection,
    now: datetime,
    last_seen: Mapping[str, datetime],
    in_service: Mapping[str, datetime],
    offline_after: timedelta,
) -> None:
    """Opens an episode for each device in service that is silent, and resolves those of devices that are not any more.

    `last_seen` has every device that is known. One that is out of service and silent has none of its episodes left open. An
    episode that an operator resolved is not opened again before the device was heard.
    """
    known = list(last_seen)
    connection.execute(_HEARD, {"devices": known, "heard": [last_seen[device] for device in known]})
    silent = [device for device, at in last_seen.items() if now - at > offline_after]
    if gone := [device for device in silent if device not in in_service]:
        connection.execute(_RETIRED, {"devices": gone})
    if expected := [device for device in silent if device in in_service]:
        connection.execute(
            _SILENT,
            {
                "devices": expected,
                "heard": [last_seen[device] for device in expected],
                "seconds": [(now - last_seen[device]).total_seconds() for device in expected],
                "limit": offline_after.total_seconds(),
            },
        )


def recover(connection: psycopg.Connection, since: datetime) -> None:
    """Resolves what loaders found, once a device has sent good values of the metric for the quiet period.

    Only readings from `since` on are looked at. One that went silent meanwhile keeps its episode open.
    """
    connection.execute(_RECOVERED, {"quiet": QUIET, "since": since})


def state(connection: psycopg.Connection, now: datetime) -> State:
    """What there is now."""
    row = connection.execute(_STATE, {"now": now}).fetchone()
    *counts, seconds = cast(tuple[int, int, int, int, int, float | None], row)
    return State(*cast(tuple[int, int, int, int, int], counts), None if seconds is None else float(seconds))


def detection_seconds(connection: psycopg.Connection, begin: datetime, end: datetime) -> float | None:
    """As in `state`, of the newest 5,000 that were found in a span of time; None: loaders found none in it."""
    row = connection.execute(_DETECTED, {"now": begin, "until": end}).fetchone()
    (seconds,) = cast(tuple[float | None], row)
    return None if seconds is None else float(seconds)
