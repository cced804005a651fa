"""iot-capacity: how much there is, how fast it grows, and when the volume is full."""

from dashboards import annotations, units, variables
from dashboards.board import Board, Section
from dashboards.panels import Field, chart, number, rows

# Whole days, so that a range of an hour shows its day.
_DAYS = "bucket BETWEEN date_trunc('day', $__timeFrom()::timestamptz, 'UTC') AND $__timeTo()::timestamptz"
_SINCE = "bucket >= date_trunc('day', now(), 'UTC') - interval '7 days' AND bucket < date_trunc('day', now(), 'UTC')"
_SIZES = "chunks_detailed_size('public.telemetry') AS size JOIN timescaledb_information.chunks c USING (chunk_schema, chunk_name)"

# What a whole day of the last week added. A chunk that was compressed since is as small as it is now, which is what the
# volume will have to hold of a day in the long run only; so before the first compression it tells more than after.
_GROWTH = f"""
SELECT sum(size.total_bytes)::float8 / nullif(extract(epoch FROM max(c.range_end) - min(c.range_start)) / 86400, 0) AS growth
FROM {_SIZES}
WHERE c.range_end <= now() AND c.range_end > now() - interval '8 days'
"""

_COMPRESSION = """
SELECT CASE WHEN coalesce(s.number_compressed_chunks, 0) > 0 THEN 'compressed'
            WHEN current_setting('timescaledb.license') = 'timescale' THEN 'no chunk is compressed yet'
            ELSE 'none: this edition of TimescaleDB has no compression' END AS "state",
       s.number_compressed_chunks AS "chunks", s.before_compression_total_bytes AS "before",
       s.after_compression_total_bytes AS "after",
       s.before_compression_total_bytes::float8 / nullif(s.after_compression_total_bytes, 0) AS "ratio"
FROM (VALUES (1)) always(one)
LEFT JOIN hypertable_columnstore_stats('public.telemetry') s ON true
"""

_TABLES = """
SELECT n.nspname || '.' || c.relname AS "table", size.bytes AS "size", obj_description(c.oid, 'pg_class') AS "what it holds"
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT CASE WHEN EXISTS (
    SELECT FROM timescaledb_information.hypertables h
    WHERE h.hypertable_schema = n.nspname AND h.hypertable_name = c.relname
    UNION ALL
    SELECT FROM timescaledb_information.continuous_aggregates a WHERE a.view_schema = n.nspname AND a.view_name = c.relname
) THEN hypertable_size(c.oid::regclass) WHEN c.relkind = 'r' THEN pg_total_relation_size(c.oid) END AS bytes) size
WHERE n.nspname IN ('public', 'ingest', 'rollup') AND c.relkind IN ('r', 'v') AND size.bytes IS NOT NULL
ORDER BY size.bytes DESC LIMIT 20
"""

_CONNECTIONS = """
SELECT 100.0 * sum(numbackends) / (current_setting('max_connections')::integer
       - current_setting('superuser_reserved_connections')::integer) AS used FROM pg_stat_database
"""

