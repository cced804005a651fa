"""What the user sees of a run: live in a terminal, a line every few seconds in a log, the totals at the end."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from simulator.accounts.report import Progress, RunReport
from simulator.scenario.ready_made import ReadyMade

LINE_SECONDS = 5.0
BEHIND_WORTH_TELLING_SECONDS = 1.0


class ShowProgress(Protocol):
    """Shows the state of a run each time it is called."""

    def __call__(self, progress: Progress, /) -> None:
        """Show it."""


@contextmanager
def progress_on(console: Console) -> Iterator[ShowProgress]:
    """Show progress on this console for the time of the `with`, in the way that suits it."""
    if not console.is_terminal:
        yield _PlainProgress(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _LiveProgress(live)


class _Rate:
    """Readings acknowledged per second, over the last few seconds: envelopes come in waves."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque([(0.0, 0)])

    def __call__(self, progress: Progress) -> float:
        self._moments.append((progress.elapsed_seconds, progress.readings_acknowledged))
        while len(self._moments) > 2 and self._moments[1][0] <= progress.elapsed_seconds - LINE_SECONDS:
            self._moments.popleft()
        since, readings = self._moments[0]
        seconds = progress.elapsed_seconds - since
        return (progress.readings_acknowledged - readings) / seconds if seconds > 0 else 0.0


class _PlainProgress:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = _Rate()
        self._shown: tuple[str, float] | None = None

    def __call__(self, progress: Progress) -> None:
        rate = self._rate(progress)
        moment = progress.phase, progress.elapsed_seconds // LINE_SECONDS
        if moment == self._shown:
            return
        self._shown = moment
        facts = ", ".join(f"{name} {value}" for name, value in _facts(progress, rate))
        line = f"{progress.elapsed_seconds:.0f} s {progress.phase}: {facts}"
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class _LiveProgress:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._rate = _Rate()

    def __call__(self, progress: Progress) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_row("[bold]" + progress.phase, f"{progress.elapsed_seconds:.0f} s")
        for name, value in _facts(progress, self._rate(progress)):
            table.add_row(name, value)
        self._live.update(table, refresh=True)


def _facts(progress: Progress, readings_per_second: float) -> list[tuple[str, str]]:
    facts = [
        ("connected", f"{progress.connected} of {progress.devices}"),
        ("readings/s", f"{readings_per_second:,.0f}"),
        ("published", f"{progress.readings_published:,}"),
        ("acknowledged", f"{progress.readings_acknowledged:,}"),
        ("in flight", f"{progress.messages_unacknowledged:,} messages"),
        ("ack p50/p95", f"{_ms(progress.ack_p50_ms)} / {_ms(progress.ack_p95_ms)}"),
    ]
    if progress.connected < progress.devices and progress.readings_buffered:
        facts.append(("buffered", f"{progress.readings_buffered:,}"))
    if progress.reconnects:
        facts.append(("reconnects", f"{progress.reconnects:,}"))
    if progress.readings_dropped:
        facts.append(("dropped", f"{progress.readings_dropped:,}"))
    return facts


def print_scenarios(console: Console, scenarios: Iterable[ReadyMade]) -> None:
    """Print what scenarios there are."""
    table = Table("scenario", "devices", "what it shows")
    table.columns[1].justify = "right"
    for scenario in scenarios:
        table.add_row(scenario.name, str(scenario.devices), scenario.shows)
    console.print(table, highlight=False)
    console.print("fleet simulate --scenario NAME runs one", highlight=False)


def print_totals(console: Console, report: RunReport, oracle: Path | None = None) -> None:
    """Print what the run has sent, what was written down of it in `oracle`, and each thing that is not as it should be."""
    rates = (report.readings_acknowledged, report.messages_acknowledged)
    per_second = [f"{count / report.run_seconds:,.0f}/s" if report.run_seconds else "-" for count in rates]
    table = Table.grid(padding=(0, 2))
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right")
    table.add_row("", "[bold]readings", "[bold]messages", "")
    table.add_row("generated", f"{report.readings_generated:,}", "", f"in {report.run_seconds:.1f} s")
    table.add_row("published", f"{report.readings_published:,}", f"{report.messages_published:,}", _size(report.bytes))
    table.add_row("acknowledged", f"{report.readings_acknowledged:,}", f"{report.messages_acknowledged:,}", "")
    table.add_row("unacknowledged", f"{report.unacknowledged:,}", f"{report.messages_unacknowledged:,}", "")
    table.add_row("rate", *per_second, "")
    console.print(table, highlight=False)
    if report.duplicates_published or report.malformed_published or report.readings_excused:
        console.print(
            f"on purpose: {report.duplicates_published:,} duplicates, {report.malformed_published:,} malformed messages "
            f"({report.malformed_acknowledged:,} acknowledged), {report.readings_excused:,} readings lost",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f"{report.connected} of {report.devices} devices connected (in {report.connect_seconds:.1f} s), "
        f"{report.reconnects} reconnects, {report.retries} retries; "
        f"ack p50 {_ms(report.ack_p50_ms)}, p95 {_ms(report.ack_p95_ms)}, max {_ms(report.ack_max_ms)}; "
        f"seed {report.seed}",
        highlight=False,
        soft_wrap=True,
    )
    if oracle is not None and report.oracle_fault is None:
        size = f"{_size(oracle.stat().st_size)} " if oracle.exists() else ""
        console.print(f"ground truth: {size}in {oracle}", highlight=False, soft_wrap=True, markup=False)
    for fault in _faults(report):
        console.print(fault, style="yellow", highlight=False, soft_wrap=True, markup=False)


def _faults(report: RunReport) -> Iterator[str]:
    if report.not_connected:
        yield f"{report.not_connected} devices never connected; the first: {report.first_connect_failure}"
    if report.shut_out:
        yield f"{report.shut_out} devices were not let in again at the end; the first: {report.first_shut_out}"
    # What a scenario loses on purpose is told above, and no fault.
    only_on_purpose = report.readings_generated - report.readings_acknowledged == report.readings_excused > 0
    if not only_on_purpose:
        yield from _lost(report)
    if report.publish_failures:
        yield f"{report.publish_failures:,} attempts to publish failed; the first: {report.first_publish_failure}"
    if report.malformed_acknowledged < report.malformed_published:
        missing = report.malformed_published - report.malformed_acknowledged
        yield f"{missing:,} malformed messages were published and not acknowledged: they may or may not have arrived"
    if report.management_failures:
        yield f"{report.management_failures:,} packets of shadow and jobs were refused, or broke off with the connection"
    if report.first_revocation_failure:
        yield f"not every certificate that was to be revoked is; the first: {report.first_revocation_failure}"
    if report.behind_seconds > BEHIND_WORTH_TELLING_SECONDS:
        yield (
            f"this machine took readings up to {report.behind_seconds:.1f} s late: it cannot keep this pace; "
            "use fewer devices or a longer interval"
        )


def _lost(report: RunReport) -> Iterator[str]:
    if report.unacknowledged:
        yield f"{report.unacknowledged:,} readings were published and not acknowledged: they may or may not have arrived"
    if report.readings_buffered:
        yield f"{report.readings_buffered:,} readings were still in the devices' buffers: they were never published"
    if report.readings_dropped:
        yield f"{report.readings_dropped:,} readings were dropped because a device's buffer was full, or a reboot lost it"
    if report.readings_excused:
        yield f"{report.readings_excused:,} of these readings were lost on purpose"


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f} ms"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
