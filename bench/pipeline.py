"""`fleet bench pipeline`: the highest rate that the whole local stack sustains without missing one reading.

A rate is sustained when every reading is acknowledged, every acknowledged one becomes a row, 95 of 100 do so within
5 s of their device's timestamp, and no queue between two parts keeps growing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.pipeline_parts import DATABASE, EMULATOR, FIREHOSE, LAMBDAS, ONE_CORE, PARTS, SIMULATOR, Parts
from bench.pipeline_trial import READINGS_PER_MESSAGE, Line, Trial, trial
from certs.names import thing_names
from infra.settings import load
from local import processes, stack
from local.state import State
from ops.paths import LOCAL
from ops.target import ensure_devices, mqtt_endpoint, using_database

LATENCY_SECONDS = 5.0
"""The runbook's service level, at the 95th percentile."""
FIRST_RATE = 10_000.0
_STEP = 1.5
_BISECTIONS = 2
_GROWTH = 0.05
"""A queue that grows by more than this share of the rate is not kept up with."""
_SWING_SECONDS = 1.0
"""Buffers fill and empty by about a second's readings: in a short run that much looks like growth."""
_FULL_CORE = 0.85
_FULL_MACHINE = 0.9
_WARM_UP_SECONDS = 3.0
_PREFIX = "pipeline-"


def run(devices: int, rate: float | None, seconds: float, console: Console) -> dict[str, Any]:
    """Finds the highest rate, or tries the one given; prints the steps and returns the figures.

    The local environment is the running one, left as it is, or else one for the time of the benchmark. Raises UserError.
    """
    with _environment(console) as state, console.status("registering devices") as status:

        def registered(done: int, total: int) -> None:
            status.update(f"registering devices: {done:,} of {total:,}")

        identities = ensure_devices("local", thing_names(devices, _PREFIX), progress=registered)
        host, port = mqtt_endpoint("local")
        with using_database("local", application_name="fleet bench pipeline") as connection:
            line = Line(
                host=host,
                port=port,
                identities=identities,
                topic=load("local").names.basic_ingest_topic,
                prefix=_PREFIX,
                database=connection,
                spool=LOCAL / "firehose" / "spool",
                parts=Parts(state),
            )

            def attempt(offered: float, for_seconds: float = seconds) -> Trial:
                what = f"{devices:,} devices, {offered:,.0f} readings/s"
                status.update(f"{what}: {for_seconds:.0f} s")
                one = trial(line, offered, for_seconds, lambda text: status.update(f"{what}: {text}"))
                console.print(f"  {what}: p95 {_in_seconds(one.latency_p95)}", style="dim", highlight=False)
                return one

            # The first objects meet Lambda workers that are not there yet, and a database with cold caches.
            attempt(min(rate or FIRST_RATE, FIRST_RATE), _WARM_UP_SECONDS)
            trials = [attempt(rate)] if rate else search(attempt)
    figures = summary(trials, devices, seconds)
    for drawn in tables(trials):
        console.print(drawn)
    console.print(conclusion(figures), highlight=False)
    return figures


@contextmanager
def _environment(console: Console) -> Iterator[State]:
    """The running local environment, or one that ends with the benchmark."""

    def progress(text: str) -> None:
        console.print(f"  {text}", style="dim", highlight=False)

    emulator = stack.read_state().emulator
    ours = emulator is None or not processes.is_running(emulator.process)
    try:
        yield stack.up(progress)
    finally:
        if ours:
            stack.down(progress)


def search(attempt: Callable[[float], Trial]) -> list[Trial]:
    """Steps up until a rate is not sustained, then halves the distance to the last one that was, twice."""
    trials, rate, highest, lowest_failed = [], FIRST_RATE, 0.0, 0.0
    while not lowest_failed:
        trials.append(attempt(rate))
        if sustained(trials[-1]):
            highest, rate = rate, rate * _STEP
        else:
            lowest_failed = rate
    for _ in range(_BISECTIONS):
        rate = (highest + lowest_failed) / 2
        trials.append(attempt(rate))
        if sustained(trials[-1]):
            highest = rate
        else:
            lowest_failed = rate
    return trials


def sustained(one: Trial) -> bool:
    """Whether the stack keeps up with this rate for as long as one likes, as far as a run can tell."""
    return (
        one.complete
        and one.missing == 0
        and one.latency_p95 is not None
        and one.latency_p95 < LATENCY_SECONDS
        and one.growth(lambda waiting: waiting.total) < _most_growth(one)
    )


def _most_growth(one: Trial) -> float:
    """Readings a second by which a queue may seem to grow."""
    return one.offered * max(_GROWTH, _SWING_SECONDS / one.load.seconds)


