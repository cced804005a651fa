"""Anomalies in the database: those that a filter chooses, one with the readings around it, and resolving."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lambdas.shared.contract import METRICS

AROUND = 10
"""Readings before, within and after an episode that are shown."""
FALSE_POSITIVE = "False positive"
"""How `metadata.resolution` begins where nothing was wrong."""

Row = dict[str, Any]
Became = Literal["resolved", "marked", "unchanged"]


@dataclass(frozen=True)
class Filter:
    """Which episodes are listed; what is None or empty leaves none out."""

    only_open: bool = True
    device_id: str | None = None
    kinds: Sequence[str] = ()
    metrics: Sequence[str] = ()
    severities: Sequence[str] = ()
    since: datetime | None = None
    """That were found since then, or go on."""


_CHOSEN = """
    (NOT %(only_open)s OR a.resolved_at IS NULL)
    AND (%(device_id)s::text IS NULL OR a.device_id = %(device_id)s)
    AND (%(kinds)s::text[] = '{}' OR a.kind = ANY(%(kinds)s))
    AND (%(metrics)s::text[] = '{}' OR a.metric = ANY(%(metrics)s))
    AND (%(severities)s::text[] = '{}' OR a.severity = ANY(%(severities)s))
    AND (%(since)s::timestamptz IS NULL OR a.detected_at >= %(since)s OR a.resolved_at IS NULL)
"""


def listed(connection: psycopg.Connection, chosen: Filter, limit: int) -> tuple[list[Row], int]:
    """The newest so many, and how many there are."""
    parameters = {
        "only_open": chosen.only_open,
        "device_id": chosen.device_id,
        "kinds": list(chosen.kinds),
        "metrics": list(chosen.metrics),
        "severities": list(chosen.severities),
        "since": chosen.since,
        "limit": limit,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT a.*, d.site_id, clock_timestamp() AS now FROM anomalies a LEFT JOIN devices d USING (device_id) "  # noqa: S608
            f"WHERE {_CHOSEN} ORDER BY a.detected_at DESC, a.anomaly_id DESC LIMIT %(limit)s".encode(),
            parameters,
        ).fetchall()
    if len(rows) < limit:
        return rows, len(rows)
    row = connection.execute(f"SELECT count(*) FROM anomalies a WHERE {_CHOSEN}".encode(), parameters).fetchone()  # noqa: S608
    return rows, row[0] if row else 0


def has_device(connection: psycopg.Connection, device_id: str) -> bool:
    """Whether the registry, or an anomaly, knows the device."""
    found = connection.execute(
        "SELECT FROM devices WHERE device_id = %(id)s UNION ALL SELECT FROM anomalies WHERE device_id = %(id)s LIMIT 1",
        {"id": device_id},
    )
    return found.fetchone() is not None


def one(connection: psycopg.Connection, anomaly_id: int) -> Row | None:
    """An episode with its device's site, and the metric's unit and plausible range."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT a.*, clock_timestamp() AS now, d.name AS device_name, d.site_id, s.name AS site_name, s.customer, "
            "m.unit, m.low, m.high FROM anomalies a LEFT JOIN devices d USING (device_id) LEFT JOIN sites s USING (site_id) "
            "LEFT JOIN device_metrics m ON m.device_id = a.device_id AND m.metric = a.metric WHERE a.anomaly_id = %s",
            (anomaly_id,),
        ).fetchone()


# Within a day of it, so that no chunk is looked into that has nothing to do with it.
_AROUND = """
    WITH chosen AS (
        (
            SELECT 'before' AS part, t.* FROM telemetry t
            WHERE device_id = %(device)s AND timestamp < %(started)s AND timestamp >= %(started)s - interval '1 day'
            ORDER BY timestamp DESC, seq DESC LIMIT %(around)s
        ) UNION ALL (
            SELECT 'within', t.* FROM telemetry t
            WHERE device_id = %(device)s AND timestamp >= %(started)s AND timestamp <= %(last)s
            ORDER BY timestamp, seq LIMIT %(around)s
        ) UNION ALL (
            SELECT 'after', t.* FROM telemetry t
            WHERE device_id = %(device)s AND timestamp > %(last)s AND timestamp <= %(last)s + interval '1 day'
            ORDER BY timestamp, seq LIMIT %(around)s
        )
    )
    SELECT part, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at
    FROM chosen ORDER BY timestamp, seq
"""


def around(connection: psycopg.Connection, episode: Mapping[str, Any]) -> list[Row]:
    """Its readings: the last before it, the first of it, and the first after it."""
    parameters = {
        "device": episode["device_id"],
        "started": episode["started_at"],
        "last": episode["last_at"],
        "around": AROUND,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_AROUND, parameters).fetchall()


def resolve(
    connection: psycopg.Connection, ids: Sequence[int], *, by: str, note: str, false_positive: bool
) -> list[tuple[Became, Row]]:
    """Resolves those that are open, in the order of the ids. What is resolved stays as it is, but may yet be marked as false.

    To be called in a transaction. The watch passes over what is locked here, and a loader waits for the commit.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "SELECT * FROM anomalies WHERE anomaly_id = ANY(%s) "
            'ORDER BY device_id COLLATE "C", metric COLLATE "C", kind COLLATE "C", anomaly_id FOR UPDATE',
            (list(ids),),
        )
        before = {row["anomaly_id"]: row for row in cursor}
        done: list[tuple[Became, Row]] = []
        for anomaly_id in dict.fromkeys(ids):
            row = before[anomaly_id]
            said = {"note": note, **({"resolution": f"{FALSE_POSITIVE} - {note}"} if false_positive else {})}
            if row["resolved_at"] is not None and (not false_positive or is_false_positive(row)):
                done.append(("unchanged", row))
                continue
            after = cursor.execute(
                "UPDATE anomalies SET resolved_by = CASE WHEN resolved_at IS NULL THEN %s ELSE resolved_by END, "
                "resolved_at = coalesce(resolved_at, clock_timestamp()), metadata = metadata || %s "
                "WHERE anomaly_id = %s RETURNING *",
                (by, Jsonb(said), anomaly_id),
            ).fetchone()
            done.append(("resolved" if row["resolved_at"] is None else "marked", after or row))
        return done


def unknown(connection: psycopg.Connection, ids: Sequence[int]) -> list[int]:
    """Those that there are not."""
    rows = connection.execute("SELECT anomaly_id FROM anomalies WHERE anomaly_id = ANY(%s)", (list(ids),)).fetchall()
    known = {anomaly_id for (anomaly_id,) in rows}
    return [anomaly_id for anomaly_id in dict.fromkeys(ids) if anomaly_id not in known]


def is_false_positive(row: Mapping[str, Any]) -> bool:
    """Whether somebody said so, by the command or by hand."""
    return str(row["metadata"].get("resolution", "")).lower().startswith(FALSE_POSITIVE.lower())


METRIC_NAMES = tuple(metric.name for metric in METRICS)
