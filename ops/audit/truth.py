"""The balance sheet by a ground truth: every acknowledged reading is looked up, value by value."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from lambdas.shared.contract import METRICS
from ops.audit.broken import Broken, match, note_waiting
from ops.audit.lines import Key, Line, line_of
from ops.audit.sheet import Entry, HourOf, Sheet
from ops.audit.staging import EPOCH, Staged, stage_keys, stage_refused

SHOWN = 20
_BATCH = 20_000
_STRAY = timedelta(minutes=5)
"""How long after a run what it sent may still be refused, where nothing else tells of when it was sent."""
_CLOCKS = timedelta(seconds=5)
"""By which the clock of whoever sent may be ahead of the rule's."""

_WRONG_TYPE = " | ".join(
    f"CASE WHEN k.{m.name} IS NULL AND k.extra ? '{m.name}' THEN {m.wrong_type} ELSE 0 END" for m in METRICS
)
_DIFFERS = (
    "NOT k.odd AND ("
    + " OR ".join(f"t.{m.name} IS DISTINCT FROM k.{m.name}" for m in METRICS)
    + f" OR t.quality & 255 IS DISTINCT FROM (k.quality | {_WRONG_TYPE}) OR t.extra IS DISTINCT FROM k.extra)"
)
# Everything that became of a reading, by the one statement that sees rows and quarantine at one moment.
_FATES = f"""
    CREATE TEMPORARY TABLE audit_fate AS
    SELECT k.device_id, k.ts, k.seq, k.timestamp, k.hour, k.acknowledged, k.attempts, k.acknowledged_at,
           CASE WHEN t.device_id IS NOT NULL THEN CASE WHEN {_DIFFERS} THEN 'differs' ELSE 'stored' END
                WHEN r.ts IS NOT NULL THEN 'quarantined'
                WHEN w.ts IS NOT NULL THEN 'in_flight'
                WHEN k.acknowledged = 0 THEN 'never'
                WHEN k.acknowledged_at > %(young)s::timestamptz THEN 'in_flight'
                ELSE 'missing' END AS fate
    FROM audit_key k
    LEFT JOIN telemetry t ON t.device_id = k.device_id AND t.timestamp = k.timestamp AND t.seq = k.seq
        AND t.device_id = ANY(%(devices)s) AND t.timestamp >= %(first)s::timestamptz AND t.timestamp <= %(last)s::timestamptz
    LEFT JOIN (SELECT DISTINCT device_id, ts, seq FROM audit_refused) r
        ON r.device_id = k.device_id AND r.ts = k.ts AND r.seq = k.seq
    LEFT JOIN (SELECT DISTINCT device_id, ts, seq FROM audit_waiting) w
        ON w.device_id = k.device_id AND w.ts = k.ts AND w.seq = k.seq
"""  # noqa: S608 - texts of ours
_HOURS = """
    SELECT device_id, hour, sum(acknowledged)::bigint,
           count(*) FILTER (WHERE acknowledged > 0 AND fate IN ('stored', 'differs')),
           coalesce(sum(acknowledged - 1) FILTER (WHERE acknowledged > 0 AND fate IN ('stored', 'differs')), 0)::bigint,
           coalesce(sum(acknowledged) FILTER (WHERE fate = 'quarantined'), 0)::bigint,
           coalesce(sum(acknowledged) FILTER (WHERE fate = 'in_flight'), 0)::bigint,
           coalesce(sum(acknowledged) FILTER (WHERE fate = 'missing'), 0)::bigint,
           count(*) FILTER (WHERE fate = 'differs')
    FROM audit_fate GROUP BY device_id, hour
"""
_DOUBT = """
    SELECT count(*) FILTER (WHERE fate <> 'never'), count(*) FILTER (WHERE fate = 'never')
    FROM audit_fate WHERE acknowledged = 0
"""
# A message that was sent so many times may have arrived as often.
_DUPLICATES = """
    SELECT coalesce(sum(d.duplicates), 0)::bigint,
           coalesce(sum(greatest(0, d.duplicates - coalesce(f.may_be, 0))), 0)::bigint
    FROM (
        SELECT device_id, hour, sum(duplicates) AS duplicates FROM ingest.duplicates
        WHERE device_id = ANY(%(devices)s) AND hour > %(first)s::timestamptz - interval '1 hour' AND hour <= %(last)s
        GROUP BY device_id, hour
    ) d
    LEFT JOIN (
        SELECT device_id, hour, sum(greatest(attempts, acknowledged, 1) - 1) AS may_be FROM audit_fate GROUP BY device_id, hour
    ) f USING (device_id, hour)
"""
# Of another run of these devices are rows that came before or after: a clock that is wrong reaches far.
_UNEXPECTED = """
    SELECT t.device_id, t.timestamp, t.seq, count(*) OVER () FROM telemetry t
    WHERE t.device_id = ANY(%(devices)s) AND t.timestamp >= %(first)s AND t.timestamp <= %(last)s
      AND (t.received_at IS NULL OR t.received_at BETWEEN %(started)s AND %(ended)s)
      AND NOT EXISTS (
          SELECT FROM audit_key k WHERE k.device_id = t.device_id AND k.timestamp = t.timestamp AND k.seq = t.seq
      )
    LIMIT %(shown)s
"""
_QUARANTINE = """
    SELECT quarantine_id, device_id, reason, coalesce(payload, convert_to(raw, 'UTF8')), received_at, quarantined_at
    FROM ingest.quarantine
    WHERE quarantined_at >= %(since)s AND resolution IS DISTINCT FROM 'redriven'
      AND (device_id = ANY(%(devices)s) OR device_id IS NULL)
"""
_LISTED = {
    "missing": "SELECT device_id, timestamp, seq, acknowledged_at FROM audit_fate WHERE fate = 'missing' "
    "ORDER BY acknowledged_at, device_id, seq",
    "differing": f"""
        SELECT f.device_id, f.timestamp, f.seq, f.acknowledged_at,
               jsonb_build_object('temperature', k.temperature, 'humidity', k.humidity, 'pressure', k.pressure,
                   'battery', k.battery, 'extra', k.extra, 'quality', k.quality | {_WRONG_TYPE}),
               jsonb_build_object('temperature', t.temperature, 'humidity', t.humidity, 'pressure', t.pressure,
                   'battery', t.battery, 'extra', t.extra, 'quality', t.quality)
        FROM audit_fate f JOIN audit_key k USING (device_id, ts, seq)
        JOIN telemetry t ON t.device_id = f.device_id AND t.timestamp = f.timestamp AND t.seq = f.seq
        WHERE f.fate = 'differs' ORDER BY f.device_id, f.timestamp, f.seq
    """,  # noqa: S608
}


