"""A small fleet with two days of everything: readings, late ones, duplicates, quarantine, anomalies, refused objects.

Loaded by the real loader, object by object as Firehose would have delivered them, with the rollups brought up to date; the
ledger's clock is then set to when each object would have been loaded. Everything ends at `Fleet.now`.
"""

import gzip
import io
import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.anomalies import Finding, record
from tests.databases import copied_database
from tests.functional.rollups import bring_up_to_date, stop_refreshing
from tests.stamping import STAMP, STAMPS

DEVICES = tuple(f"device-{n:05}" for n in range(1, 31))
SITES = {"north": "North hall", "south": "South yard"}
SILENT = DEVICES[-2]
"""Sends nothing for the last three hours."""
RETIRED = DEVICES[-1]
"""Out of service, silent for a day."""
LATE = DEVICES[4]
"""Of yesterday, an hour of its readings came two hours late."""
QUICK = DEVICES[:3]
"""Send every second for the last ten minutes, the others once a minute all the time."""
_DAYS = 2
_BATCH = 25
_names = count(1)


@dataclass(frozen=True)
class Fleet:
    """A database with a fleet in it."""

    dsn: str
    now: datetime
    """When it ends: a whole minute, just over."""


@contextmanager
def fleet_database(server_dsn: str, template: str) -> Iterator[Fleet]:
    """A copy of the migrated database `template` with a fleet in it, for as long as the context lasts."""
    name = f"{template}_fleet_{next(_names)}"
    with copied_database(server_dsn, template, name) as dsn:
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection, now)
        yield Fleet(dsn, now)


def fill(connection: psycopg.Connection, now: datetime) -> None:
    """Registers the fleet, loads its readings, records its anomalies, and brings the rollups up to date."""
    stop_refreshing(connection)
    _register(connection)
    for arrival in _arrivals(now):
        _load(connection, arrival, now)
    _refuse(connection, now)
    _record_anomalies(connection, now)
    _set_clocks(connection, now)
    bring_up_to_date(connection)
    connection.execute("ANALYZE")


def _register(connection: psycopg.Connection) -> None:
    for number, (site, name) in enumerate(SITES.items()):
        connection.execute(
            "INSERT INTO sites (site_id, name, customer, project, location, latitude, longitude) "
            "VALUES (%s, %s, 'Example Ltd', 'Pilot', 'Bern', %s, %s)",
            (site, name, 46.9 + number / 10, 7.4 + number / 10),
        )
    sites = list(SITES)
    for number, device in enumerate(DEVICES):
        connection.execute(
            "INSERT INTO devices (device_id, name, site_id, device_type, location, firmware, active) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                device,
                f"Sensor {number + 1}",
                # One of thirty has no site.
                None if number == 20 else sites[number % 2],
                "outdoor" if number % 3 else "indoor",
                f"bay {number // 2 + 1}",
                "1.4.2" if number % 5 else "1.3.9",
                device != RETIRED,
            ),
        )


@dataclass
class Arrival:
    """One object: when it arrived, and its lines."""

    at: datetime
    lines: list[bytes] = field(default_factory=list)

    def envelope(self, device: str, readings: list[dict[str, Any]], received: datetime) -> None:
        """One message: the readings of a device, in envelopes of 25."""
        for start in range(0, len(readings), _BATCH):
            members = {
                "readings": readings[start : start + _BATCH],
                "device_id": device,
                "received_at": _milliseconds(received),
                "stamp": STAMP,
            }
            self.lines.append(json.dumps(members).encode())


