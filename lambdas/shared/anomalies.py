"""Episodes of `anomalies`: opened by the first reading that shows one, extended by those that follow, never a row each.

A finding in readings that are older than an hour is history: it is kept as an episode that is resolved already ("late"), so
that a replay pages nobody and does not disturb what goes on now. One that lies wholly within an episode that is over is that
episode, seen again, and changes nothing: an object may be loaded more than once.

Rows are written in the order of device, metric and kind (code points, which is collation "C"), so that parallel loaders wait
for each other and cannot deadlock.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg

Kind = Literal["out_of_range", "spike", "jump", "stuck", "silence"]
Severity = Literal["info", "warning", "critical"]

KINDS: tuple[Kind, ...] = ("out_of_range", "spike", "jump", "stuck", "silence")
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""The least first."""

LATE = timedelta(hours=1)
"""How old readings are when what is found in them is history."""
QUIET = timedelta(minutes=10)
"""What is further apart, by the device's clock, is not the same episode."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Readings of one device that show an anomaly of one kind in one metric; times UTC, by the device's clock."""

    device_id: str
    metric: str | None
    """None: the device as a whole."""
    kind: Kind
    severity: Severity
    started_at: datetime
    """Of the first reading that shows it."""
    last_at: datetime
    readings: int
    value: float | None
    """Of the reading with the greatest score, as `expected`."""
    expected: float | None
    score: float | None
    metadata: Mapping[str, Any] | None = None


