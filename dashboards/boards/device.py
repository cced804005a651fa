"""iot-device: everything about one device."""

from dashboards import annotations, units, variables
from dashboards.board import Board, Section
from dashboards.levels import DEVICE as LEVELS
from dashboards.levels import by_range
from dashboards.panels import Field, Ready, band, chart, number, rows
from dashboards.variables import DEVICE
from lambdas.shared.contract import METRICS, Metric

_COLORS = {"temperature": "orange", "humidity": "blue", "pressure": "purple", "battery": "green"}


def _metric(metric: Metric) -> Ready:
    short, name = units.SHORT_NAMES[metric.name], metric.name
    sql = by_range(
        f"""
SELECT bucket AS time, avg_{short} AS "{name}", min_{short} AS "lowest", max_{short} AS "highest"
FROM @view WHERE {DEVICE} AND $__timeFilter(bucket) AND @chosen
""",
        LEVELS,
    )
    return chart(
        name.capitalize(),
        f"{metric.description.capitalize()}: average between the lowest and the highest. Minutes up to 2 days, hours up to "
        f"90 days, else days. Plausible is {metric.low:g} to {metric.high:g} {metric.unit}, unless the device's type says "
        "otherwise.",
        f"{sql}\nORDER BY 1",
        unit=units.of(metric),
        fields=band(name, "lowest", "highest", _COLORS[name]),
        interval="1m",
    )


# One descent of the index for each step, however many readings lie in between.
_LATENCY = f"""
SELECT step AS time, extract(epoch FROM newest.received_at - newest.timestamp) AS "device to AWS",
       extract(epoch FROM o.loaded_at - newest.received_at) AS "AWS to row"
FROM generate_series($__timeFrom()::timestamptz, $__timeTo()::timestamptz,
                     make_interval(secs => greatest($__interval_ms, 10000) / 1000.0)) step
CROSS JOIN LATERAL (
    SELECT timestamp, received_at, object_id FROM telemetry
    WHERE {DEVICE} AND timestamp >= step
      AND timestamp < step + make_interval(secs => greatest($__interval_ms, 10000) / 1000.0)
    ORDER BY timestamp DESC LIMIT 1
) newest
JOIN ingest.objects o ON o.object_id = newest.object_id
ORDER BY 1
"""

_SEQUENCE = by_range(
    f"SELECT bucket, first_seq, last_seq, reading_count, @width AS width FROM @view "
    f"WHERE {DEVICE} AND $__timeFilter(bucket) AND @chosen",
    LEVELS,
)
# A jump of more than a million is a counter that was set anew.
_GAPS = f"""
SELECT "from", "to", extract(epoch FROM "to" - "from") AS "length", missing
FROM (
    SELECT "from", "to", "to" - "from" AS distance, width,
           CASE WHEN between_them BETWEEN 1 AND 1000000 THEN between_them ELSE 0 END
           + CASE WHEN within BETWEEN 1 AND 1000000 THEN within ELSE 0 END AS missing
    FROM (
        SELECT lag(bucket) OVER (ORDER BY bucket) AS "from", bucket AS "to", width,
               first_seq - lag(last_seq) OVER (ORDER BY bucket) - 1 AS between_them,
               last_seq - first_seq + 1 - reading_count AS within
        FROM (
{_SEQUENCE}
        ) buckets
    ) neighbours
) gaps
WHERE missing > 0 OR distance > 5 * width
ORDER BY "to" DESC LIMIT 100
"""

