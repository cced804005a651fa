"""Loads objects with a pool of workers, and counts what became of them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from lambdas.shared.listing import Listed
from ops.errors import UserError
from ops.replay.pool import Pool
from ops.replay.replacement import Replacement
from ops.replay.worker import Done, Job

_HOPELESS = 20
"""Failures with no success in between, after which something must be wrong with more than an object."""


@dataclass
class Totals:
    """What became of the objects of a run so far."""

    loaded: int = 0
    already_loaded: int = 0
    rejected: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    failures: list[tuple[Listed, str]] = field(default_factory=list)
    changed: list[tuple[Listed, Replacement]] = field(default_factory=list)
    """Objects that were loaded again, and hold something else now."""

    @property
    def done(self) -> int:
        """Objects dealt with."""
        return self.loaded + self.already_loaded + self.rejected + len(self.failures)

    @property
    def readings(self) -> int:
        """Readings dealt with."""
        return self.rows + self.duplicates + self.quarantined

    def add(self, done: Done) -> None:
        """Counts one object."""
        if done.outcome is None:
            self.failures.append((done.listed, done.failure or "no reason given"))
            return
        outcome = done.outcome
        if outcome.status == "already_loaded":
            self.already_loaded += 1
        elif outcome.status == "rejected":
            self.rejected += 1
        else:
            self.loaded += 1
        self.rows += outcome.rows
        self.duplicates += outcome.duplicates
        self.quarantined += outcome.quarantined
        if done.replacement is not None and done.replacement.changed:
            self.changed.append((done.listed, done.replacement))


def load_all(
    job: Job,
    objects: Sequence[Listed],
    workers: int,
    stop: threading.Event,
    progress: Callable[[Done, Totals], None] = lambda *_: None,
) -> Totals:
    """Loads the objects; after `stop` is set, only those under way.

    Raises UserError when a worker dies, or when nothing can be loaded at all.
    """
    totals = Totals()
    started = time.monotonic()
    failed_in_a_row = 0
    with Pool(job, min(workers, len(objects))) as pool:
        for done in pool.run(objects, stop):
            totals.add(done)
            totals.seconds = time.monotonic() - started
            progress(done, totals)
            failed_in_a_row = failed_in_a_row + 1 if done.failure else 0
            if failed_in_a_row == _HOPELESS:
                raise UserError(
                    f"{_HOPELESS} objects in a row could not be loaded, the last because: {done.failure}; "
                    f"{totals.done - len(totals.failures)} were before: repeat the command when that is mended"
                )
    totals.seconds = time.monotonic() - started
    totals.interrupted = stop.is_set() and totals.done < len(objects)
    return totals


@contextmanager
def stopping_on_interrupt(told: Callable[[], None]) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets (and `told` is called); the second raises KeyboardInterrupt as always."""
    stop = threading.Event()

    def handle(_: int, __: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        told()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
