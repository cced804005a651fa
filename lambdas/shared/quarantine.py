"""Quarantine: what could not become a row is kept with its reason, in a form that any database can store."""

from collections.abc import Iterable
from typing import NamedTuple

import psycopg

MAX_RAW_BYTES = 8 * 1024


class Quarantined(NamedTuple):
    """One line, or one element of an envelope, that did not become a row."""

    line: int | None
    element: int | None
    device_id: str | None
    reason: str
    raw: bytes
    raw_bytes: int


def storable(raw: bytes) -> str:
    """`raw` as text: cut to 8 KiB, with what PostgreSQL's text cannot hold (NUL, bad UTF-8) escaped."""
    return raw[:MAX_RAW_BYTES].decode("utf-8", "backslashreplace").replace("\x00", "\\x00")


def insert(
    cursor: psycopg.Cursor, rows: Iterable[Quarantined], *, object_id: int | None = None, message_id: str | None = None
) -> None:
    """Stores quarantined lines of an object, or of one message that never reached S3. Repeating it changes nothing."""
    cursor.executemany(
        "INSERT INTO ingest.quarantine (object_id, message_id, line, element, device_id, reason, raw, raw_bytes) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [
            (object_id, message_id, row.line, row.element, row.device_id, row.reason, storable(row.raw), row.raw_bytes)
            for row in rows
        ],
    )