# All of both sides is compared, so that a nested loop is never the best plan; but it is what the planner takes for rows
# that it has no statistics of, and then it does not end: those of the last minutes, all after a crash.
_WHOLE_TABLES = "SET LOCAL enable_nestloop = off"


class Window(NamedTuple):
    """Of a run: from when to when it sent."""

    started_at: datetime
    ended_at: datetime


@dataclass
class Refused:
    """What quarantine has of the devices beside what the ground truth lists."""

    unexpected: list[dict[str, Any]] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)


def collect_waiting(database: psycopg.Connection, staged: Staged, lines: Iterable[Line]) -> None:
    """Notes what is on its way. To be called before `look_up`, so that what moves on meanwhile is seen."""

    keys: list[Key] = []
    for line in lines:
        for text in line.prints & staged.by_print.keys():
            for broken in staged.by_print[text]:
                broken.in_flight = True
        if line.bare is not None and line.device_id in staged.devices:
            staged.bare_waiting.append(line.bare)
        keys += (key for key in line.keys if key.device_id in staged.devices)
        # The lines are found with the same connection, which does nothing else during a COPY.
        if len(keys) >= _BATCH:
            stage_keys(database, keys)
            keys.clear()
    stage_keys(database, keys)


def look_up(
    database: psycopg.Connection,
    staged: Staged,
    run: Window,
    *,
    young_since: datetime | None,
    rule_refuses: bool,
    say: Callable[[str], None],
) -> Sheet:
    """The sheet. Sees the database at one moment; raises psycopg.Error.

    `rule_refuses`: what is no JSON may have ended at the rule, which counts it and lets it go.
    """
    sheet = Sheet(source="oracle", not_judged=staged.unreadable)
    # No reading at all, or only broken payloads: an empty span.
    first = EPOCH + timedelta(milliseconds=staged.first_ts or 0)
    last = EPOCH + timedelta(milliseconds=-1 if staged.last_ts is None else staged.last_ts)
    parameters = {"first": first, "last": last, "devices": sorted(staged.devices), "young": young_since, "shown": SHOWN}
    parameters |= {"started": run.started_at, "ended": run.ended_at}
    with database.transaction():
        database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        database.execute(_WHOLE_TABLES)
        say("reading quarantine")
        refused = _refused(database, staged, run)
        say("comparing every reading with its row")
        database.execute(_FATES, parameters, prepare=False)
        for device_id, hour, *figures in database.execute(_HOURS):
            sheet.add(HourOf(device_id, hour), Entry(*figures))
        row = database.execute(_DOUBT).fetchone() or (0, 0)
        sheet.in_doubt_arrived, sheet.in_doubt_absent = row
        row = database.execute(_DUPLICATES, parameters, prepare=False).fetchone() or (0, 0)
        sheet.ledger_duplicates, sheet.unexplained_duplicates = row
        say("looking for rows that nobody sent")
        for device_id, timestamp, seq, number in database.execute(_UNEXPECTED, parameters, prepare=False):
            sheet.unexpected_rows = number
            sheet.unexpected.append({"device_id": device_id, "timestamp": timestamp, "seq": seq})
        for device_id, timestamp, seq, acknowledged_at in database.execute(_LISTED["missing"]):
            sheet.missing_readings.append(
                {"device_id": device_id, "timestamp": timestamp, "seq": seq, "acknowledged_at": acknowledged_at}
            )
        for device_id, timestamp, seq, acknowledged_at, sent, found in database.execute(_LISTED["differing"].encode()):
            sheet.differing_readings.append(
                {"device_id": device_id, "timestamp": timestamp, "seq": seq, "acknowledged_at": acknowledged_at}
                | {"sent": sent, "found": found}
            )
        sheet.quarantine_reasons = refused.reasons
        sheet.unexpected_quarantined = refused.unexpected
    for broken in staged.broken:
        _add_broken(sheet, broken, young_since, rule_refuses=rule_refuses)
    return sheet


