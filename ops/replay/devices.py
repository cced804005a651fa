"""Which objects hold readings of a device."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import psycopg

from lambdas.processor.raw_object import UnreadableObjectError, line_blocks
from lambdas.shared.listing import Listed
from ops.replay.plan import Ledger
from ops.replay.source import Source, UnavailableError, opened

_THREADS = 8  # reading from S3 and unpacking, both of which leave Python to other threads


class _Stamped(msgspec.Struct):
    """The one member of a message that is looked at."""

    device_id: str = ""


_decode = msgspec.json.Decoder(_Stamped).decode


def known_to_hold(connection: psycopg.Connection, device_id: str, ledger: Ledger) -> set[int]:
    """The ids of those loaded objects of which the device has rows or quarantined lines."""
    ids = [entry.object_id for entry in ledger.values()]
    rows = connection.execute(
        "WITH span AS (SELECT min(first_timestamp) AS first, max(last_timestamp) AS last FROM ingest.objects "
        "WHERE object_id = ANY(%(ids)s)) "
        "SELECT DISTINCT object_id FROM telemetry WHERE device_id = %(device)s AND object_id = ANY(%(ids)s) "
        "AND timestamp BETWEEN (SELECT first FROM span) AND (SELECT last FROM span) "
        "UNION SELECT object_id FROM ingest.quarantine WHERE device_id = %(device)s AND object_id = ANY(%(ids)s)",
        {"ids": ids, "device": device_id},
    )
    return {object_id for (object_id,) in rows}


def holding(
    s3: Any,
    source: Source,
    device_id: str,
    objects: Sequence[Listed],
    stop: threading.Event,
    progress: Callable[[], None] = lambda: None,
) -> list[Listed]:
    """Those of `objects` that hold a message of the device, found by reading them.

    One that cannot be read counts as one that holds it, so that the attempt to load it says what is wrong with it.
    """

    def look(listed: Listed) -> bool:
        if stop.is_set():
            return False
        try:
            return _holds(s3, source, device_id, listed)
        except (UnavailableError, UnreadableObjectError):
            return True
        finally:
            progress()

    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(look, objects))
    return [listed for listed, holds in zip(objects, found, strict=True) if holds]


def _holds(s3: Any, source: Source, device_id: str, listed: Listed) -> bool:
    name = device_id.encode()
    with opened(s3, source.version(listed)) as body:
        for block in line_blocks(body):
            for line in block:
                if isinstance(line, bytes) and name in line and _device_of(line) == device_id:
                    return True
    return False


def _device_of(line: bytes) -> str:
    try:
        return _decode(line).device_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