def limit(one: Trial) -> tuple[str, str]:
    """Which part is at its end, and by which measurement: a queue that grows in front of it, or its processor time.

    The name is a part's, `processor` when the machine's cores are all busy, `other programs` when those keep them so,
    or `nothing`.
    """
    load, grown = one.load, _most_growth(one)
    busiest = max(PARTS, key=load.of_a_core)
    full = [part for part in PARTS if part in ONE_CORE and load.of_a_core(part) >= _FULL_CORE]
    where = {
        "the devices": one.growth(lambda waiting: waiting.device),
        "the Firehose process": one.growth(lambda waiting: waiting.spool),
        "the object queue": one.growth(lambda waiting: waiting.queue),
    }
    place = max(where, key=lambda name: where[name])
    queue = f"readings pile up in {place}, {where[place]:,.0f} more each second" if where[place] > grown else ""
    if full:
        part = max(full, key=load.of_a_core)
        return part, _joined(f"{load.of_a_core(part):.2f} of the one core that it can use", queue)
    if load.machine >= _FULL_MACHINE:
        used = f"{load.machine:.0%} of {load.cores} cores are busy"
        if load.others_of_a_core > load.of_a_core(busiest):
            return "other programs", _joined(used, f"{load.others_of_a_core:.2f} of a core by other programs", queue)
        return "processor", _joined(used, f"most of it {busiest}: {load.of_a_core(busiest):.2f} of a core", queue)
    if queue:
        behind = {
            "the devices": EMULATOR,
            "the Firehose process": FIREHOSE,
            "the object queue": LAMBDAS if load.of_a_core(LAMBDAS) >= load.of_a_core(DATABASE) else DATABASE,
        }
        return behind[place], queue
    if one.latency_p95 is not None and one.latency_p95 >= LATENCY_SECONDS:
        return "latency", f"{one.latency_p95:.1f} s at the 95th percentile, with no part at its end"
    return "nothing", f"no part is at its end at {one.offered:,.0f} readings/s"


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)


def summary(trials: Sequence[Trial], devices: int, seconds: float) -> dict[str, Any]:
    """The figures: those of the highest rate sustained; what limits it is taken from the lowest rate that was not."""
    kept_up = [one for one in trials if sustained(one)]
    best = max(kept_up, key=lambda one: one.offered, default=None)
    failed = [one for one in trials if not sustained(one)]
    at_limit = min(failed, key=lambda one: one.offered, default=None) or trials[-1]
    limited_by, measured = limit(at_limit)
    shown = best or at_limit
    return {
        "readings_per_second": round(best.acknowledged_per_second) if best else 0,
        "latency_p50_seconds": shown.latency_p50,
        "latency_p95_seconds": shown.latency_p95,
        "missing": sum(one.missing for one in trials),
        "limited_by": limited_by,
        "limited_by_measured": measured,
        "devices": devices,
        "readings_per_message": READINGS_PER_MESSAGE,
        "seconds": seconds,
        "microseconds_per_reading": shown.load.microseconds_per_reading(shown.acknowledged),
        "steps": [_step(one) for one in trials],
    }


def _step(one: Trial) -> dict[str, Any]:
    last = one.waiting[-1] if one.waiting else None
    return {
        "offered_per_second": round(one.offered),
        "acknowledged": one.acknowledged,
        "rows": one.rows,
        "acknowledged_per_second": round(one.acknowledged_per_second),
        "rows_per_second": round(one.rows_per_second),
        "latency_p50_seconds": one.latency_p50,
        "latency_p95_seconds": one.latency_p95,
        "missing": one.missing,
        "complete": one.complete,
        "sustained": sustained(one),
        "cores": {part: round(one.load.of_a_core(part), 2) for part in PARTS}
        | {
            "other programs": round(one.load.others_of_a_core, 2),
            "machine": round(one.load.machine * one.load.cores, 2),
        },
        "waiting_at_the_end": {
            "device": round(last.device),
            "spool": round(last.spool),
            "queue": round(last.queue),
        }
        if last
        else None,
    }


def tables(trials: Sequence[Trial]) -> tuple[Table, Table]:
    """The steps, in the order in which they were tried: what came of each, and what it took."""
    came = Table(title="Readings per second through the whole local stack", title_justify="left", box=None)
    took = Table(title="Cores used", title_justify="left", box=None)
    for heading in ("offered", "acknowledged", "rows", "p50", "p95", "missing", ""):
        came.add_column(heading, justify="right")
    for heading in ("offered", *_HEADINGS, "others"):
        took.add_column(heading, justify="right")
    for one in trials:
        came.add_row(
            f"{one.offered:,.0f}",
            f"{one.acknowledged_per_second:,.0f}",
            f"{one.rows_per_second:,.0f}",
            _in_seconds(one.latency_p50),
            _in_seconds(one.latency_p95),
            f"{one.missing:,}",
            "[green]sustained[/]" if sustained(one) else "[red]not sustained[/]",
        )
        took.add_row(
            f"{one.offered:,.0f}",
            *(f"{one.load.of_a_core(part):.2f}" for part in _HEADINGS.values()),
            f"{one.load.others_of_a_core:.2f}",
        )
    came.caption, came.caption_justify = "p50 and p95: device timestamp to row visible.", "left"
    return came, took


_HEADINGS: Mapping[str, str] = {
    "simulator": SIMULATOR,
    "emulator": EMULATOR,
    "firehose": FIREHOSE,
    "lambdas": LAMBDAS,
    "database": DATABASE,
}


def _in_seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def conclusion(figures: Mapping[str, Any]) -> str:
    """What was found, in two lines."""
    rate, missing = figures["readings_per_second"], figures["missing"]
    found = f"{rate:,} readings/s sustained" if rate else "no rate tried was sustained"
    latency = _in_seconds(figures["latency_p95_seconds"])
    return (
        f"{found}, p95 {latency}, {missing:,} missing\n"
        f"limited by {figures['limited_by']}: {figures['limited_by_measured']}"
    )
