"""The registry in the database: what a file would change, done in one transaction, and what there is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from ops.devices.fields import DEVICES, Kind
from ops.devices.files import Entry


@dataclass(frozen=True)
class Changes:
    """What entries do to the registry."""

    new: Sequence[Entry]
    changed: Sequence[Entry]
    same: int
    faults: Sequence[str] = field(default=())


def plan(kind: Kind, entries: Sequence[Entry], existing: Mapping[str, Mapping[str, Any]]) -> Changes:
    """Compares entries with the rows that are there. Pure."""
    new: list[Entry] = []
    changed: list[Entry] = []
    faults: list[str] = []
    for entry in entries:
        before = existing.get(entry.values[kind.key])
        after = {**(before or kind.new(entry.values[kind.key])), **entry.values}
        if (after["latitude"] is None) != (after["longitude"] is None):
            given, lacking = ("longitude", "latitude") if after["latitude"] is None else ("latitude", "longitude")
            faults.append(f"{entry.where}, column {lacking}: it is empty, and {given} is {after[given]:g}: give both")
        elif before is None:
            new.append(entry)
        elif any(before[column] != value for column, value in entry.values.items()):
            changed.append(entry)
    return Changes(new, changed, len(entries) - len(new) - len(changed) - len(faults), faults)


def import_entries(connection: psycopg.Connection, kind: Kind, entries: Sequence[Entry]) -> Changes:
    """Writes what is new or changed, unless something is wrong with any entry. To be called in a transaction."""
    keys = sorted(entry.values[kind.key] for entry in entries)
    with connection.cursor(row_factory=dict_row) as cursor:
        # Locked and written in the order in which loaders register devices, so that neither can deadlock.
        cursor.execute(
            sql.SQL('SELECT {} FROM {} WHERE {key} = ANY(%s) ORDER BY {key} COLLATE "C" FOR NO KEY UPDATE').format(
                sql.SQL(", ").join(map(sql.Identifier, kind.fields)),
                sql.Identifier(kind.table),
                key=sql.Identifier(kind.key),
            ),
            (keys,),
        )
        changes = plan(kind, entries, {row[kind.key]: row for row in cursor})
    faults = [*changes.faults, *(_unknown_sites(connection, entries) if kind is DEVICES else ())]
    if faults:
        return Changes((), (), 0, faults)
    _write(connection, kind, [*changes.new, *changes.changed])
    return changes


def _unknown_sites(connection: psycopg.Connection, entries: Sequence[Entry]) -> list[str]:
    wanted = {entry.values["site_id"] for entry in entries if entry.values.get("site_id") is not None}
    known = {
        site for (site,) in connection.execute("SELECT site_id FROM sites WHERE site_id = ANY(%s)", [list(wanted)])
    }
    return [
        f"{entry.where}, column site_id: there is no site {site}: give a file of sites with --sites"
        for entry in entries
        if (site := entry.values.get("site_id")) is not None and site not in known
    ]


def _write(connection: psycopg.Connection, kind: Kind, entries: Sequence[Entry]) -> None:
    ordered = sorted(entries, key=lambda entry: str(entry.values[kind.key]))
    with connection.cursor() as cursor:
        for columns, group in groupby(ordered, key=lambda entry: tuple(entry.values)):
            statement = _upsert(kind, columns)
            cursor.executemany(
                statement,
                [
                    [_stored(value) for value in (kind.new(entry.values[kind.key]) | entry.values).values()]
                    for entry in group
                ],
            )


def _upsert(kind: Kind, given: Iterable[str]) -> sql.Composed:
    """A new row gets every column; one that is there, only those which were given."""
    names = [column for column in given if column != kind.key] or [kind.key]
    return sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}").format(
        sql.Identifier(kind.table),
        sql.SQL(", ").join(map(sql.Identifier, kind.new(""))),
        sql.SQL(", ").join([sql.Placeholder()] * len(kind.fields)),
        sql.Identifier(kind.key),
        sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in names),
    )


def _stored(value: object) -> object:
    return Jsonb(value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class Filter:
    """Which devices are listed. `offline`: silent for longer than `offline_after_minutes`, or never heard of."""

    site_id: str | None = None
    active: bool | None = None
    offline: bool = False
    offline_after_minutes: int = 10


_LISTED = """
    SELECT d.*, l.heard_at, l.timestamp, clock_timestamp() AS now,
           CASE WHEN NOT d.active THEN 'inactive' WHEN l.heard_at IS NULL THEN 'never'
                WHEN l.heard_at < clock_timestamp() - make_interval(mins => %(minutes)s) THEN 'offline'
                ELSE 'online' END AS state
    FROM devices d
    LEFT JOIN LATERAL (
        SELECT timestamp, least(coalesce(received_at, timestamp), clock_timestamp()) AS heard_at
        FROM device_latest WHERE device_latest.device_id = d.device_id
    ) l ON true
    WHERE (%(site)s::text IS NULL OR d.site_id = %(site)s)
      AND (%(active)s::boolean IS NULL OR d.active = %(active)s)
      AND (NOT %(offline)s OR l.heard_at IS NULL
           OR l.heard_at < clock_timestamp() - make_interval(mins => %(minutes)s))
      AND (%(device)s::text IS NULL OR d.device_id = %(device)s)
    ORDER BY d.device_id COLLATE "C"