def _add_broken(sheet: Sheet, broken: Broken, young_since: datetime | None, *, rule_refuses: bool) -> None:
    if broken.quarantined > broken.most:
        sheet.unexpected_quarantined.append(
            {"device_id": broken.device_id, "reason": "quarantined more often than sent"}
        )
    if not broken.counted:
        return
    fate = broken.fate(young_since, rule_refuses=rule_refuses)
    if broken.acknowledged_at is None:
        sheet.broken_in_doubt += 1
    elif fate == "refused_by_rule":
        sheet.refused_by_rule += 1  # beside the balance, as the pipeline never had it
    else:
        entry = Entry(1, quarantined=fate == "quarantined", in_flight=fate == "in_flight", missing=fate == "missing")
        sheet.add(HourOf(broken.device_id, broken.sent_at.replace(minute=0, second=0, microsecond=0)), entry)
    if fate == "missing":
        sheet.missing_readings.append(
            {"device_id": broken.device_id, "timestamp": None, "seq": None, "acknowledged_at": broken.acknowledged_at}
        )


def _refused(database: psycopg.Connection, staged: Staged, run: Window) -> Refused:
    """Matches quarantine with what was sent: broken payloads here, readings in `audit_refused`."""
    found = Refused()
    rows: list[tuple[int, Key]] = []
    items: dict[int, dict[str, Any]] = {}
    bares: list[tuple[Line, dict[str, Any]]] = []
    reasons: Counter[str] = Counter()
    parameters = {"since": run.started_at - _STRAY, "devices": sorted(staged.devices)}
    for quarantine_id, device_id, reason, raw, received_at, quarantined_at in database.execute(_QUARANTINE, parameters):
        line = line_of(bytes(raw), device_id)
        item = {"device_id": device_id, "reason": reason, "quarantine_id": quarantine_id}
        if _before(run, line, quarantined_at):
            continue  # of an earlier run, which may have sent the same to the byte
        if broken := _known(staged, device_id, line.prints):
            broken.quarantined += 1
        elif line.bare is not None and device_id in staged.devices:
            bares.append((line, item))
            continue
        elif keys := [key for key in line.keys if key.device_id in staged.devices]:
            rows += [(quarantine_id, key) for key in keys]
            if _within(run, line, received_at or quarantined_at):
                items[quarantine_id] = item
        elif device_id is not None and _within(run, line, received_at or quarantined_at):
            found.unexpected.append(item)
            continue
        else:
            continue
        reasons[reason] += 1
    came = [line.bare for line, _ in bares if line.bare is not None]
    for (line, item), sent in zip(bares, match(staged.broken, came), strict=True):
        if sent is not None:
            sent.quarantined += 1
            reasons[item["reason"]] += 1
        elif _within(run, line, run.ended_at):
            found.unexpected.append(item)
    note_waiting(staged.broken, staged.bare_waiting, came)
    found.reasons = dict(reasons)
    stage_refused(database, rows)
    unknown = database.execute(
        "SELECT DISTINCT r.quarantine_id FROM audit_refused r LEFT JOIN audit_key k USING (device_id, ts, seq) "
        "WHERE k.ts IS NULL AND r.ts BETWEEN %s AND %s",
        (staged.first_ts or 0, -1 if staged.last_ts is None else staged.last_ts),
    )
    found.unexpected += [items[row[0]] for row in unknown if row[0] in items]
    return found


def _before(run: Window, line: Line, stored_at: datetime) -> bool:
    """Whether it came before the run; clocks may differ by a little, and what is stored came some seconds before."""
    if line.received_at_ms is not None:
        return EPOCH + timedelta(milliseconds=line.received_at_ms) < run.started_at - _CLOCKS
    return stored_at < run.started_at


def _within(run: Window, line: Line, stored_at: datetime) -> bool:
    """Whether what is in quarantine came in this run; by the rule's time where it is known, else by when it was stored."""
    if line.received_at_ms is not None:
        return run.started_at <= EPOCH + timedelta(milliseconds=line.received_at_ms) <= run.ended_at
    return run.started_at <= stored_at <= run.ended_at + _STRAY


def _known(staged: Staged, device_id: str | None, texts: frozenset[str]) -> Broken | None:
    """The broken payload whose text this is: of those alike, one that was not found yet."""
    alike = [
        broken
        for text in texts
        for broken in staged.by_print.get(text, ())
        if device_id is None or broken.device_id == device_id
    ]
    return min(alike, key=lambda each: (each.quarantined, each.acknowledged_at is None), default=None)
