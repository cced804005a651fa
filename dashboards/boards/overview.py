"""iot-overview: is the fleet well, and if not, which devices."""

from dashboards import annotations, links, units, variables
from dashboards.board import Board, Section
from dashboards.levels import FLEET, by_range
from dashboards.panels import Field, chart, number, rows
from dashboards.variables import SITE
from lambdas.shared.contract import METRICS

_HEARD = "coalesce(least(l.received_at, now()), l.timestamp)"
_DEVICES = f"""
FROM devices d LEFT JOIN device_latest l USING (device_id)
WHERE d.active AND {SITE}
"""

# Sequence numbers say what a device sent; a jump of more than a million is a counter that was set anew.
_MISSING = f"""
SELECT CASE WHEN sum(present) > 0 THEN 1e6 * sum(lost) / (sum(present) + sum(lost)) END AS missing
FROM (
    SELECT present, CASE WHEN span - present BETWEEN 1 AND 1000000 THEN span - present ELSE 0 END AS lost
    FROM (
{
    by_range(
        f'''
        SELECT sum(reading_count) AS present, max(last_seq) - min(first_seq) + 1 AS span
        FROM @view WHERE $__timeFilter(bucket) AND @chosen AND first_seq > 0 AND {SITE}
        GROUP BY device_id
''',
        FLEET,
    )
}
    ) devices
) parts
"""

_METRIC = (
    "CASE ${metric:sqlstring} "
    + " ".join(f"WHEN '{name}' THEN {{0}}_{short}" for name, short in units.SHORT_NAMES.items())
    + " END"
)


def _of_metric(kind: str) -> str:
    return _METRIC.replace("{0}", kind)


_FLEET_METRIC = by_range(
    f"""
SELECT bucket AS time,
       sum({_of_metric("avg")} * {_of_metric("count")}) / nullif(sum({_of_metric("count")}), 0)
           AS "${{metric:raw}} average",
       min({_of_metric("min")}) AS "${{metric:raw}} lowest", max({_of_metric("max")}) AS "${{metric:raw}} highest"
FROM @view WHERE $__timeFilter(bucket) AND @chosen AND {SITE}
GROUP BY bucket
""",
    FLEET,
)

# Without the interval that has just begun, which would look as if the rate fell.
_INGEST_RATE = """
SELECT $__timeGroupAlias(loaded_at, $__interval), sum(rows) * 1000.0 / $__interval_ms AS "rows",
       sum(duplicates) * 1000.0 / $__interval_ms AS "duplicates"
FROM ingest.objects WHERE $__timeFilter(loaded_at)
    AND loaded_at < to_timestamp(floor(extract(epoch FROM now()) * 1000 / $__interval_ms) * $__interval_ms / 1000.0)
GROUP BY 1 ORDER BY 1
"""

_LATENCY = """
SELECT $__timeGroupAlias(loaded_at, $__interval),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - last_timestamp)) AS "newest, p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - last_timestamp)) AS "newest, p95",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - first_timestamp)) AS "oldest, p50"
FROM ingest.objects WHERE $__timeFilter(loaded_at) AND last_timestamp IS NOT NULL
GROUP BY 1 ORDER BY 1
"""

