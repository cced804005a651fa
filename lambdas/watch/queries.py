"""What the watch asks the database, every minute: a few descents of an index per device, and never a chunk read through.

A chunk holds a day, which may be 86 million readings, and its one index begins with the device.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, cast

import psycopg

from lambdas.watch.devices import Contact

IN_FLIGHT = timedelta(minutes=10)
"""Readings younger than that may still be on their way: Firehose buffers, loaders retry."""
MISSING_WINDOW = timedelta(minutes=5)
"""Of device time, judged for gaps. Longer would cost more: each of its readings is looked at, in the index."""

# The next device is one descent per chunk away, however many readings lie in between ("loose index scan").
# A clock that was ahead for a moment leaves a newest reading in the future, which says nothing of later ones: then the
# newest up to now is asked for as well.
CONTACTS = """
    WITH RECURSIVE device(device_id) AS (
        (SELECT device_id FROM telemetry WHERE timestamp >= %(since)s ORDER BY device_id LIMIT 1)
        UNION ALL
        SELECT (
            SELECT following.device_id FROM telemetry following
            WHERE following.timestamp >= %(since)s AND following.device_id > device.device_id
            ORDER BY following.device_id LIMIT 1
        ) FROM device WHERE device.device_id IS NOT NULL
    )
    SELECT device.device_id, newest.timestamp, newest.received_at, o.loaded_at,
           earlier.timestamp, earlier.received_at, p.loaded_at
    FROM device
    CROSS JOIN LATERAL (
        SELECT timestamp, received_at, object_id FROM telemetry
        WHERE telemetry.device_id = device.device_id AND timestamp >= %(since)s
        ORDER BY timestamp DESC LIMIT 1
    ) newest
    LEFT JOIN LATERAL (
        SELECT timestamp, received_at, object_id FROM telemetry
        WHERE newest.timestamp > %(now)s
          AND telemetry.device_id = device.device_id AND timestamp >= %(since)s AND timestamp <= %(now)s
        ORDER BY timestamp DESC LIMIT 1
    ) earlier ON true
    LEFT JOIN ingest.objects o ON o.object_id = newest.object_id
    LEFT JOIN ingest.objects p ON p.object_id = earlier.object_id
    WHERE device.device_id IS NOT NULL
"""
# What a gap is, the database knows: ingest.sequence_gaps, by which the balance of an hour is drawn up too.
MISSING = """
    SELECT coalesce(sum(gaps.present), 0)::bigint, coalesce(sum(gaps.missing), 0)::bigint
    FROM unnest(%(devices)s::text[]) AS device(device_id)
    CROSS JOIN LATERAL ingest.sequence_gaps(device.device_id, %(since)s, %(start)s, %(end)s) gaps
"""


class Server(NamedTuple):
    """How the database server is."""

    connections_percent: float
    """Of those that are not reserved for superusers."""
    bytes: int
    unarchived_wal_seconds: float | None
    """None where the server does not archive, or does not say."""


class Parts(NamedTuple):
    """So many of so many."""

    part: int
    whole: int

    @property
    def per_million(self) -> float:
        """0 of 0 is 0."""
        return 1_000_000 * self.part / self.whole if self.whole else 0.0


def server(connection: psycopg.Connection) -> Server:
    """How the server is now."""
    row = connection.execute(
        "SELECT 100.0 * ingest.client_connections() / (current_setting('max_connections')::integer "
        "- current_setting('superuser_reserved_connections')::integer "
        "- coalesce(current_setting('reserved_connections', true)::integer, 0)), "
        "pg_database_size(current_database()), ingest.unarchived_wal_seconds()"
    ).fetchone()
    percent, size_bytes, seconds = cast(tuple[float, int, float | None], row)
    return Server(float(percent), size_bytes, seconds)


def remembered(connection: psycopg.Connection) -> dict[str, datetime]:
    """The devices that are known, and when each was last seen, up to an hour ago for one that still sends."""
    return dict(connection.execute("SELECT device_id, last_seen FROM ingest.devices_seen").fetchall())


def retired(connection: psycopg.Connection) -> dict[str, datetime]:
    """The devices that an operator took out of service, and when."""
    return dict(
        connection.execute(
            "SELECT device_id, retired_at FROM ingest.devices_seen WHERE retired_at IS NOT NULL"
        ).fetchall()
    )


def inactive(connection: psycopg.Connection) -> set[str]:
    """The devices that the registry says are not in service."""
    return {device_id for (device_id,) in connection.execute("SELECT device_id FROM devices WHERE NOT active")}


def contacts(connection: psycopg.Connection, now: datetime, since: datetime) -> list[Contact]:
    """The last that was heard of each device that has a reading since then."""
    rows = connection.execute(CONTACTS, {"now": now, "since": since}).fetchall()
    return [_contact(now, device_id, [(*row[:3],), (*row[3:],)]) for device_id, *row in rows]


def _contact(now: datetime, device_id: str, readings: Sequence[tuple[datetime | None, ...]]) -> Contact:
    """The later of the newest reading and the newest one that is not in the future."""
    heard: list[tuple[datetime, datetime | None]] = []
    for timestamp, received_at, loaded_at in readings:
        if timestamp is None:
            continue
        # The rule's clock rather than the device's; of a reading that has none, a time to come says nothing.
        at = received_at or (timestamp if timestamp <= now else loaded_at or now)
        heard.append((min(at, now), loaded_at))
    at, loaded_at = max(heard, key=lambda each: each[0])
    return Contact(device_id, at, loaded_at)


def remember(connection: psycopg.Connection, seen: Sequence[Contact], forget_before: datetime) -> None:
    """Keeps when devices were last seen, and forgets those that have been silent for the retention."""
    with connection.transaction():
        if seen:
            # In the order of keys, so that two runs at once cannot deadlock.
            connection.execute(
                "INSERT INTO ingest.devices_seen AS known (device_id, last_seen) "
                "SELECT * FROM unnest(%s::text[], %s::timestamptz[]) ORDER BY 1 "
                "ON CONFLICT (device_id) DO UPDATE SET last_seen = greatest(known.last_seen, excluded.last_seen)",
                ([each.device_id for each in seen], [each.at for each in seen]),
            )
        connection.execute("DELETE FROM ingest.devices_seen WHERE last_seen < %s", (forget_before,))


def missing(connection: psycopg.Connection, devices: Sequence[str], now: datetime, since: datetime) -> Parts:
    """Readings that are missing, and those that there should be, in a window that ends before what is in flight."""
    end = now - IN_FLIGHT
    parameters = {
        "devices": list(devices),
        "since": since,
        "start": end - MISSING_WINDOW,
        "end": end,
    }
    row = connection.execute(MISSING, parameters).fetchone()
    present, lost = cast(tuple[int, int], row)
    return Parts(lost, present + lost)


def quarantined(connection: psycopg.Connection, loaded_since: datetime) -> Parts:
    """Readings that were quarantined, of all readings in the objects that were loaded since then."""
    row = connection.execute(
        "SELECT coalesce(sum(quarantined), 0)::bigint, coalesce(sum(readings), 0)::bigint "
        "FROM ingest.objects WHERE loaded_at >= %s",
        (loaded_since,),
    ).fetchone()
    return Parts(*cast(tuple[int, int], row))
