"""What replay and rebuild print: plans, progress, totals, what changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ops.replay.checksum import DaySum
from ops.replay.plan import Estimate, Plan
from ops.replay.rebuild import Comparison
from ops.replay.replacement import Contents
from ops.replay.replay import Chosen, Order
from ops.replay.run import Totals

_MOST_DAYS = 60
"""Days that are shown when all is well; those that differ always are."""
_SHOWN = 50
"""Objects of a kind that are shown one by one."""


def bytes_text(size: float) -> str:
    """A size for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def duration_text(seconds: float) -> str:
    """How long something takes, in minutes as long as that is a number one can imagine."""
    if seconds < 60:
        return "under a minute"
    minutes = seconds / 60
    return f"about {minutes:,.0f} minutes" if minutes < 180 else f"about {minutes / 60:,.1f} hours"


def plan_lines(
    plan: Plan, order: Order, bucket: str, chosen: Chosen | None, estimate: Estimate, workers: int
) -> list[str]:
    """What a replay would do."""
    listed_bytes = sum(listed.size_bytes for listed in plan.listed)
    known = len(plan.ledger)
    lines = [
        f"Objects of {order.span} (whole hours, by arrival) in {bucket}",
        f"  in S3          {len(plan.listed):>9,} objects, {bytes_text(listed_bytes)}"
        + (", every version" if order.all_versions else ""),
        f"  in the ledger  {known:>9,}, {plan.rejected:,} of them rejected: "
        + ("removed and loaded again" if order.force else "left as they are (--force loads them again)"),
    ]
    if chosen is not None:
        lines.append(
            f"  with {order.device_id}: {len(chosen.objects):,} objects, loaded whole; {chosen.by_table:,} by what the "
            f"table has of it, the others found by looking into {chosen.looked_into:,}"
        )
    size = sum(listed.size_bytes for listed in plan.chosen)
    lines.append(
        f"  to load        {len(plan.chosen):>9,} objects, {bytes_text(size)}, about {estimate.readings:,} readings "
        f"({estimate.basis}), {duration_text(estimate.seconds / workers)} with {workers} worker{'s' if workers > 1 else ''}"
    )
    if plan.archived:
        lines.append(
            f"  {plan.archived:,} of them are archived: those that are not restored (aws s3api restore-object) will fail"
        )
    return lines


