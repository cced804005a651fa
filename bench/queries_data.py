"""What `fleet bench queries` asks: 30 days of a fleet's readings, made by the server itself, object by object."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from local.timescaledb.edition import is_community

DAYS = 30
_SITES = 10
_READINGS = """
INSERT INTO telemetry (device_id, timestamp, seq, temperature, humidity, pressure, battery, quality, received_at, object_id)
SELECT device_id, at, n, round((20 + d %% 7 + 6 * day + random())::numeric, 2),
       round((55 + d %% 11 - 10 * day + 2 * random())::numeric, 2),
       round((1000 + d %% 20 + 5 * sin(extract(epoch FROM at) / 400000) + random() / 5)::numeric, 2),
       round((100 - d %% 30 - 2 * extract(epoch FROM at - %(begin)s) / 86400)::numeric, 2),
       CASE WHEN random() < 0.0005 THEN 16 ELSE 0 END,
       at + CASE WHEN random() < 0.002 THEN interval '20 minutes' ELSE interval '120 milliseconds' END, %(object_id)s
FROM generate_series(1, %(devices)s) d
CROSS JOIN LATERAL (SELECT format('device-%%s', lpad(d::text, 5, '0')) AS device_id,
                           %(begin)s::timestamptz + (d - 0.5) / %(devices)s * %(interval)s::interval AS first) device
CROSS JOIN LATERAL generate_series(
    ceil(extract(epoch FROM %(from)s - first) / extract(epoch FROM %(interval)s::interval))::bigint,
    ceil(extract(epoch FROM %(until)s - first) / extract(epoch FROM %(interval)s::interval))::bigint - 1) n
CROSS JOIN LATERAL (SELECT first + n * %(interval)s::interval AS at) time
CROSS JOIN LATERAL (SELECT sin((extract(epoch FROM at) / 86400 - 0.375) * 2 * pi()) AS day) curve
WHERE n >= 0
"""
_REGISTRY = (
    "INSERT INTO sites (site_id, name, customer, project, location, latitude, longitude) "
    "SELECT format('site-%%s', lpad(n::text, 2, '0')), format('Site %%s', n), format('Customer %%s', n %% 3), 'Benchmark', "
    "format('Town %%s', n), 46 + n * 0.2, 7 + n * 0.2 FROM generate_series(1, %(sites)s) n",
    "INSERT INTO devices (device_id, name, site_id, device_type, location, firmware) "
    "SELECT format('device-%%s', lpad(n::text, 5, '0')), format('Sensor %%s', n), "
    "format('site-%%s', lpad((n %% %(sites)s + 1)::text, 2, '0')), 'outdoor', format('bay %%s', n), format('1.%%s.0', n %% 4) "
    "FROM generate_series(1, %(devices)s) n",
)
# As many as a fleet of this size has: an episode per device and five days, one in fifty still open.
_ANOMALIES = """
INSERT INTO anomalies (device_id, metric, kind, severity, started_at, last_at, detected_at, readings, value, expected, score,
                       resolved_at, resolved_by)
SELECT format('device-%%s', lpad(d::text, 5, '0')), metric, kind, severity, at, at + interval '5 minutes',
       at + interval '40 seconds', 6, 41.5, 22.1, 8.5,
       CASE WHEN n > 0 OR d %% 50 <> 0 THEN at + interval '15 minutes' END, CASE WHEN n > 0 OR d %% 50 <> 0 THEN 'recovered' END
FROM generate_series(1, %(devices)s) d, generate_series(0, 5) n
CROSS JOIN LATERAL (SELECT %(end)s::timestamptz - n * interval '5 days' - d * interval '6 minutes' AS at) time
CROSS JOIN LATERAL (SELECT (ARRAY['out_of_range', 'spike', 'jump', 'stuck'])[1 + (d + n) %% 4] AS kind,
                           (ARRAY['temperature', 'humidity', 'pressure'])[1 + (d + n) %% 3] AS metric,
                           (ARRAY['info', 'warning', 'critical'])[1 + (d * 7 + n) %% 3] AS severity) what
