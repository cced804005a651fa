"""The balance sheet by sequence numbers, for any fleet: the rule is the database's, ingest.sequence_balance."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import psycopg

from ops.audit.lines import Line
from ops.audit.sheet import Entry, HourOf, Sheet
from ops.audit.staging import EPOCH

_HOUR = timedelta(hours=1)
_CLOSED = "SELECT %s <= now() - interval '1 hour' - ingest.balance_delay()"
_HOURS = "SELECT * FROM ingest.sequence_balance(%s, %s, %s)"


def waiting_by_hour(lines: Iterable[Line], device: str | None) -> Counter[HourOf]:
    """Readings on their way, each counted once however often it is: to be called before `look_up`."""
    seen = {key for line in lines for key in line.keys if device is None or key.device_id == device}
    return Counter(HourOf(key.device_id, EPOCH + key.ts // 3_600_000 * _HOUR) for key in seen if 0 <= key.ts < 2**47)


def look_up(
    database: psycopg.Connection,
    since: datetime,
    until: datetime,
    device: str | None,
    waiting: Counter[HourOf],
    say: Callable[[str], None],
) -> Sheet:
    """The sheet of the hours from `since` until `until`; hours that are touched count whole. Raises psycopg.Error."""
    sheet = Sheet(source="sequence")
    hour = since.replace(minute=0, second=0, microsecond=0)
    devices = None if device is None else [device]
    while hour < until:
        say(f"hour {hour:%Y-%m-%d %H:%M}")
        row = database.execute(_CLOSED, (hour,)).fetchone()
        each_reading = not (row and row[0])
        for device_id, expected, rows, duplicates, quarantined, missing in database.execute(
            _HOURS, (hour, devices, each_reading)
        ):
            # What is on its way fills gaps, or comes after the newest row.
            in_flight = waiting.get(HourOf(device_id, hour), 0)
            beyond = max(0, in_flight - missing)
            sheet.ledger_duplicates += duplicates
            sheet.add(
                HourOf(device_id, hour),
                Entry(expected + beyond, rows, duplicates, quarantined, in_flight, missing + beyond - in_flight),
            )
        hour += _HOUR
    for key, number in waiting.items():
        # Of a device that has no row in that hour yet.
        if since <= key.hour < until and key not in sheet.entries:
            sheet.add(key, Entry(expected=number, in_flight=number))
    return sheet
