"""iot-quality: how good the data are, by day, and which devices spoil them."""

from dashboards import links, units, variables
from dashboards.board import Board, Section
from dashboards.panels import Field, Link, Steps, cells, chart, number, rows
from dashboards.variables import SITE

_SCORE: Steps = [(80, "yellow"), (95, "green")]
_DAYS = "day >= $__timeFrom()::date AND day <= $__timeTo()::date"
_FROM = f"FROM data_quality WHERE {_DAYS} AND {SITE}"

# The view is what costs: it is read once for both, the devices and their days.
_WORST = f"""
WITH found AS MATERIALIZED (SELECT day, device_id, score FROM data_quality WHERE {_DAYS} AND {SITE}),
worst AS (SELECT device_id FROM found GROUP BY device_id ORDER BY avg(score), device_id LIMIT 25)
SELECT day::timestamp AT TIME ZONE 'UTC' AS time, device_id AS metric, score
FROM found WHERE device_id IN (SELECT device_id FROM worst) ORDER BY 1, 2
"""


# The view is computed as it is read; what the rollups know as well is asked of them.
_MIDNIGHT = "date_trunc('day', $__timeFrom()::timestamptz, 'UTC')"
_READINGS = f"FROM telemetry_daily WHERE bucket BETWEEN {_MIDNIGHT} AND $__timeTo() AND {SITE}"


def _share(column: str) -> str:
    return f"SELECT 100.0 * sum({column}) / nullif(sum(reading_count), 0) AS share {_READINGS}"


BOARD = Board(
    uid="iot-quality",
    title="IoT data quality",
    description="A score by device and day: 30 for what is missing, 40 for what is out of range, 30 for anomalies.",
    variables=[variables.site()],
    range="now-30d",
    refresh="15m",
    sections=[
        Section(
            "The range",
            [
                number(
                    "Score",
                    "Average over the devices and days of the range, 0 to 100; days of single devices below 80; and what is "
                    "missing of the readings that were expected.",
                    f"""SELECT floor(10 * avg(score)) / 10 AS "score",
       count(*) FILTER (WHERE score < 80) AS "device days below 80",
       100.0 * sum(missing) / nullif(sum(expected), 0) AS "missing" {_FROM}""",
                    width=12,
                    fields=[
                        Field("score", steps=_SCORE, base="red", extra={"decimals": 1}),
                        Field("device days below 80", steps=[(1, "yellow")]),
                        Field(
                            "missing", unit=units.PERCENT, steps=[(0.01, "yellow"), (5, "red")], extra={"decimals": 2}
                        ),
                    ],
                ),
                number(
                    "Out of range",
                    "Of the readings that were received, those with a value that is not plausible.",
                    _share("out_of_range_count"),
                    unit=units.PERCENT,
                    decimals=2,
                    steps=[(0.1, "yellow"), (1, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Late",
                    "Of the readings that were received, those that came more than 5 minutes after they were taken.",
                    _share("late_count"),
                    unit=units.PERCENT,
                    decimals=2,
                    steps=[(1, "yellow"), (10, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Duplicates",
                    "Repeats that were not stored, of the readings that were received.",
                    f"""SELECT 100.0 * d.repeats / nullif(r.received, 0) AS share
FROM (SELECT coalesce(sum(duplicates), 0) AS repeats FROM ingest.duplicates
      WHERE hour BETWEEN {_MIDNIGHT} AND $__timeTo() AND {SITE}) d,
     (SELECT sum(reading_count) AS received {_READINGS}) r""",
                    unit=units.PERCENT,
                    decimals=2,
                    steps=[(1, "yellow"), (10, "red")],
                    base="green",
                    width=4,
                ),
            ],
        ),
        Section(
            "By day",
            [
                chart(
                    "Score by day",
                    "Average of the devices, and the score below which every twentieth device is.",
                    f"""
SELECT day::timestamp AT TIME ZONE 'UTC' AS time, avg(score) AS "average",
       percentile_cont(0.05) WITHIN GROUP (ORDER BY score) AS "worst twentieth"
{_FROM} GROUP BY day ORDER BY 1
""",
                    steps=_SCORE,
                    base="red",
                    low=0,
                    high=100,
                    fields=[Field("average", color="green"), Field("worst twentieth", color="orange")],
                    interval="1d",
                ),
                chart(
                    "Faults by day",
                    "Readings that are missing, out of range, of the wrong type, late, or came twice.",
                    f"""
SELECT day::timestamp AT TIME ZONE 'UTC' AS time, sum(missing) AS "missing", sum(out_of_range) AS "out of range",
       sum(invalid) AS "wrong type", sum(late) AS "late", sum(duplicates) AS "duplicates"
{_FROM} GROUP BY day ORDER BY 1
""",
                    bars=True,
                    stacked=True,
                    low=0,
                    fields=[
                        Field("missing", color="red"),
                        Field("out of range", color="orange"),
                        Field("wrong type", color="purple"),
                        Field("late", color="yellow"),
                        Field("duplicates", color="blue"),
                    ],
                    interval="1d",
                ),
            ],
        ),
        Section(
            "By device",
            [
                cells(
                    "The worst devices, day by day",
                    "Score of the 25 devices with the lowest average in the range.",
                    _WORST,
                    unit=units.COUNT,
                    steps=_SCORE,
                    base="red",
                    low=0,
                    high=100,
                    link=Link("This device", "/d/iot-device?${__url_time_range}&var-device=${__field.name}"),
                ),
                rows(
                    "Worst devices",
                    "Lowest average score in the range; the reason is that of the worst day.",
                    f"""
SELECT device_id, floor(10 * avg(score)) / 10 AS "score", floor(10 * min(score)) / 10 AS "worst day", sum(missing) AS "missing",
       sum(out_of_range) AS "out of range", sum(invalid) AS "wrong type", sum(late) AS "late",
       sum(duplicates) AS "duplicates", sum(anomalies) AS "anomalies",
       (array_agg(reason ORDER BY score, day))[1] AS "reason"
{_FROM} GROUP BY device_id ORDER BY avg(score), device_id LIMIT 50
""",
                    fields=[
                        Field("device_id", title="device", link=links.TO_DEVICE, width=140),
                        Field("score", steps=_SCORE, base="red", colored=True, extra={"decimals": 1}),
                        Field("worst day", steps=_SCORE, base="red", colored=True, extra={"decimals": 1}),
                    ],
                    width=24,
                    height=10,
                    none="no day in the range",
                ),
            ],
        ),
    ],
)