BOARD = Board(
    uid="iot-overview",
    title="IoT overview",
    description="Whether the fleet is well: who is heard, how fast readings come, what is missing, what is odd.",
    variables=[variables.site(), variables.metric()],
    annotations=[annotations.anomalies(f"severity = 'critical' AND {SITE}"), annotations.deployments()],
    sections=[
        Section(
            "Now",
            [
                number(
                    "Devices",
                    "Devices in service, by the registry; those that were taken out of it do not count.",
                    f"SELECT count(*) AS devices {_DEVICES}",
                ),
                number(
                    "Heard of",
                    "Devices in service of which AWS IoT received a reading in the last 5 minutes.",
                    f"SELECT count(*) FILTER (WHERE {_HEARD} > now() - interval '5 minutes') AS heard {_DEVICES}",
                    base="green",
                ),
                number(
                    "Silent",
                    "Share of the devices in service that sent nothing for 5 minutes or longer. Above 50 % is P1.",
                    f"""SELECT 100.0 * count(*) FILTER (WHERE {_HEARD} IS NULL OR {_HEARD} <= now() - interval '5 minutes')
       / nullif(count(*), 0) AS silent {_DEVICES}""",
                    unit=units.PERCENT,
                    decimals=1,
                    steps=[(0.5, "yellow"), (50, "red")],
                    base="green",
                ),
                number(
                    "Ingest rate",
                    "Readings stored per second in the last 5 minutes, of all sites.",
                    "SELECT coalesce(sum(rows), 0) / 300.0 AS rate FROM ingest.objects "
                    "WHERE loaded_at > now() - interval '5 minutes'",
                    unit=units.PER_SECOND,
                    decimals=0,
                    steps=[(0.001, "green")],
                    base="red",
                ),
                number(
                    "Latency p50",
                    "Half of the devices: from the time of its newest reading to that reading's row; loaded in the last hour.",
                    f"""SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM o.loaded_at - l.timestamp)) AS p50
FROM device_latest l JOIN ingest.objects o USING (object_id)
WHERE o.loaded_at > now() - interval '1 hour' AND {SITE}""",
                    unit=units.SECONDS,
                    decimals=1,
                    steps=[(5, "yellow"), (10, "red")],
                    base="green",
                ),
                number(
                    "Latency p95",
                    "Nineteen of twenty devices: from the time of its newest reading to its row. Target 5 s, alarm above 10 s.",
                    f"""SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM o.loaded_at - l.timestamp)) AS p95
FROM device_latest l JOIN ingest.objects o USING (object_id)
WHERE o.loaded_at > now() - interval '1 hour' AND {SITE}""",
                    unit=units.SECONDS,
                    decimals=1,
                    steps=[(5, "yellow"), (10, "red")],
                    base="green",
                ),
                number(
                    "Missing readings",
                    "Sequence numbers without a reading in the chosen range, of a million. Readings still on their way count "
                    "as missing only between two that came. Target below 100.",
                    _MISSING,
                    unit=units.PER_MILLION,
                    decimals=0,
                    steps=[(100, "yellow"), (50_000, "red")],
                    base="green",
                ),
                number(
                    "Open anomalies",
                    "Episodes that are not resolved, of the chosen sites.",
                    f"SELECT count(*) AS open FROM anomalies WHERE resolved_at IS NULL AND {SITE}",
                    steps=[(1, "yellow"), (20, "red")],
                    base="green",
                ),
            ],
        ),
        Section(
            "Flow",
            [
                chart(
                    "Readings stored",
                    "Rows per second by the time they were loaded, of all sites; duplicates are repeats that were not stored.",
                    _INGEST_RATE,
                    unit=units.PER_SECOND,
                    low=0,
                ),
                chart(
                    "Latency, device to row",
                    "By object: from the time of its newest reading, and of its oldest, to the row. What lies between the two is "
                    "what devices and Firehose collected before they sent it.",
                    _LATENCY,
                    unit=units.SECONDS,
                    steps=[(10, "red")],
                    base="transparent",
                    low=0,
                ),
            ],
        ),
        Section(
            "Fleet",
            [
                chart(
                    "The fleet's $metric",
                    "Average of all readings of the chosen sites, weighed by their number, between the lowest and the "
                    "highest. Minutes up to 2 hours, hours up to 8 days, else days.",
                    f"{_FLEET_METRIC}\nORDER BY 1",
                    patterns=[
                        *(Field(f"/^{metric.name} /", unit=units.of(metric)) for metric in METRICS),
                        Field("/ lowest$/", color="blue"),
                        Field("/ highest$/", color="orange"),
                        Field("/ average$/", color="green", extra={"custom.lineWidth": 2}),
                    ],
                ),
                chart(
                    "Devices that sent",
                    "Devices of the chosen sites with at least one reading, per minute, hour or day.",
                    by_range(
                        f"""
SELECT bucket AS time, count(*) AS "devices" FROM @view
WHERE $__timeFilter(bucket) AND @chosen AND {SITE} GROUP BY bucket
""",
                        FLEET,
                    )
                    + "\nORDER BY 1",
                    low=0,
                ),
            ],
        ),
        Section(
            "Devices to look at",
            [
                rows(
                    "Silent the longest",
                    "Devices in service that were not heard of for 5 minutes or longer, those never heard of first.",
                    f"""
SELECT device_id, d.name AS "name", site_id AS "site", {_HEARD} AS "last heard",
       extract(epoch FROM now() - {_HEARD}) AS "silent for", l.battery AS "battery"
{_DEVICES} AND ({_HEARD} IS NULL OR {_HEARD} <= now() - interval '5 minutes')
ORDER BY {_HEARD} NULLS FIRST, device_id LIMIT 50
""",
                    fields=[
                        Field("device_id", title="device", link=links.TO_DEVICE, width=140),
                        Field("last heard", unit=units.TIME),
                        Field("silent for", unit="dtdurations"),
                        Field(
                            "battery",
                            unit=units.PERCENT,
                            steps=[(10, "yellow"), (20, "text")],
                            base="red",
                            colored=True,
                        ),
                    ],
                    width=24,
                    height=6,
                    none="every device was heard of",
                ),
                rows(
                    "Anomalies, open",
                    "Episodes that are not resolved, the most severe first. fleet anomalies resolve closes one.",
                    f"""
SELECT severity, device_id, kind, metric, started_at AS "since", readings, value, expected, score
FROM anomalies WHERE resolved_at IS NULL AND {SITE}
ORDER BY array_position(ARRAY['critical', 'warning', 'info'], severity), started_at DESC LIMIT 50
""",
                    fields=[
                        Field("device_id", title="device", link=links.TO_DEVICE, width=140),
                        Field("since", unit=units.TIME),
                        Field("value", extra={"decimals": 2}),
                        Field("expected", extra={"decimals": 2}),
                        Field("score", extra={"decimals": 1}),
                    ],
                    width=24,
                    none="no anomaly is open",
                ),
            ],
        ),
    ],
)