BOARD = Board(
    uid="iot-capacity",
    title="IoT capacity",
    description="Readings, bytes, chunks and connections; compression exists on the Community edition only.",
    variables=[
        variables.number(
            "volume_gib",
            "Volume, GiB",
            "Size of the database's volume (database_volume_gib); 0 where it is not known",
            "0",
        )
    ],
    annotations=[annotations.deployments()],
    range="now-30d",
    refresh="15m",
    sections=[
        Section(
            "Now",
            [
                number(
                    "Database",
                    "Size of the whole database on disk.",
                    "SELECT pg_database_size(current_database()) AS bytes",
                    unit=units.BYTES,
                    decimals=1,
                ),
                number(
                    "Growth a day",
                    "Bytes that the chunks of telemetry of the last whole days take, by the day. The rollups add a little.",
                    _GROWTH,
                    unit=units.BYTES,
                    decimals=1,
                    none="not yet",
                ),
                number(
                    "Volume full in",
                    "The volume less the database, by what a day adds. Say above how large the volume is.",
                    f"""SELECT CASE WHEN ${{volume_gib:sqlstring}}::float8 > 0 AND growth > 0 THEN
       greatest(0, (${{volume_gib:sqlstring}}::float8 * 1073741824 - pg_database_size(current_database())) / growth) END AS days
FROM ({_GROWTH.strip()}) a""",
                    unit="d",
                    decimals=0,
                    steps=[(30, "yellow"), (90, "green")],
                    base="red",
                    none="not known",
                ),
                number(
                    "Readings a day",
                    "Average of the last seven whole days.",
                    f"SELECT sum(reading_count) / 7.0 AS readings FROM telemetry_daily WHERE {_SINCE}",
                ),
                number(
                    "Bytes per reading",
                    "Chunks of telemetry and their indexes, by the readings of the last 30 days in them. Compressed: under 12.",
                    """SELECT sum(size.total_bytes)::float8
       / nullif((SELECT sum(reading_count) FROM telemetry_daily WHERE bucket >= min(c.range_start)), 0) AS bytes
FROM """
                    + _SIZES
                    + """
WHERE c.range_start >= date_trunc('day', now(), 'UTC') - interval '30 days'""",
                    unit=units.BYTES,
                    decimals=1,
                ),
                number(
                    "Chunks",
                    "Chunks of telemetry, each of which holds the readings of one span of time.",
                    "SELECT count(*) AS chunks FROM timescaledb_information.chunks "
                    "WHERE hypertable_schema = 'public' AND hypertable_name = 'telemetry'",
                ),
                number(
                    "Connections used",
                    "Of those that the server takes, superusers' left out. Alarm above 80 %.",
                    _CONNECTIONS,
                    unit=units.PERCENT,
                    decimals=0,
                    steps=[(60, "yellow"), (80, "red")],
                    base="green",
                ),
                number(
                    "Kept for",
                    "Days for which readings are kept, by ingest.settings; rollups are kept for longer.",
                    "SELECT retention_days FROM ingest.settings",
                    unit="d",
                ),
            ],
        ),
        Section(
            "Growth",
            [
                chart(
                    "Readings by day",
                    "Rows of telemetry by the day on which they were taken.",
                    f"""
SELECT bucket AS time, sum(reading_count) AS "readings" FROM telemetry_daily WHERE {_DAYS} GROUP BY 1 ORDER BY 1
""",
                    bars=True,
                    low=0,
                    interval="1d",
                ),
                chart(
                    "Bytes by chunk",
                    "What each chunk of telemetry takes now, by the beginning of its span: the table, its indexes, and values "
                    "too long for a row, which compressed ones are.",
                    f"""
SELECT c.range_start AS time, sum(size.table_bytes) AS "table", sum(size.index_bytes) AS "indexes",
       sum(size.toast_bytes) AS "compressed and long values"
FROM {_SIZES}
WHERE c.range_end >= $__timeFrom() AND c.range_start <= $__timeTo() GROUP BY 1 ORDER BY 1
""",
                    unit=units.BYTES,
                    bars=True,
                    stacked=True,
                    low=0,
                    interval="1d",
                ),
            ],
        ),
        Section(
            "What takes how much",
            [
                rows(
                    "Compression",
                    "Chunks of telemetry before and after. The Apache edition says that it has none.",
                    _COMPRESSION,
                    fields=[
                        Field("before", unit=units.BYTES),
                        Field("after", unit=units.BYTES),
                        Field("ratio", extra={"decimals": 1}),
                    ],
                    width=24,
                    height=4,
                ),
                rows(
                    "Tables",
                    "The twenty that take the most, with their indexes.",
                    _TABLES,
                    fields=[Field("table", width=200), Field("size", unit=units.BYTES, width=100)],
                ),
                rows(
                    "Chunks of telemetry",
                    "The newest hundred, with what each takes on disk.",
                    f"""
SELECT c.chunk_name AS "chunk", c.range_start AS "from", c.range_end AS "to", c.is_compressed AS "compressed",
       size.total_bytes AS "size"
FROM {_SIZES} ORDER BY c.range_start DESC LIMIT 100
""",
                    fields=[
                        Field("from", unit=units.TIME),
                        Field("to", unit=units.TIME),
                        Field("size", unit=units.BYTES),
                    ],
                    none="no chunk",
                ),
            ],
        ),
    ],
)