def record(cursor: psycopg.Cursor, findings: Sequence[Finding]) -> None:
    """Opens or extends an episode for each device, metric and kind, in the transaction that stores the readings.

    One statement; none without findings. Takes part in the caller's transaction, and waits for another that extends the same
    episode until that commits: so call it late. Raises psycopg.Error.
    """
    if not findings:
        return
    rows = merged(findings)
    cursor.execute(
        _RECORD,
        {
            "late": LATE,
            "quiet": QUIET,
            "devices": [each.device_id for each in rows],
            "metrics": [each.metric for each in rows],
            "kinds": [each.kind for each in rows],
            "severities": [each.severity for each in rows],
            "started": [each.started_at for each in rows],
            "last": [each.last_at for each in rows],
            "readings": [each.readings for each in rows],
            "values": [each.value for each in rows],
            "expected": [each.expected for each in rows],
            "scores": [each.score for each in rows],
            "metadata": [json.dumps(dict(each.metadata or {})) for each in rows],
        },
    )


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding per device, metric and kind: of two, the value, expected and metadata of that with the greater score."""
    found: dict[tuple[str, str | None, Kind], Finding] = {}
    for each in findings:
        key = (each.device_id, each.metric, each.kind)
        known = found.get(key)
        found[key] = each if known is None else _merge(known, each)
    return list(found.values())


def _merge(one: Finding, other: Finding) -> Finding:
    worse = other if _rank(other.score) > _rank(one.score) else one
    milder = one if worse is other else other
    return replace(
        worse,
        severity=max(one.severity, other.severity, key=SEVERITIES.index),
        started_at=min(one.started_at, other.started_at),
        last_at=max(one.last_at, other.last_at),
        readings=one.readings + other.readings,
        metadata={**(milder.metadata or {}), **(worse.metadata or {})},
    )


def _rank(score: float | None) -> float:
    return float("-inf") if score is None else score


def _extended(incoming: str) -> str:
    """What SET makes of the row `known`, to which the row `incoming` is added."""
    worse = f"coalesce({incoming}.score, '-Infinity') > coalesce(known.score, '-Infinity')"
    greater = (
        f"array_position(ARRAY['info', 'warning', 'critical'], {incoming}.severity)"
        " > array_position(ARRAY['info', 'warning', 'critical'], known.severity)"
    )
    return f"""
        started_at = least(known.started_at, {incoming}.started_at),
        last_at = greatest(known.last_at, {incoming}.last_at),
        readings = known.readings + {incoming}.readings,
        severity = CASE WHEN {greater} THEN {incoming}.severity ELSE known.severity END,
        value = CASE WHEN {worse} THEN {incoming}.value ELSE known.value END,
        expected = CASE WHEN {worse} THEN {incoming}.expected ELSE known.expected END,
        score = CASE WHEN {worse} THEN {incoming}.score ELSE known.score END,
        metadata = CASE WHEN {worse} THEN known.metadata || {incoming}.metadata ELSE {incoming}.metadata || known.metadata END
            || CASE WHEN {greater} AND {incoming}.severity = 'critical'
                    THEN jsonb_build_object('critical_at', clock_timestamp()) ELSE '{{}}' END
    """


# An episode that is looked for began at most a day before, or 30 days for what is late: so the index leads to few rows, however
# long a device has been there. LIMIT keeps it so: without, the planner would rather read the whole table.
_RECORD = f"""
    WITH incoming AS MATERIALIZED (
        SELECT device_id, metric, kind, severity, started_at, last_at, readings, value, expected, score,
               metadata::jsonb AS metadata, last_at < clock_timestamp() - %(late)s AS late
        FROM unnest(
            %(devices)s::text[], %(metrics)s::text[], %(kinds)s::text[], %(severities)s::text[],
            %(started)s::timestamptz[], %(last)s::timestamptz[], %(readings)s::bigint[],
            %(values)s::float8[], %(expected)s::float8[], %(scores)s::float8[], %(metadata)s::text[]
        ) AS f(device_id, metric, kind, severity, started_at, last_at, readings, value, expected, score, metadata)
    ), news AS MATERIALIZED (
        SELECT incoming.*, near.anomaly_id AS near_id, near.resolved_at IS NOT NULL AS near_is_over
        FROM incoming LEFT JOIN LATERAL (
            SELECT anomaly_id, resolved_at FROM anomalies k
            WHERE incoming.late AND k.device_id = incoming.device_id AND k.kind = incoming.kind
              AND k.metric IS NOT DISTINCT FROM incoming.metric
              AND k.started_at BETWEEN incoming.started_at - interval '30 days' AND incoming.last_at + %(quiet)s
              AND k.last_at >= incoming.started_at - %(quiet)s
              AND (k.resolved_at IS NULL OR k.resolved_by = 'late')
            ORDER BY k.resolved_at IS NULL DESC,
                     greatest(k.started_at - incoming.last_at, incoming.started_at - k.last_at) LIMIT 1
        ) near ON true
        LEFT JOIN LATERAL (
            SELECT true AS known FROM anomalies k
            WHERE k.device_id = incoming.device_id AND k.kind = incoming.kind
              AND k.metric IS NOT DISTINCT FROM incoming.metric
              AND k.started_at >= incoming.started_at - CASE WHEN incoming.late THEN interval '30 days' ELSE interval '1 day' END
              AND k.started_at <= incoming.started_at
              AND k.last_at >= incoming.last_at
              AND (incoming.late OR k.resolved_at IS NOT NULL)
            LIMIT 1
        ) seen ON true
        WHERE seen.known IS NULL
    ), locked AS MATERIALIZED (
        SELECT known.anomaly_id FROM news JOIN anomalies known ON known.anomaly_id = news.near_id
        WHERE news.near_is_over
        ORDER BY news.device_id COLLATE "C", news.metric COLLATE "C", news.kind COLLATE "C"
        FOR UPDATE OF known
    ), extended AS (
        UPDATE anomalies known SET {_extended("news")}
        FROM news JOIN locked ON locked.anomaly_id = news.near_id WHERE known.anomaly_id = news.near_id
    )
    INSERT INTO anomalies AS known (
        device_id, metric, kind, severity, started_at, last_at, readings, value, expected, score, metadata,
        resolved_at, resolved_by
    )
    SELECT device_id, metric, kind, severity, started_at, last_at, readings, value, expected, score, metadata,
           CASE WHEN late AND near_id IS NULL THEN clock_timestamp() END, CASE WHEN late AND near_id IS NULL THEN 'late' END
    FROM news WHERE near_id IS NULL OR NOT near_is_over
    ORDER BY device_id COLLATE "C", metric COLLATE "C", kind COLLATE "C"
    ON CONFLICT (device_id, metric, kind) WHERE resolved_at IS NULL DO UPDATE SET {_extended("excluded")}
"""  # noqa: S608 - texts of ours; every value is a parameter