def _arrivals(now: datetime) -> Iterator[Arrival]:
    """An object every half hour, oldest first, and among them what is late, repeated or broken."""
    begin = now - timedelta(days=_DAYS)
    half = timedelta(minutes=30)
    late: list[dict[str, Any]] = []
    before: Arrival | None = None
    for number in range(_DAYS * 48):
        start, end = begin + number * half, begin + (number + 1) * half
        arrival = Arrival(end)
        for device in DEVICES:
            readings = [_reading(device, start + timedelta(minutes=n), begin) for n in range(30)]
            if device in QUICK and end == now:
                ten = [end - timedelta(seconds=n) for n in range(600, 0, -1)]
                readings = [*readings[:20], *(_reading(device, at, begin) for at in ten)]
            if (device == SILENT and end > now - timedelta(hours=3)) or (
                device == RETIRED and end > now - timedelta(days=1)
            ):
                continue
            if device == LATE and number in (50, 51):
                late += readings
                continue
            for each in range(0, len(readings), _BATCH):
                batch = readings[each : each + _BATCH]
                # Received a moment after the last of it was taken.
                received = datetime.fromtimestamp(batch[-1]["ts"] / 1000, UTC) + timedelta(milliseconds=120)
                arrival.envelope(device, batch, received)
        if number == 55:
            arrival.envelope(LATE, late, end)
        if number % 12 == 11 and before is not None:
            arrival.lines += before.lines[:6]  # QoS 1: delivered again
        if number % 10 == 3:
            arrival.lines += _broken(end)
        before = arrival
        yield arrival


def _broken(at: datetime) -> list[bytes]:
    """What is quarantined, of devices with a name and without."""
    received = _milliseconds(at)
    stamped = {"device_id": DEVICES[7], "received_at": received, "stamp": STAMP}
    future = _milliseconds(at + timedelta(days=3))
    return [
        b'{"readings": [',
        json.dumps({**stamped, "seq": 1, "temperature": 20.5}).encode(),
        json.dumps({**stamped, "ts": future, "seq": 2, "temperature": 20.5}).encode(),
        json.dumps({**stamped, "stamp": "not ours", "ts": received, "seq": 3}).encode(),
    ]


def _reading(device: str, at: datetime, begin: datetime) -> dict[str, Any]:
    """A plausible day: warmest in the afternoon, dry when warm; now and then a value that no sensor can mean."""
    number = DEVICES.index(device)
    seconds = (at - begin).total_seconds()
    dice = random.Random(number * 1_000_003 + int(seconds))  # noqa: S311 - values of a test
    day = math.sin((at.hour + at.minute / 60 - 9) / 24 * 2 * math.pi)
    reading: dict[str, Any] = {
        "ts": _milliseconds(at) + number * 7,
        "seq": int(seconds),
        "temperature": round(18 + number % 5 + 5 * day + dice.gauss(0, 0.2), 2),
        "humidity": round(min(100, 60 - 12 * day + dice.gauss(0, 1)), 2),
        "pressure": round(1005 + number % 3 + 3 * math.sin(seconds / 40_000) + dice.gauss(0, 0.1), 2),
        "battery": round(95 - seconds / 20_000 - number / 3, 2),
    }
    if dice.random() < 0.001:
        reading["temperature"] = 300.0
    if dice.random() < 0.0005:
        reading["humidity"] = "n/a"
    return reading


