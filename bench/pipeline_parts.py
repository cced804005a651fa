"""How much processor time each part of the local stack takes, by its process tree."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from local import timescaledb
from local.state import State
from ops.errors import UserError
from ops.paths import LOCAL

SIMULATOR, EMULATOR, LAMBDAS, FIREHOSE, DATABASE = "simulator", "emulator", "lambda workers", "firehose", "database"
PARTS = (SIMULATOR, EMULATOR, LAMBDAS, FIREHOSE, DATABASE)
ONE_CORE = frozenset({SIMULATOR, EMULATOR, FIREHOSE})
"""Parts that are one Python process each, and so can take little more than one core."""


@dataclass(frozen=True)
class Processor:
    """Processor time so far, in seconds: of each part, of the whole machine, and on the clock."""

    parts: Mapping[str, float]
    busy: float
    at: float

    def since(self, earlier: "Processor") -> "Load":
        """The load between two moments."""
        seconds = max(self.at - earlier.at, 1e-9)
        parts = {name: max(0.0, self.parts[name] - earlier.parts[name]) for name in self.parts}
        return Load(seconds, parts, max(0.0, self.busy - earlier.busy), psutil.cpu_count() or 1)


@dataclass(frozen=True)
class Load:
    """Processor time taken within `seconds`."""

    seconds: float
    parts: Mapping[str, float]
    """Seconds of processor time by part."""
    busy: float
    """Seconds of processor time that the whole machine spent on anything."""
    cores: int

    def of_a_core(self, part: str) -> float:
        """1.0 is one core, all the time."""
        return self.parts[part] / self.seconds

    @property
    def others_of_a_core(self) -> float:
        """What programs beside the stack took."""
        return max(0.0, self.busy - sum(self.parts.values())) / self.seconds

    @property
    def machine(self) -> float:
        """The share of all cores that was busy: 1.0 is all of them, all the time."""
        return min(1.0, self.busy / self.seconds / self.cores)

    def microseconds_per_reading(self, readings: int) -> dict[str, float]:
        """What one reading costs in each part."""
        return {name: round(taken / max(1, readings) * 1e6, 2) for name, taken in self.parts.items()}


class Parts:
    """The processes of the running stack. Raises UserError when a part does not run."""

    def __init__(self, state: State) -> None:
        if state.emulator is None or state.firehose is None:
            raise UserError("the local environment is not running: start it with fleet up")
        self._own = psutil.Process()
        self._emulator = psutil.Process(state.emulator.process.pid)
        self._firehose = psutil.Process(state.firehose.pid)
        postmaster = timescaledb.status(LOCAL / "timescaledb").pid
        self._postmaster = psutil.Process(postmaster) if postmaster else None

    def processor(self) -> Processor:
        """Processor time now. A database in a container, or given by its address, counts as nothing."""
        times = psutil.cpu_times()
        stack = [each for each in (self._emulator, self._firehose, self._postmaster) if each is not None]
        return Processor(
            {
                SIMULATOR: _own(self._own) + _children(self._own, apart_from=stack),
                EMULATOR: _own(self._emulator),
                LAMBDAS: _children(self._emulator),
                FIREHOSE: _own(self._firehose),
                DATABASE: _own(self._postmaster) + _children(self._postmaster) if self._postmaster else 0.0,
            },
            times.user + times.nice + times.system + times.irq + times.softirq,
            time.monotonic(),
        )


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _children(process: psutil.Process, apart_from: Sequence[psutil.Process] = ()) -> float:
    """Of those that have ended, and of those that live; without the parts of the stack that it has started itself."""
    others = {each.pid for root in apart_from for each in (root, *root.children(recursive=True))}
    times = process.cpu_times()
    total = float(times.children_user + times.children_system)
    for child in process.children(recursive=True):
        if child.pid in others:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            of_child = child.cpu_times()
            total += of_child.user + of_child.system + of_child.children_user + of_child.children_system
    return total
