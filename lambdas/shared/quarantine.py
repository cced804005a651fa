"""Quarantine: what could not become a row is kept with its reason, in a form that any database can store."""

import tempfile
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import msgspec
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
    cursor: psycopg.Cursor,
    rows: Iterable[Quarantined],
    *,
    object_id: int | None = None,
    message_id: str | None = None,
    received_at: datetime | None = None,
) -> None:
    """Stores quarantined lines of an object, or one message that never reached S3. Repeating it changes nothing.

    Of a message, which is nowhere else, `raw` must be whole: every byte of it is kept.
    """
    cursor.executemany(
        "INSERT INTO ingest.quarantine (object_id, message_id, line, element, device_id, reason, raw, raw_bytes, "
        "payload, received_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [
            (
                object_id,
                message_id,
                row.line,
                row.element,
                row.device_id,
                row.reason,
                storable(row.raw),
                row.raw_bytes,
                row.raw if message_id is not None else None,
                received_at,
            )
            for row in rows
        ],
    )


class Spill:
    """Puts refused lines aside during a COPY, which leaves the connection no room for them; in a file when many."""

    _IN_MEMORY_BYTES = 4 * 1024 * 1024
    _BATCH = 500

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=self._IN_MEMORY_BYTES)  # noqa: SIM115 - closed by close()
        self._encode = msgspec.msgpack.Encoder().encode
        self.count = 0

    def add(self, refused: Quarantined) -> None:
        """Puts one aside."""
        encoded = self._encode(tuple(refused))
        self._file.write(len(encoded).to_bytes(4) + encoded)
        self.count += 1

    def store(self, cursor: psycopg.Cursor, *, object_id: int) -> None:
        """Inserts all of them as quarantined lines of an object."""
        self._file.seek(0)
        decode = msgspec.msgpack.Decoder(tuple[int | None, int | None, str | None, str, bytes, int]).decode
        batch: list[Quarantined] = []
        while length := self._file.read(4):
            batch.append(Quarantined(*decode(self._file.read(int.from_bytes(length)))))
            if len(batch) == self._BATCH:
                insert(cursor, batch, object_id=object_id)
                batch.clear()
        if batch:
            insert(cursor, batch, object_id=object_id)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()