@contextmanager
def loading_bar(console: Console, total_bytes: int) -> Iterator[Progress]:
    """A bar over the bytes of the objects, with the rows per second."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[objects]} objects, {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        progress.add_task("loading", total=max(1, total_bytes), objects=0, rate="")
        yield progress


def advance(progress: Progress, size_bytes: int, totals: Totals) -> None:
    """Moves the bar of `loading_bar` on by one object."""
    rate = f"{totals.readings / totals.seconds:,.0f} readings/s" if totals.seconds else ""
    progress.update(progress.task_ids[0], advance=size_bytes, objects=f"{totals.done:,}", rate=rate)


def totals_lines(totals: Totals, of: int) -> list[str]:
    """What became of a run."""
    rate = totals.readings / totals.seconds if totals.seconds else 0.0
    lines = [
        f"{'Interrupted: ' if totals.interrupted else ''}{totals.done:,} of {of:,} objects in {totals.seconds:.1f} s: "
        f"{totals.loaded:,} loaded, {totals.already_loaded:,} already loaded, {totals.rejected:,} rejected, "
        f"{len(totals.failures):,} failed",
        f"  {totals.rows:,} rows, {totals.duplicates:,} duplicates, {totals.quarantined:,} quarantined "
        f"({rate:,.0f} readings/s)",
    ]
    if totals.interrupted:
        lines.append("  What was under way is finished; the same command goes on with the rest.")
    lines += [f"  failed: {listed.key}: {reason}" for listed, reason in totals.failures[:_SHOWN]]
    if len(totals.failures) > _SHOWN:
        lines.append(f"  and {len(totals.failures) - _SHOWN:,} more")
    return lines


def changes_table(totals: Totals) -> Table:
    """The objects that hold something else than before they were loaded again."""
    table = Table(title=f"Changed: {len(totals.changed):,} of {totals.done:,} objects", title_justify="left", box=None)
    for heading in ("object", "rows", "duplicates", "quarantined", "what else"):
        table.add_column(heading, overflow="fold", justify="left" if heading in {"object", "what else"} else "right")
    for listed, replacement in totals.changed[:_SHOWN]:
        before, after = replacement.before, replacement.after
        if before is None:
            continue
        table.add_row(
            listed.key + (f" ({listed.version_id})" if not listed.latest else ""),
            _change(before.rows, after.rows),
            _change(before.duplicates, after.duplicates),
            _change(before.quarantined, after.quarantined),
            _what_else(before, after),
        )
    if len(totals.changed) > _SHOWN:
        table.add_row(f"and {len(totals.changed) - _SHOWN:,} more", "", "", "", "")
    return table


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _what_else(before: Contents, after: Contents) -> str:
    words = []
    if before.status != after.status:
        words.append(f"{before.status} -> {after.status}")
    if before.rows == after.rows and before.checksum != after.checksum:
        words.append("values")
    if (before.ledger_rows, before.ledger_quarantined) != (before.rows, before.quarantined):
        words.append(f"the ledger said {before.ledger_rows:,} rows, {before.ledger_quarantined:,} quarantined")
    return ", ".join(words)


def days_table(comparison: Comparison) -> Table:
    """A line per day: its rows and checksum, and whether the original has the same."""
    table = Table(box=None)
    for heading in ("day (chunk)", "rows", "checksum"):
        table.add_column(heading, justify="right" if heading == "rows" else "left", no_wrap=True)
    if comparison.theirs is not None:
        table.add_column("original", justify="right", no_wrap=True)
        table.add_column("checksum", no_wrap=True)
        table.add_column("", no_wrap=True)
    theirs = comparison.theirs or {}
    different = {difference.day: difference for difference in comparison.differences}
    days = sorted(comparison.ours.keys() | theirs.keys())
    shown = [day for day in days if day in different or len(days) <= _MOST_DAYS]
    for day in shown:
        cells = [str(day), *_sum_cells(comparison.ours.get(day))]
        if comparison.theirs is not None:
            verdict = "equal"
            if difference := different.get(day):
                verdict = "[red]other values[/]" if difference.same_keys else "[red]other readings[/]"
            cells += [*_sum_cells(theirs.get(day)), verdict]
        table.add_row(*cells)
    total = [f"{len(days):,} days", *_sum_cells(_total(comparison.ours))]
    if comparison.theirs is not None:
        total += [*_sum_cells(_total(theirs)), "equal" if not different else f"[red]{len(different):,} days differ[/]"]
    table.add_section()
    table.add_row(*total)
    return table


def _sum_cells(day: DaySum | None) -> tuple[str, str]:
    return (f"{day.rows:,}", str(day)) if day else ("0", "none")


def _total(days: dict[date, DaySum]) -> DaySum:
    return DaySum(sum(day.rows for day in days.values()), sum(day.checksum for day in days.values()))


def verdict_lines(comparison: Comparison) -> list[str]:
    """What the comparison says, and what a difference may come from."""
    if comparison.theirs is None:
        return ["Not compared with an original."]
    lines = []
    if not comparison.differences:
        lines.append(f"Equal to the original, since {comparison.since} (the retention's edge).")
    if comparison.arrived_meanwhile:
        lines.append(f"Left out: {comparison.arrived_meanwhile:,} objects that arrived while this ran.")
    if comparison.only_ours:
        lines.append(
            f"{comparison.only_ours:,} objects in S3 were never loaded by the original: fleet replay loads them."
        )
    if comparison.only_theirs:
        lines.append(f"{comparison.only_theirs:,} objects that the original has loaded are not in S3 any more.")
    if any(difference.same_keys for difference in comparison.differences):
        lines.append(
            "Other values: the same readings by device, timestamp and seq. Either rows were altered, or a device sent two "
            "readings under one key, of which each database keeps the one it loaded first."
        )
    return lines
