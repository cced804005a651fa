"""A little of everything that consumers of the database read."""

import json
from datetime import UTC, datetime, timedelta

import psycopg

from tests.functional.rollups import bring_up_to_date

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=30)
"""When the readings begin: one a minute, of three devices, for two hours."""
DEVICES = ("d-1", "d-2", "d-3")
MINUTES = 120
READINGS = len(DEVICES) * MINUTES


def fill(connection: psycopg.Connection) -> None:
    """Three devices at one site, two hours of readings, and one each of what can go wrong; rollups know it all."""
    connection.execute("INSERT INTO sites (site_id, name) VALUES ('plant', 'The plant')")
    connection.execute(
        "INSERT INTO ingest.objects "
        "(bucket, key, status, readings, rows, duplicates, quarantined, first_timestamp, last_timestamp) "
        "VALUES ('b', 'year=2026/1.gz', 'loaded', %s, %s, 1, 1, %s, %s)",
        (READINGS + 2, READINGS, HOUR, HOUR + timedelta(minutes=MINUTES - 1)),
    )
    connection.execute(
        "INSERT INTO telemetry SELECT device, %s::timestamptz + make_interval(mins => minute), minute, "
        "20 + minute / 10.0, CASE WHEN device <> 'd-3' THEN 50 END, 1000.5, 90, NULL, "
        # The last reading of d-2 has a humidity of the wrong type, and a battery out of range.
        "CASE WHEN device = 'd-2' AND minute = %s THEN 2 + 128 ELSE 0 END, "
        "%s::timestamptz + make_interval(mins => minute, secs => 1), 1 "
        "FROM unnest(%s::text[]) device, generate_series(0, %s) minute",
        (HOUR, MINUTES - 1, HOUR, list(DEVICES), MINUTES - 1),
    )
    connection.execute("UPDATE telemetry SET humidity = NULL, battery = 150 WHERE quality <> 0")
    connection.execute("SELECT ingest.refresh_latest(%s)", (list(DEVICES),))
    connection.execute("UPDATE devices SET site_id = 'plant', name = 'Boiler' WHERE device_id = 'd-1'")
    connection.execute("INSERT INTO ingest.duplicates VALUES (1, 'd-1', %s, 1)", (HOUR,))
    connection.execute(
        "INSERT INTO ingest.quarantine (object_id, line, device_id, reason, raw, raw_bytes) "
        "VALUES (1, 7, 'd-1', 'no_timestamp', 'what a device wrote', 19)"
    )
    connection.execute(
        "INSERT INTO anomalies (device_id, metric, kind, severity, started_at, last_at, readings, value, expected, score, "
        "metadata) VALUES ('d-2', 'battery', 'out_of_range', 'critical', %(at)s, %(at)s, 1, 150, 100, 9, %(metadata)s)",
        {"at": HOUR + timedelta(minutes=MINUTES - 1), "metadata": json.dumps({"low": 0})},
    )
    connection.execute(
        "INSERT INTO ingest.touched (first, last) SELECT hour, hour + interval '59 minutes' "
        "FROM unnest(%s::timestamptz[]) hour",
        ([HOUR, HOUR + timedelta(hours=1)],),
    )
    bring_up_to_date(connection)
