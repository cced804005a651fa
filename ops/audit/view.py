"""How a sheet is shown: one table, what stands out, and a last line that says what is the case and what to do."""

from collections.abc import Iterator
from datetime import datetime

from rich.table import Table

from ops.audit.cross_check import PARSE_ERRORS
from ops.audit.sheet import Sheet

SHOWN = 20


def table(sheet: Sheet) -> Table:
    """The sums, with how each is known."""
    total = sheet.total
    oracle = sheet.source == "oracle"
    devices, hours = len({key.device_id for key in sheet.entries}), len({key.hour for key in sheet.entries})
    drawn = Table(title=f"Balance of {devices:,} devices in {hours:,} hours", title_justify="left", show_header=False)
    drawn.add_column("what")
    drawn.add_column("readings", justify="right")
    drawn.add_column("how it is known", style="dim")
    if oracle:
        drawn.add_row("acknowledged", f"{total.expected:,}", "the ground truth: PUBACK of the broker")
    else:
        drawn.add_row("expected", f"{total.expected:,}", "rows, and numbers left out between them")
    drawn.add_section()
    drawn.add_row("rows", f"{total.rows:,}", "table telemetry" + (", looked up one by one" if oracle else ""))
    if oracle:
        drawn.add_row("duplicates", f"{total.duplicates:,}", "acknowledged copies of these, sent on purpose")
    drawn.add_row("quarantined", f"{total.quarantined:,}", "table ingest.quarantine, with a reason")
    drawn.add_row("in flight", f"{total.in_flight:,}", "Firehose, objects that are not loaded, queues")
    drawn.add_row(
        "missing",
        f"{total.missing:,}",
        f"{total.residual_ppm:,.1f} parts per million",
        style="bold red" if total.missing else "bold green",
    )
    drawn.add_section()
    if oracle:
        drawn.add_row(
            "differing", f"{total.differing:,}", "rows with other values than were sent", style=_red(total.differing)
        )
        drawn.add_row(
            "unexpected rows", f"{sheet.unexpected_rows:,}", "nobody sent them", style=_red(sheet.unexpected_rows)
        )
        strange = len(sheet.unexpected_quarantined)
        drawn.add_row("unexpected in quarantine", f"{strange:,}", "nobody sent them", style=_red(strange))
        if sheet.refused_by_rule:
            drawn.add_row("refused by the rule", f"{sheet.refused_by_rule:,}", "broken payloads that are no JSON")
        drawn.add_row("in doubt, arrived", f"{sheet.in_doubt_arrived:,}", "never acknowledged: that is fine")
        drawn.add_row(
            "in doubt, absent", f"{sheet.in_doubt_absent:,}", "never acknowledged, or never sent: that is fine"
        )
        explained = f"{sheet.unexplained_duplicates:,} of them by no second sending"
        drawn.add_row("duplicates in the ledger", f"{sheet.ledger_duplicates:,}", explained)
    else:
        drawn.add_row("duplicates in the ledger", f"{sheet.ledger_duplicates:,}", "stored once, and beside the balance")
    return drawn


def _red(number: int) -> str:
    return "bold red" if number else ""


def notes(sheet: Sheet) -> Iterator[str]:
    """What stands out: examples, at most 20 of a kind."""
    for reading in sheet.missing_readings[:SHOWN]:
        what = "a broken payload" if reading["timestamp"] is None else f"{reading['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"
        seq = "" if reading["seq"] is None else f" seq {reading['seq']}"
        yield f"missing    {reading['device_id']}  {what}{seq}  acknowledged {_at(reading['acknowledged_at'])}"
    if sheet.source == "sequence":
        gaps = sorted(((e.missing, key) for key, e in sheet.entries.items() if e.missing), reverse=True)
        for missing, key in gaps[:SHOWN]:
            yield f"missing    {key.device_id}  hour {key.hour:%Y-%m-%dT%H:%MZ}  {missing:,} readings"
    for reading in sheet.differing_readings[:SHOWN]:
        changed = {name: value for name, value in reading["sent"].items() if reading["found"][name] != value}
        found = {name: reading["found"][name] for name in changed}
        at = f"{reading['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ}"
        yield f"differs    {reading['device_id']}  {at} seq {reading['seq']}  sent {changed} found {found}"
    for reading in sheet.unexpected:
        yield f"unexpected {reading['device_id']}  {reading['timestamp']:%Y-%m-%dT%H:%M:%S.%fZ} seq {reading['seq']}"
    for item in sheet.unexpected_quarantined[:SHOWN]:
        yield f"unexpected {item['device_id']}  in quarantine: {item['reason']}"
    if sheet.quarantine_reasons:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(sheet.quarantine_reasons.items()))
        yield f"in quarantine: {reasons}"
    if sheet.refused_by_rule:
        yield f"refused by the rule: {sheet.refused_by_rule:,} broken payloads that are no JSON; {_counted(sheet)}"
    if sheet.rule_errors:
        yield f"in the rule's error queue: {sheet.rule_errors:,} messages, which nobody can look into; run this again"
    if sheet.not_judged:
        yield f"not judged: {sheet.not_judged:,} readings that were sent without a time in milliseconds"


def _counted(sheet: Sheet) -> str:
    """What the rule's own metric says of them; other devices are in it too, and it is minutes late."""
    if sheet.cross_check is None:
        return "the rule's metric ParseError is not available here"
    counted = int(sheet.cross_check[PARSE_ERRORS])
    if counted < sheet.refused_by_rule:
        return (
            f"its metric ParseError has only {counted:,}: run this again in some minutes, else the others are missing"
        )
    return f"its metric ParseError has {counted:,} in these hours"


def cross_check_lines(sheet: Sheet) -> Iterator[str]:
    """AWS's own figures."""
    if sheet.cross_check is None:
        yield "AWS's own counts (CloudWatch): not available here"
        return
    yield "AWS's own counts (CloudWatch), of the whole hours and of messages rather than readings:"
    for what, number in sheet.cross_check.items():
        yield f"  {number:>14,.0f}  {what}"


def verdict(sheet: Sheet) -> str:
    """The last line."""
    total = sheet.total
    name = "acknowledged" if sheet.source == "oracle" else "expected"
    if not total.expected:
        return f"nothing was {name}: there is nothing to account for"
    if sheet.accounted_for:
        waiting = f" ({total.in_flight:,} still in flight: run this again)" if total.in_flight else ""
        return f"every one of {total.expected:,} {name} readings is accounted for{waiting}"
    wrong = []
    if total.missing:
        wrong.append(f"{total.missing:,} of {total.expected:,} {name} readings are missing")
    if total.differing:
        wrong.append(f"{total.differing:,} rows differ from what was sent")
    if sheet.unexpected_rows:
        wrong.append(f"{sheet.unexpected_rows:,} rows were sent by nobody")
    if sheet.unexpected_quarantined:
        wrong.append(f"{len(sheet.unexpected_quarantined):,} items in quarantine were sent by nobody")
    return f"{'; '.join(wrong)}: {_next(sheet)}"


def _next(sheet: Sheet) -> str:
    total = sheet.total
    if total.missing and sheet.rejected_objects:
        return f"{sheet.rejected_objects:,} refused objects wait and may hold them: fleet quarantine list --kind object"
    if total.missing:
        return "fleet replay --dry-run over these hours compares S3 with the table, see docs/audit.md"
    return "see docs/audit.md"


def _at(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"
