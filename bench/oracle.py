"""`fleet bench oracle`: what recording a run's ground truth costs it, and how large that is.

The whole engine against mosquitto with mutual TLS, offered more than it can send, with and without `--oracle` in turn.
"""

import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.simulator_broker import HOST, PREFIX, broker, find_mosquitto, identities
from certs.store import DeviceIdentity
from ops.errors import UserError
from ops.paths import LOCAL
from simulator.oracle import read
from simulator.run import engine
from simulator.scenario.config import SimulatorConfig

_DEVICES = 200
_OFFERED_PER_SECOND = 1_000_000
_TARGET_SLOWDOWN_PERCENT = 10.0
_TARGET_BYTES = 100.0


@dataclass(frozen=True)
class Timed:
    """One run."""

    seconds: float
    """From the first reading to the last acknowledgement."""
    cpu_seconds: float
    """Of this process, which is not the one that writes the file."""
    bytes: int = 0


@dataclass(frozen=True)
class Round:
    """One run without and one with the recorder."""

    without: Timed
    recorded: Timed

    @property
    def slowdown_percent(self) -> float:
        """What the recorder adds to the run's time."""
        return 100 * (self.recorded.seconds / self.without.seconds - 1)

    @property
    def cpu_percent(self) -> float:
        """What it adds to the CPU time of the process that sends."""
        return 100 * (self.recorded.cpu_seconds / self.without.cpu_seconds - 1)


def run(readings: int, rounds: int, console: Console) -> dict[str, Any]:
    """Measures with and without envelopes, prints the table, and returns the figures. Raises `UserError`."""
    folder = LOCAL / "bench" / "simulator"
    folder.mkdir(parents=True, exist_ok=True)
    mosquitto = find_mosquitto(LOCAL / "bench", lambda text: console.print(f"[dim]{text}"))
    devices = identities(folder, _DEVICES, lambda _done, _total: None)
    table = Table(
        "readings per message", "without, readings/s", "with, readings/s", "slower by", "CPU", "bytes per reading"
    )
    figures: dict[str, dict[str, float]] = {}
    for batch, share in ((25, 1), (1, 5)):
        count = readings // share // (_DEVICES * batch) * _DEVICES * batch
        with console.status(f"{count:,} readings, {batch} per message"), broker(mosquitto, folder) as running:
            done = [
                _round(batch, count, devices, running.port, folder / "truth.parquet", recorded_first=number % 2 == 1)
                for number in range(rounds)
            ]
        found = _figures(done, count)
        figures[f"batch_{batch}"] = found
        table.add_row(
            f"{batch}",
            f"{found['without_per_second']:,.0f}",
            f"{found['with_per_second']:,.0f}",
            f"{found['slowdown_percent']:.1f} %",
            f"{found['cpu_percent']:+.1f} %",
            f"{found['bytes_per_reading']:.1f}",
        )
    console.print(table)
    slowdown = max(found["slowdown_percent"] for found in figures.values())
    size = max(found["bytes_per_reading"] for found in figures.values())
    met = slowdown <= _TARGET_SLOWDOWN_PERCENT and size <= _TARGET_BYTES
    console.print(
        f"{_DEVICES} devices, {readings:,} readings in envelopes and a fifth of that without, median of {rounds} rounds on "
        f"{os.cpu_count()} cores that the broker shares; the targets are {_TARGET_SLOWDOWN_PERCENT:.0f} % and "
        f"{_TARGET_BYTES:.0f} bytes: " + ("[green]met" if met else "[red]missed")
    )
    return {"slowdown_percent": slowdown, "bytes_per_reading": size, "readings": readings, **figures}


def _figures(done: list[Round], readings: int) -> dict[str, float]:
    return {
        "slowdown_percent": statistics.median(each.slowdown_percent for each in done),
        "cpu_percent": statistics.median(each.cpu_percent for each in done),
        "bytes_per_reading": done[0].recorded.bytes / readings,
        "without_per_second": readings / statistics.median(each.without.seconds for each in done),
        "with_per_second": readings / statistics.median(each.recorded.seconds for each in done),
    }


def _round(
    batch: int, readings: int, devices: Sequence[DeviceIdentity], port: int, truth: Path, *, recorded_first: bool
) -> Round:
    """Which of the two goes first changes from round to round, so that neither has the warmer machine."""
    interval = _DEVICES / _OFFERED_PER_SECOND
    config = replace(
        SimulatorConfig(),
        device_count=_DEVICES,
        prefix=PREFIX,
        batch=batch,
        linger_seconds=2 * batch * interval,
        interval_seconds=interval,
        # Half an interval less, so that no rounding adds a reading.
        duration_seconds=(readings / _DEVICES - 0.5) * interval,
        topic="bench",
        unthrottled=True,
        buffer_readings=readings,
        workers=1,
    )
    order = [truth, None] if recorded_first else [None, truth]
    timed = {path: _timed(config, devices, port, path) for path in order}
    return Round(timed[None], timed[truth])


def _timed(config: SimulatorConfig, devices: Sequence[DeviceIdentity], port: int, truth: Path | None) -> Timed:
    before = time.process_time()
    report = engine.run(config, devices, HOST, port, stop=threading.Event(), oracle=truth)
    cpu = time.process_time() - before
    if not report.complete or report.oracle_fault:
        raise UserError(
            f"a run of {report.readings_generated:,} readings had {report.readings_acknowledged:,} acknowledged: "
            f"{report.oracle_fault or report.first_publish_failure or 'the machine is too busy'}: try again"
        )
    seconds = (report.ended_at - report.started_at).total_seconds()
    if truth is None:
        return Timed(seconds, cpu)
    with read(truth) as oracle:
        if oracle.facts.rows != report.readings_generated:
            raise UserError(f"the ground truth has {oracle.facts.rows:,} of {report.readings_generated:,} readings")
    size = truth.stat().st_size
    truth.unlink()
    return Timed(seconds, cpu, size)