"""


def listed(connection: psycopg.Connection, chosen: Filter, device_id: str | None = None) -> list[dict[str, Any]]:
    """Devices with their state and when they were last heard of, in the order of their names."""
    parameters = {
        "site": chosen.site_id,
        "active": chosen.active,
        "offline": chosen.offline,
        "minutes": chosen.offline_after_minutes,
        "device": device_id,
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_LISTED, parameters).fetchall()


def sites(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Every site, with the number of its devices."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT s.*, (SELECT count(*) FROM devices d WHERE d.site_id = s.site_id) AS devices "
            'FROM sites s ORDER BY s.site_id COLLATE "C"'
        ).fetchall()


def has_site(connection: psycopg.Connection, site_id: str) -> bool:
    """Whether there is such a site."""
    return connection.execute("SELECT FROM sites WHERE site_id = %s", [site_id]).fetchone() is not None


def latest(connection: psycopg.Connection, device_id: str) -> dict[str, Any] | None:
    """The newest reading of a device; one descent of an index."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM device_latest WHERE device_id = %s", [device_id]).fetchone()


def metrics(connection: psycopg.Connection, device_id: str) -> list[dict[str, Any]]:
    """What is measured, in which unit, and what is plausible for this device."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT metric, unit, low, high FROM device_metrics WHERE device_id = %s", [device_id]
        ).fetchall()


def today(connection: psycopg.Connection, device_id: str) -> dict[str, Any]:
    """What there is of a device since midnight (UTC): readings, and what was wrong with them."""
    with connection.cursor(row_factory=dict_row) as cursor:
        counts = cursor.execute(
            "WITH day AS (SELECT date_trunc('day', clock_timestamp(), 'UTC') AS midnight) "
            "SELECT count(*) AS readings, count(*) FILTER (WHERE quality & 15 <> 0) AS wrong_type, "
            "count(*) FILTER (WHERE quality & 240 <> 0) AS out_of_range, "
            "(SELECT count(*) FROM ingest.quarantine q WHERE q.device_id = %(device)s "
            "AND quarantined_at >= (SELECT midnight FROM day) AND resolution IS DISTINCT FROM 'redriven') AS quarantined "
            "FROM telemetry WHERE device_id = %(device)s AND timestamp >= (SELECT midnight FROM day) "
            "AND timestamp < (SELECT midnight FROM day) + interval '1 day'",
            {"device": device_id},
        ).fetchone()
    assert counts is not None  # noqa: S101 - for the type checker: an aggregate has one row
    return counts


def as_json(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Columns of a row as they are printed as JSON."""
    return {column: row[column] for column in columns}
