"""Worker processes, a bounded number of objects under way, and a stop that leaves nothing half done.

Processes rather than threads: parsing is Python, which runs one thread at a time. Measured with the database on the same
two cores, which it shares: two processes load 1.3 times as much as one, two threads no more than one.
"""

import multiprocessing
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from lambdas.shared.listing import Listed
from ops.errors import UserError
from ops.replay.worker import Done, Job, serve

_POLL_SECONDS = 0.2
_EXIT_SECONDS = 20.0


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A Ctrl-C meant for the parent would end a worker that has not got as far as to ignore it: it inherits the mask."""
    resource_tracker.ensure_running()  # which resets the mask when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pool:
    """Loads objects with a number of worker processes; a context manager that leaves none running.

    Left by an exception (a second Ctrl-C among them), it ends the workers at once: the server rolls back what they were
    in the midst of.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self._job = job
        self._workers = workers
        self._running: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for pipe, process in self._running.items():
            pipe.close()
            if kind is not None:
                process.terminate()
        for process in self._running.values():
            process.join(_EXIT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def run(self, objects: Iterable[Listed], stop: threading.Event) -> Iterator[Done]:
        """What became of each object, as they get done. After `stop` is set none is begun; those under way are finished.

        Raises UserError when a worker process dies.
        """
        waiting = iter(objects)
        under_way: dict[Connection, Listed] = {}
        while True:
            while not stop.is_set() and (pipe := self._idle(under_way)) is not None:
                listed = next(waiting, None)
                if listed is None:
                    break
                under_way[pipe] = listed
                with suppress(BrokenPipeError):  # its end shows when its answer is awaited
                    pipe.send(listed)
            if not under_way:
                return
            for ready in wait(list(under_way), _POLL_SECONDS):
                assert isinstance(ready, Connection)  # noqa: S101 - for the type checker: we wait for nothing else
                listed = under_way.pop(ready)
                try:
                    done: Done = ready.recv()
                except (EOFError, ConnectionResetError):
                    process = self._running[ready]
                    process.join(_EXIT_SECONDS)
                    raise UserError(
                        f"a worker process ended with status {process.exitcode} while it loaded {listed.key} "
                        "(out of memory?): the object was rolled back; repeat the command, with a smaller --parallel"
                    ) from None
                yield done

    def _idle(self, under_way: dict[Connection, Listed]) -> Connection | None:
        """A worker with nothing to do, started when there may be one more."""
        for pipe in self._running:
            if pipe not in under_way:
                return pipe
        if len(self._running) == self._workers:
            return None
        # A fresh interpreter: a forked copy would share the parent's sockets and threads' locks.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self._job), daemon=True, name="fleet replay worker")
        with _interrupts_held_back():
            process.start()
        theirs.close()
        self._running[ours] = process
        return ours
