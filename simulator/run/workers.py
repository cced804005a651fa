"""A fleet in several processes, where there are cores for them: each runs its share, and the accounts are added up.

Python runs one thread at a time, and a scheduler with its connections fills about one core and a half.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ops.errors import UserError
from simulator import oracle
from simulator.accounts.latency import LatencyHistogram
from simulator.accounts.report import Progress, RunReport, merged_progress, merged_report
from simulator.run.fleet import Fleet, NobodyConnectedError
from simulator.run.session import PROGRESS_SECONDS, Outcome, Session, Share

DEVICES_PER_WORKER = 500
"""Fewer are not worth a process."""
_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
_ATTEND_SECONDS = 0.1
_END_SECONDS = 20.0


def worker_count(wanted: int | None, devices: int, cores: int | None = None) -> int:
    """How many processes run a fleet: as many as wanted, else one for two cores, and none without enough devices."""
    if wanted is not None:
        return max(1, min(wanted, devices))
    cores = cores or len(os.sched_getaffinity(0))
    return max(1, min(cores // 2, devices // DEVICES_PER_WORKER))


@dataclass(slots=True)
class _Worker:
    """A process, the line to it, and what it has said."""

    number: int
    devices: int
    process: BaseProcess
    line: connection.Connection
    answered: bool = False
    progress: tuple[Progress, LatencyHistogram] | None = None
    outcome: Outcome | None = None
    nobody: str | None = None
    failure: str | None = None
    gone: bool = False

    def tell(self, word: str) -> None:
        """Say something to it; nothing happens where it is gone."""
        with suppress(OSError):
            self.line.send(word)


def run_shares(
    share: Share,
    workers: int,
    *,
    stop: threading.Event,
    on_progress: Callable[[Progress], None] | None,
    revoke: Callable[[int], None],
) -> RunReport:
    """Run the fleet in so many processes, and add up their accounts.

    Raises `NobodyConnectedError` as a single process does, and `UserError` for a worker that was killed or failed: then
    the others are stopped first, as Ctrl-C would.
    """
    team = [_start(replace(share, worker=number, workers=workers, oracle=_part(share.oracle, number)))
            for number in range(workers)]  # fmt: skip
    try:
        try:
            _attend(team, stop, on_progress, revoke)
        except KeyboardInterrupt:
            for worker in team:
                worker.tell("abort")
            _attend(team, stop, on_progress, revoke)
    finally:
        for worker in team:
            worker.line.close()  # which aborts whoever still runs
            worker.process.join(_END_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
    fault = _merge_oracles(share.oracle, workers)
    _raise_failures(team)
    outcomes = [worker.outcome for worker in team if worker.outcome]
    latency = LatencyHistogram()
    for outcome in outcomes:
        latency.merge(outcome.latency)
    report = merged_report([outcome.report for outcome in outcomes], latency)
    return replace(report, oracle_fault=report.oracle_fault or fault)


def _start(share: Share) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a copy of a process with threads may hold their locks for ever
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(share, theirs), name=f"simulator-{share.worker + 1}", daemon=True)
    with _without_signals():
        process.start()
    theirs.close()
    devices = len(range(share.worker, len(share.identities), share.workers))
    return _Worker(share.worker, devices, process, ours)


def _attend(
    team: list[_Worker],
    stop: threading.Event,
    on_progress: Callable[[Progress], None] | None,
    revoke: Callable[[int], None],
) -> None:
    """Listen to the workers until each is over or gone."""
    started = stopped = False
    while running := [worker for worker in team if not worker.gone]:
        ready = connection.wait([worker.line for worker in running], timeout=_ATTEND_SECONDS)
        news = [_hear(worker, revoke) for worker in running if worker.line in ready]
        if not started and all(worker.answered or worker.gone for worker in team):
            started = True
            _tell_all(team, "go")
        lost = any(worker.gone and worker.outcome is None for worker in team)
        if not stopped and (stop.is_set() or lost):
            stopped = True
            _tell_all(team, "stop")
        told = [worker.progress for worker in team if worker.progress]
        if on_progress and any(news) and len(told) == len(team):
            on_progress(merged_progress(told))


def _tell_all(team: list[_Worker], word: str) -> None:
    for worker in team:
        worker.tell(word)


def _hear(worker: _Worker, revoke: Callable[[int], None]) -> bool:
    """Take what a worker says; returns whether it was about its progress."""
    try:
        said = worker.line.recv()
    except (EOFError, OSError):
        worker.gone = True
        return False
    match said:
        case ("progress", answered, progress, latency):
            worker.answered = answered
            worker.progress = progress, latency
            return True
        case ("revoke", index):
            revoke(index)
        case ("over", outcome):
            worker.outcome = outcome
        case ("nobody", reason):
            worker.nobody = reason
        case ("failed", line):
            worker.failure = line
    return False


def _raise_failures(team: list[_Worker]) -> None:
    for worker in team:
        if worker.nobody is not None:
            raise NobodyConnectedError(worker.nobody)
        if worker.failure is not None:
            raise UserError(worker.failure)
    for worker in team:
        if worker.outcome is None:
            code = worker.process.exitcode or 0
            by = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
            reports = [each.outcome.report for each in team if each.outcome]
            others = (
                f"{sum(report.readings_acknowledged for report in reports):,} of "
                f"{sum(report.readings_generated for report in reports):,} readings"
            )
            raise UserError(
                f"worker {worker.number + 1} of {len(team)} (process {worker.process.pid}, {worker.devices} devices) was "
                f"ended {by}: what its devices sent is not accounted for, so the run was stopped; the other workers' "
                f"devices have {others} acknowledged; run it again, with fewer devices if memory was short"
            )


def _part(path: Path | None, number: int) -> Path | None:
    return None if path is None else path.with_name(f"{path.name}.worker-{number + 1}")


def _merge_oracles(path: Path | None, workers: int) -> str | None:
    if path is None:
        return None
    parts = [part for number in range(workers) if (part := _part(path, number)) is not None]
    there = [part for part in parts if part.exists() or oracle.part_of(part).exists()]
    return oracle.merge(there, path).fault if there else None


# In the worker's process.


def _work(share: Share, line: connection.Connection) -> None:
    # A terminal's Ctrl-C, and what `timeout` or systemd send to all of us, is for whoever started us, who then tells us.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    stop, lock = threading.Event(), threading.Lock()

    def say(*words: Any) -> None:
        with lock, suppress(OSError):
            line.send(words)

    session = Session(share, stop=stop, revoke=lambda index: say("revoke", index))

    def listen(fleet: Fleet, over: threading.Event) -> None:
        while not over.is_set():
            deadline = PROGRESS_SECONDS
            while deadline > 0 and not over.wait(_ATTEND_SECONDS):
                deadline -= _ATTEND_SECONDS
                _obey(line, session, stop)
                if fleet.all_answered and fleet.phase == "connecting":
                    break
            say("progress", session.all_answered, *fleet.progress())

    try:
        say("over", session.run(listen))
    except NobodyConnectedError as error:
        say("nobody", str(error))
    except UserError as error:
        say("failed", str(error))


def _obey(line: connection.Connection, session: Session, stop: threading.Event) -> None:
    try:
        while line.poll():
            match line.recv():
                case "go":
                    session.start_readings()
                case "stop":
                    stop.set()
                case "abort":
                    session.abort()
    except (EOFError, OSError):  # nobody is left who would read the account
        session.abort()


@contextmanager
def _without_signals() -> Iterator[None]:
    """Block them, also for the process that is started meanwhile, until that one has said what it does about them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