BOARD = Board(
    uid="iot-device",
    title="IoT device",
    description="One device: what it measures, how it is heard, what is odd about it.",
    variables=[variables.site(), variables.device()],
    annotations=[annotations.anomalies(DEVICE), annotations.deployments()],
    range="now-24h",
    sections=[
        Section(
            "Now",
            [
                number(
                    "Last heard",
                    "How long ago AWS IoT received the device's newest reading.",
                    "SELECT extract(epoch FROM now() - coalesce(least(received_at, now()), timestamp)) AS silent "
                    f"FROM device_latest WHERE {DEVICE}",
                    unit="dtdurations",
                    steps=[(300, "yellow"), (3600, "red")],
                    base="green",
                    width=4,
                    none="never",
                ),
                number(
                    "Last reading",
                    "The newest reading as it was stored: a metric that it lacks is empty.",
                    f"SELECT temperature, humidity, pressure, battery FROM device_latest WHERE {DEVICE}",
                    width=8,
                    fields=[Field(metric.name, unit=units.of(metric), extra={"decimals": 1}) for metric in METRICS],
                ),
                number(
                    "Quality",
                    "Score of the newest whole day in the range, 0 to 100.",
                    f"""SELECT score FROM data_quality
WHERE {DEVICE} AND day >= $__timeFrom()::date AND day <= $__timeTo()::date ORDER BY day DESC LIMIT 1""",
                    decimals=0,
                    steps=[(80, "yellow"), (95, "green")],
                    base="red",
                    width=4,
                ),
                number(
                    "Anomalies of the device, open",
                    "Episodes of this device that are not resolved.",
                    f"SELECT count(*) AS open FROM anomalies WHERE {DEVICE} AND resolved_at IS NULL",
                    steps=[(1, "yellow"), (5, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Latency of the newest reading",
                    "From the time that the device gave it to its row.",
                    f"""SELECT extract(epoch FROM o.loaded_at - l.timestamp) AS latency
FROM device_latest l JOIN ingest.objects o USING (object_id) WHERE {DEVICE}""",
                    unit=units.SECONDS,
                    decimals=1,
                    steps=[(5, "yellow"), (10, "red")],
                    base="green",
                    width=4,
                ),
            ],
        ),
        Section("Metrics", [_metric(metric) for metric in METRICS]),
        Section(
            "How it is heard",
            [
                chart(
                    "Readings",
                    "Readings per minute, hour or day, and how many of them were late (more than 5 minutes), out of range, "
                    "or of the wrong type.",
                    by_range(
                        f"""
SELECT bucket AS time, reading_count AS "readings", late_count AS "late", out_of_range_count AS "out of range",
       invalid_count AS "wrong type"
FROM @view WHERE {DEVICE} AND $__timeFilter(bucket) AND @chosen
""",
                        LEVELS,
                    )
                    + "\nORDER BY 1",
                    low=0,
                    fields=[
                        Field("readings", color="green"),
                        Field("late", color="yellow"),
                        Field("out of range", color="orange"),
                        Field("wrong type", color="red"),
                    ],
                    interval="1m",
                ),
                chart(
                    "Latency",
                    "Of the newest reading of each interval: on the way to AWS IoT Core, and from there to its row.",
                    _LATENCY,
                    unit=units.SECONDS,
                    stacked=True,
                    low=0,
                    interval="1m",
                    points=250,
                ),
                rows(
                    "Gaps",
                    "Minutes, hours or days up to or in which sequence numbers are missing, or before which five are empty.",
                    _GAPS,
                    fields=[
                        Field("from", unit=units.TIME),
                        Field("to", unit=units.TIME),
                        Field("length", unit="dtdurations"),
                        Field("missing", steps=[(1, "orange")], base="text", colored=True),
                    ],
                    width=24,
                    height=5,
                    none="no gap",
                ),
                rows(
                    "Anomalies of the device",
                    "Episodes that began, or went on, within the range.",
                    f"""
SELECT severity, kind, metric, started_at AS "since", last_at AS "last", resolved_at AS "resolved", readings, value,
       expected, score
FROM anomalies
WHERE {DEVICE} AND started_at <= $__timeTo() AND coalesce(resolved_at, 'infinity') >= $__timeFrom()
ORDER BY started_at DESC LIMIT 100
""",
                    fields=[
                        Field("since", unit=units.TIME),
                        Field("last", unit=units.TIME),
                        Field("resolved", unit=units.TIME),
                        Field("value", extra={"decimals": 2}),
                        Field("expected", extra={"decimals": 2}),
                        Field("score", extra={"decimals": 1}),
                    ],
                    width=24,
                    height=6,
                    none="no anomaly",
                ),
            ],
        ),
        Section(
            "Registry",
            [
                rows(
                    "Registered as",
                    "The device's row, and when it was first heard. fleet devices update changes it.",
                    f"""
SELECT d.device_id AS "device", d.name AS "name", s.name AS "site", d.customer, d.project, d.device_type AS "type",
       d.location, d.firmware, d.active, d.registered_at AS "registered", l.first_seen AS "first heard"
FROM devices d LEFT JOIN sites s USING (site_id) LEFT JOIN device_latest l ON l.device_id = d.device_id
WHERE d.{DEVICE}
""",
                    fields=[Field("registered", unit=units.TIME), Field("first heard", unit=units.TIME)],
                    width=24,
                    height=4,
                    none="no such device",
                ),
                rows(
                    "Quality by day",
                    "What was expected and received on each day, and why the score is what it is.",
                    f"""
SELECT day, score, received, expected, missing, out_of_range AS "out of range", invalid AS "wrong type", late, duplicates,
       anomalies, reason
FROM data_quality WHERE {DEVICE} AND day >= $__timeFrom()::date AND day <= $__timeTo()::date
ORDER BY day DESC LIMIT 366
""",
                    fields=[
                        Field(
                            "score",
                            steps=[(80, "yellow"), (95, "green")],
                            base="red",
                            colored=True,
                            extra={"decimals": 1},
                        ),
                    ],
                    width=24,
                    none="no whole day",
                ),
            ],
        ),
    ],
)