"""


@dataclass(frozen=True)
class Fleet:
    """How much there is, and when it ends."""

    rows: int
    devices: int
    end: datetime
    object_length: timedelta = timedelta(hours=1)
    """What one object covers."""

    @property
    def interval(self) -> timedelta:
        """Between two readings of a device."""
        return timedelta(days=DAYS) * self.devices / self.rows

    @property
    def begin(self) -> datetime:
        """Of the first reading."""
        return self.end - timedelta(days=DAYS)

    def spans(self) -> list[tuple[datetime, datetime]]:
        """Of the objects: from whole hours on, but for the first."""
        spans, at = list[tuple[datetime, datetime]](), self.begin
        while at < self.end:
            hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            spans.append((at, min(hour + self.object_length, self.end)))
            at = spans[-1][1]
        return spans


def fill(connection: psycopg.Connection, fleet: Fleet, say: Callable[[str], None]) -> int:
    """Makes the fleet's readings, ledger, registry, anomalies and rollups; how many readings. A few minutes for 10 million."""
    community = is_community(connection)
    if community:
        # Nothing else runs while queries are timed.
        connection.execute(
            "SELECT delete_job(job_id) FROM timescaledb_information.jobs "
            "WHERE proc_name = 'refresh_touched' OR hypertable_name IS NOT NULL"
        )
    for statement in _REGISTRY:
        connection.execute(statement, {"sites": _SITES, "devices": fleet.devices})
    made, spans = 0, fleet.spans()
    for number, (begin, until) in enumerate(spans, 1):
        made += _object(connection, fleet, begin, until)
        if number % 72 == 0:
            say(f"{made:,} readings of {number / len(spans):.0%} of {DAYS} days")
    connection.execute(_ANOMALIES, {"devices": fleet.devices, "end": fleet.end})
    connection.execute("ANALYZE")
    connection.execute("SELECT ingest.refresh_latest(ARRAY(SELECT device_id FROM devices))")
    for level, name in connection.execute("SELECT level, name FROM rollup.levels ORDER BY level").fetchall():
        say(f"rollup by {name}")
        _roll_up(connection, fleet, level, name, community)
    # Bucket by bucket, as the loads of 30 days would have had it done, would take as long as the readings themselves.
    connection.execute("TRUNCATE ingest.touched, rollup.pending")
    if community:
        say("compressing what is older than 7 days")
        connection.execute(
            "SELECT compress_chunk(chunk) FROM show_chunks('telemetry', older_than => interval '7 days') chunk"
        )
        connection.execute(
            "SELECT compress_chunk(chunk) FROM show_chunks('rollup.minutes', older_than => interval '14 days') chunk"
        )
    say("VACUUM ANALYZE")
    connection.execute("VACUUM ANALYZE")
    return made


def _object(connection: psycopg.Connection, fleet: Fleet, begin: datetime, until: datetime) -> int:
    """One hour's object: its readings and its line in the ledger, some of them refused or repeated."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")
        key = begin.strftime("year=%Y/month=%m/day=%d/hour=%H/iot-telemetry-stream-%M.gz")
        cursor.execute(
            "INSERT INTO ingest.objects (bucket, key, claimed_at) VALUES ('bench', %s, %s) RETURNING object_id",
            (key, until),
        )
        row = cursor.fetchone()
        assert row is not None  # noqa: S101 - for the type checker: the insert returned it
        object_id: int = row[0]
        parameters = {"devices": fleet.devices, "begin": fleet.begin, "interval": fleet.interval}
        cursor.execute(_READINGS, {**parameters, "from": begin, "until": until, "object_id": object_id})
        rows = cursor.rowcount
        cursor.execute(
            "INSERT INTO ingest.quarantine (object_id, line, device_id, reason, raw, raw_bytes, quarantined_at) "
            "SELECT %s, n, 'device-00001', (ARRAY['no_timestamp', 'not_json', 'future'])[1 + n %% 3], '{}', 2, %s "
            "FROM generate_series(1, 5) n",
            (object_id, until),
        )
        cursor.execute(
            "INSERT INTO ingest.duplicates (object_id, device_id, hour, duplicates) "
            "SELECT %s, format('device-%%s', lpad(n::text, 5, '0')), date_trunc('hour', %s::timestamptz, 'UTC'), 25 "
            "FROM generate_series(1, 20) n",
            (object_id, begin),
        )
        cursor.execute(
            "UPDATE ingest.objects SET status = 'loaded', readings = %(rows)s + 505, rows = %(rows)s, duplicates = 500, "
            "quarantined = 5, size_bytes = %(rows)s * 8, first_timestamp = %(begin)s, last_timestamp = %(until)s, "
            "loaded_at = %(until)s::timestamptz + interval '1 second', milliseconds = 900 WHERE object_id = %(id)s",
            {"rows": rows, "begin": begin, "until": until, "id": object_id},
        )
    return rows


def _roll_up(connection: psycopg.Connection, fleet: Fleet, level: int, name: str, community: bool) -> None:
    """One level, from what it is made of, by the product's own definition."""
    if community:
        # Whole buckets; what is not over yet stays to be computed as it is read.
        row = connection.execute(
            "SELECT time_bucket(width, %s::timestamptz), time_bucket(width, %s::timestamptz) FROM rollup.levels WHERE level = %s",
            (fleet.begin, fleet.end, level),
        ).fetchone()
        assert row is not None  # noqa: S101 - for the type checker
        at, over = row
        # As rollup.refresh_touched does it: where a version works in batches of ten buckets, not so.
        in_batches = connection.execute(
            "SELECT FROM pg_proc WHERE proname = 'refresh_continuous_aggregate' AND 'options' = ANY (proargnames)"
        ).fetchone()
        options = ", options => '{\"buckets_per_batch\": 0}'" if in_batches is not None else ""
        while at < over:
            until = min(at + timedelta(days=7), over)
            connection.execute(
                f"CALL refresh_continuous_aggregate('rollup.{name}', %s, %s{options})".encode(), (at, until)
            )
            at = until
        return
    row = connection.execute("SELECT rollup.query(l) FROM rollup.levels l WHERE level = %s", (level,)).fetchone()
    assert row is not None  # noqa: S101 - for the type checker
    connection.execute("SET work_mem = '256MB'")
    connection.execute(f"INSERT INTO rollup.{name} {row[0]} GROUP BY 1, 2 ORDER BY 1, 2".encode())
    connection.execute("RESET work_mem")
    connection.execute("ANALYZE rollup." + name)
