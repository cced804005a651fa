"""What these commands print. Texts that devices sent are shown with their control characters spelt out."""

import base64
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from rich.table import Table

from ops.quarantine.dead_letters import DeadLetter
from ops.quarantine.hints import hint
from ops.quarantine.items import Item
from ops.quarantine.outcome import Tally
from ops.quarantine.refusals import Kept
from ops.terminal import printable

_QUEUE_RETENTION = timedelta(days=14)


def table_of(items: Iterable[Item], *, resolutions: bool) -> Table:
    """One row per item."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("id", no_wrap=True)
    for heading in ("since (UTC)", "reason", "device", "object", *(["resolution"] if resolutions else [])):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"since (UTC)", "reason"})
    for item in items:
        cells = [str(item.id), _moment(item.at), item.reason, item.device or "", _place(item)]
        table.add_row(*map(printable, cells + ([_resolution(item)] if resolutions else [])))
    return table


def _place(item: Item) -> str:
    place = item.key or ""
    if item.line is not None:
        # Of many lines the end of the key tells objects apart; `show` and --json have the whole of it.
        place = f"{place.rpartition('/')[2]} line {item.line}"
    if item.element is not None:
        place += f" element {item.element}"
    return place


def _resolution(item: Item) -> str:
    if item.resolution is None or item.resolved_at is None:
        return ""
    note = f": {item.note}" if item.note else ""
    return f"{item.resolution} {_moment(item.resolved_at)} by {item.resolved_by}{note}"


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"


def facts(item: Item, kept: Kept | None, letter: DeadLetter | None) -> list[tuple[str, str]]:
    """Everything that is known of one item, in the order in which one asks."""
    known = [
        ("kind", item.id.kind),
        ("reason", item.reason),
        ("since", _moment(item.at) + " UTC"),
        ("device", item.device),
        ("object", f"s3://{item.bucket}/{item.key}" if item.key is not None else None),
        ("version", item.version_id),
        ("ledger", f"object_id {item.object_id}" if item.object_id is not None else None),
        ("line", _number(item.line)),
        ("element", _number(item.element)),
        ("bytes", _number(item.size_bytes)),
        ("resolution", _resolution(item)),
        ("received", f"{letter.receives} times" if letter else None),
        ("SQS forgets it", _moment(item.at + _QUEUE_RETENTION) + " UTC" if letter else None),
        ("hint", hint("rule_error" if item.id.kind == "rule-error" else item.reason)),
    ]
    if kept is not None:
        shown = len(kept.raw.encode())
        cut = f" (its first {shown:,} bytes; --json has all of it)" if kept.payload and kept.raw_bytes > shown else ""
        known.append(("text" + cut, kept.raw))
    if letter is not None:
        known.append(("text", letter.body))
    return [(name, value) for name, value in known if value]


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def facts_as_json(item: Item, kept: Kept | None, letter: DeadLetter | None) -> dict[str, Any]:
    """The same for a program."""
    shown = item.as_json() | {"hint": hint("rule_error" if item.id.kind == "rule-error" else item.reason)}
    if kept is not None:
        shown |= {"raw": kept.raw, "raw_is_whole": len(kept.raw.encode()) == kept.raw_bytes and kept.whole is not None}
        if kept.payload is not None:
            shown["payload_base64"] = base64.b64encode(kept.payload).decode()
    if letter is not None:
        shown |= {"raw": letter.body, "raw_is_whole": True, "receives": letter.receives}
    return shown


def tally_table(tally: Tally, *, dry_run: bool) -> Table:
    """What became of how many, per kind and reason."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("kind", "reason", "would become" if dry_run else "became", "because"):
        table.add_column(heading, overflow="fold")
    table.add_column("count", justify="right")
    for outcome, count in sorted(tally.items()):
        cells = (outcome.kind, outcome.reason or "-", outcome.became, outcome.because)
        table.add_row(*map(printable, cells), f"{count:,}")
    return table


def tally_as_json(tally: Tally, *, dry_run: bool, interrupted: bool) -> dict[str, Any]:
    """The same for a program."""
    totals: dict[str, int] = {}
    for outcome, count in tally.items():
        totals[outcome.became] = totals.get(outcome.became, 0) + count
    return {
        "dry_run": dry_run,
        "interrupted": interrupted,
        "totals": totals,
        "outcomes": [{**outcome._asdict(), "count": count} for outcome, count in sorted(tally.items())],
    }