def _load(connection: psycopg.Connection, arrival: Arrival, now: datetime) -> None:
    body = gzip.compress(b"".join(line + b"\n" for line in arrival.lines), 1)
    name = arrival.at.strftime("year=%Y/month=%m/day=%d/hour=%H/iot-telemetry-stream-%M.gz")
    version = ObjectVersion("iot-telemetry-bucket", name, "v1", len(body))
    limits = Limits.for_arrival(arrival.at, now, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
    outcome = load_object(connection, version, lambda: io.BytesIO(body), limits)
    assert outcome.status == "loaded", outcome
    connection.execute(
        "UPDATE ingest.objects SET claimed_at = %(at)s + interval '2 seconds', loaded_at = %(at)s + interval '3 seconds' "
        "WHERE object_id = %(id)s",
        {"at": min(arrival.at, now - timedelta(seconds=5)), "id": outcome.object_id},
    )


def _refuse(connection: psycopg.Connection, now: datetime) -> None:
    """Two objects that are no gzip, of which an operator gave one up."""
    for hours in (2, 30):
        at = now - timedelta(hours=hours)
        version = ObjectVersion("iot-telemetry-bucket", f"broken-{hours}.gz", "v1", 20)
        limits = Limits.for_arrival(at, now, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
        outcome = load_object(connection, version, lambda: io.BytesIO(b"\x1f\x8b\x08 and then nothing"), limits)
        assert outcome.status == "rejected", outcome
        connection.execute(
            "UPDATE ingest.objects SET claimed_at = %(at)s, loaded_at = %(at)s, resolution = %(resolution)s, "
            "resolved_at = CASE WHEN %(resolution)s::text IS NOT NULL THEN %(at)s END, "
            "resolved_by = CASE WHEN %(resolution)s::text IS NOT NULL THEN 'alice' END WHERE object_id = %(id)s",
            {"at": at, "resolution": "discarded" if hours == 30 else None, "id": outcome.object_id},
        )


def _record_anomalies(connection: psycopg.Connection, now: datetime) -> None:
    """Of every kind and severity, at both sites, open and over, in the last hour and the day before."""
    ago = [timedelta(minutes=12), timedelta(minutes=40), timedelta(hours=5), timedelta(hours=20), timedelta(hours=30)]
    kinds: list[tuple[Any, Any, str | None, float, float]] = [
        ("out_of_range", "critical", "temperature", 300.0, 125.0),
        ("spike", "warning", "temperature", 41.5, 22.1),
        ("jump", "info", "pressure", 985.0, 1006.2),
        ("stuck", "warning", "humidity", 55.0, 55.0),
    ]
    with connection.transaction(), connection.cursor() as cursor:
        connection.execute("DELETE FROM anomalies")  # what the loader found of its own, at the time of this test
        for number, before in enumerate(ago):
            findings = [
                Finding(
                    device_id=DEVICES[(number * 4 + n) % 26],
                    metric=metric,
                    kind=kind,
                    severity=severity,
                    started_at=now - before,
                    last_at=now - before + timedelta(minutes=5),
                    readings=6,
                    value=value,
                    expected=expected,
                    score=8.5 + n,
                )
                for n, (kind, severity, metric, value, expected) in enumerate(kinds)
            ]
            record(cursor, findings)
        record(
            cursor,
            [
                Finding(
                    SILENT, None, "silence", "critical", now - timedelta(hours=3), now - timedelta(hours=3), 0, 10_800, 300,
                    36.0,
                )
            ],
        )  # fmt: skip
        cursor.execute(
            "UPDATE anomalies SET detected_at = started_at + interval '40 seconds', "
            "resolved_at = CASE WHEN started_at < %(open)s AND kind <> 'silence' THEN last_at + interval '10 minutes' END, "
            "resolved_by = CASE WHEN started_at < %(open)s AND kind <> 'silence' THEN 'recovered' END",
            {"open": now - timedelta(hours=6)},
        )


def _set_clocks(connection: psycopg.Connection, now: datetime) -> None:
    """What the database did just now, it did when its objects came; and the schema is half an hour old."""
    connection.execute(
        "UPDATE ingest.quarantine q SET quarantined_at = o.loaded_at FROM ingest.objects o WHERE o.object_id = q.object_id"
    )
    connection.execute("UPDATE ingest.migrations SET applied_at = %s", (now - timedelta(minutes=30),))
    connection.execute("UPDATE devices SET registered_at = %s", (now - timedelta(days=_DAYS),))
    connection.execute(
        "INSERT INTO ingest.announced_again (bucket, key, version_id, arrived_at, announced_at) "
        "VALUES ('iot-telemetry-bucket', 'forgotten.gz', 'v1', %s, %s)",
        (now - timedelta(minutes=50), now - timedelta(minutes=20)),
    )


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
