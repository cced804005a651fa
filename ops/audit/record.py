"""Writes a sheet into ingest.balance."""

import psycopg

from ops.audit.sheet import Sheet

_UPSERT = """
    INSERT INTO ingest.balance AS known (
        device_id, hour, source, expected, rows, duplicates, quarantined, in_flight, missing, differing
    )
    SELECT device_id, hour, %s, expected, rows, duplicates, quarantined, in_flight, missing, differing FROM audit_entry
    ORDER BY hour, device_id
    ON CONFLICT (hour, source, device_id) DO UPDATE SET
        expected = excluded.expected, rows = excluded.rows, duplicates = excluded.duplicates,
        quarantined = excluded.quarantined, in_flight = excluded.in_flight, missing = excluded.missing,
        differing = excluded.differing, checked_at = excluded.checked_at
"""


def record(database: psycopg.Connection, sheet: Sheet) -> None:
    """Repeating it changes nothing but `checked_at`. Raises psycopg.Error."""
    with database.transaction(), database.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE audit_entry (device_id text, hour timestamptz, expected bigint, rows bigint, "
            "duplicates bigint, quarantined bigint, in_flight bigint, missing bigint, differing bigint) ON COMMIT DROP"
        )
        with cursor.copy("COPY audit_entry FROM STDIN") as copy:
            for key, entry in sheet.entries.items():
                copy.write_row((*key, *entry.figures))
        cursor.execute(_UPSERT, (sheet.source,))
