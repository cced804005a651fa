"""iot-pipeline: how objects become rows: how many, how fast, and what was refused."""

from dashboards import annotations, links, units
from dashboards.board import Board, Section
from dashboards.panels import Field, chart, number, rows

_LOADED = "FROM ingest.objects WHERE $__timeFilter(loaded_at)"
_PER_MINUTE = "* 60000.0 / $__interval_ms"

BOARD = Board(
    uid="iot-pipeline",
    title="IoT pipeline",
    description="The ledger of objects: arrival, time to load, delay, duplicates, and what went to quarantine.",
    annotations=[annotations.deployments()],
    sections=[
        Section(
            "The range",
            [
                number(
                    "Objects loaded",
                    "Objects whose readings were stored in the range.",
                    f"SELECT count(*) AS objects {_LOADED} AND status = 'loaded'",
                    width=4,
                ),
                number(
                    "Readings",
                    "Readings in those objects, duplicates and quarantined ones included.",
                    f"SELECT coalesce(sum(readings), 0) AS readings {_LOADED}",
                    width=4,
                ),
                number(
                    "Objects rejected",
                    "Objects that could not be read, and were claimed in the range. All of their readings are missing.",
                    "SELECT count(*) AS rejected FROM ingest.objects WHERE status = 'rejected' AND $__timeFilter(claimed_at)",
                    steps=[(1, "red")],
                    base="green",
                    width=4,
                    link=links.to("iot-operations", "Operations"),
                ),
                number(
                    "Quarantined",
                    "Readings that were refused, of a million. Alarm above 1,000.",
                    f"SELECT coalesce(1e6 * sum(quarantined) / nullif(sum(readings), 0), 0) AS quarantined {_LOADED}",
                    unit=units.PER_MILLION,
                    decimals=0,
                    steps=[(1, "yellow"), (1000, "red")],
                    base="green",
                    width=4,
                    link=links.to("iot-operations", "Operations"),
                ),
                number(
                    "Duplicate readings",
                    "Readings that were there already, of a hundred. QoS 1 and replays repeat; nothing is stored twice.",
                    f"SELECT coalesce(100.0 * sum(duplicates) / nullif(sum(readings), 0), 0) AS duplicates {_LOADED}",
                    unit=units.PERCENT,
                    decimals=2,
                    steps=[(5, "yellow")],
                    base="green",
                    width=4,
                ),
                number(
                    "Last object",
                    "How long ago the newest object was loaded. Above 5 minutes nothing is ingested.",
                    "SELECT extract(epoch FROM now() - max(loaded_at)) AS ago FROM ingest.objects",
                    unit="dtdurations",
                    steps=[(120, "yellow"), (300, "red")],
                    base="green",
                    width=4,
                    none="never",
                ),
            ],
        ),
        Section(
            "Arrival",
            [
                chart(
                    "Objects per minute",
                    "By the time they were loaded, or rejected.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval),
       count(*) FILTER (WHERE status = 'loaded') {_PER_MINUTE} AS "loaded",
       count(*) FILTER (WHERE status = 'rejected') {_PER_MINUTE} AS "rejected"
{_LOADED} GROUP BY 1 ORDER BY 1
""",
                    unit=units.PER_MINUTE,
                    low=0,
                    fields=[Field("loaded", color="green"), Field("rejected", color="red")],
                    interval="1m",
                ),
                chart(
                    "Readings per object",
                    "On average and at most. Few readings in an object mean short buffers in Firehose, or a quiet fleet.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval), avg(readings) AS "average", max(readings) AS "most"
{_LOADED} AND status = 'loaded' GROUP BY 1 ORDER BY 1
""",
                    low=0,
                    interval="1m",
                ),
            ],
        ),
        Section(
            "Speed",
            [
                chart(
                    "Time to load an object",
                    "Milliseconds from the claim to the commit.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY milliseconds) AS "p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY milliseconds) AS "p95", max(milliseconds) AS "longest"
{_LOADED} AND status = 'loaded' GROUP BY 1 ORDER BY 1
""",
                    unit=units.MILLISECONDS,
                    low=0,
                    interval="1m",
                ),
                chart(
                    "Delay from reading to row",
                    "From the time of an object's newest, and of its oldest reading, to the commit; the median of the "
                    "objects, and the p95 of the newest.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval),
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - last_timestamp)) AS "newest, p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - last_timestamp)) AS "newest, p95",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - first_timestamp)) AS "oldest, p50"
{_LOADED} AND last_timestamp IS NOT NULL GROUP BY 1 ORDER BY 1
""",
                    unit=units.SECONDS,
                    steps=[(10, "red")],
                    base="transparent",
                    low=0,
                    interval="1m",
                ),
                chart(
                    "Rows per second of loading",
                    "Rows stored by each second that a loader worked: how much room is left.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval), 1000.0 * sum(rows) / nullif(sum(milliseconds), 0) AS "rows/s"
{_LOADED} AND status = 'loaded' GROUP BY 1 ORDER BY 1
""",
                    unit="rowsps",
                    low=0,
                    interval="1m",
                ),
                chart(
                    "Bytes per reading in S3",
                    "Compressed size of the objects by the readings in them.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval), sum(size_bytes)::float8 / nullif(sum(readings), 0) AS "bytes"
{_LOADED} AND status = 'loaded' GROUP BY 1 ORDER BY 1
""",
                    unit=units.BYTES,
                    low=0,
                    interval="1m",
                ),
            ],
        ),
        Section(
            "Refused and repeated",
            [
                chart(
                    "Refused by reason",
                    "Lines, messages and objects that could not become rows, by when they were refused.",
                    """
SELECT $__timeGroupAlias(at, $__interval), reason AS metric, count(*) AS value
FROM ingest.refusals WHERE $__timeFilter(at) GROUP BY 1, 2 ORDER BY 1, 2
""",
                    bars=True,
                    stacked=True,
                    low=0,
                    interval="1m",
                ),
                chart(
                    "Duplicates",
                    "Readings that were there already, per minute.",
                    f"""
SELECT $__timeGroupAlias(loaded_at, $__interval), sum(duplicates) {_PER_MINUTE} AS "duplicates"
{_LOADED} GROUP BY 1 ORDER BY 1
""",
                    unit=units.PER_MINUTE,
                    bars=True,
                    low=0,
                    interval="1m",
                ),
                rows(
                    "Most repeated devices",
                    "Devices with the most duplicates among the readings of the range.",
                    """
SELECT device_id, sum(duplicates) AS "duplicates", count(DISTINCT object_id) AS "objects", max(hour) AS "last hour"
FROM ingest.duplicates
WHERE hour BETWEEN date_trunc('hour', $__timeFrom()::timestamptz, 'UTC') AND $__timeTo()::timestamptz
GROUP BY device_id ORDER BY 2 DESC, 1 LIMIT 20
""",
                    fields=[
                        Field("device_id", title="device", link=links.TO_DEVICE_ANYWHERE, width=140),
                        Field("last hour", unit=units.TIME),
                    ],
                    width=24,
                    height=6,
                    none="no duplicate",
                ),
                rows(
                    "Slowest objects",
                    "Objects of the range that took the longest to load.",
                    f"""
SELECT object_id, loaded_at AS "loaded", milliseconds, rows, duplicates, quarantined, size_bytes AS "size", key
{_LOADED} AND status = 'loaded' ORDER BY milliseconds DESC NULLS LAST LIMIT 20
""",
                    fields=[
                        Field("loaded", unit=units.TIME),
                        Field("milliseconds", title="time", unit=units.MILLISECONDS),
                        Field("size", unit=units.BYTES),
                    ],
                    width=24,
                    none="no object",
                ),
            ],
        ),
    ],
)
