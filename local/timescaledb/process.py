"""The server's processes, found by process id and told from others by their folder before they get a signal."""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What to send, and how long to wait: fast shutdown, immediate shutdown (the next start recovers), the last resort.
# https://www.postgresql.org/docs/17/server-shutdown.html
ORDERLY = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))
UNRESPONSIVE = ((signal.SIGQUIT, 6.0), (signal.SIGKILL, 10.0))

Steps = tuple[tuple[signal.Signals, float], ...]

_PROC = Path("/proc")


def read_pid_file(data: Path) -> int | None:
    """The process id that PostgreSQL wrote when it started, whether or not that process still lives."""
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def is_postmaster(pid: int, data: Path) -> bool:
    """Whether `pid` is the server of `data`: that folder is where it works and what it was started with.

    A recycled process id is told apart by this. A zombie has no working folder, so it is none either.
    """
    arguments = _arguments(pid)
    return _works_in(pid, data) and os.fsencode(data) in arguments and not _is_child(arguments)


def is_alive(pid: int) -> bool:
    """Whether a process that we have just started still runs; a zombie does not."""
    try:
        # "pid (name) state ...", and the name may hold anything.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def end(pid: int, data: Path, steps: Steps) -> bool:
    """Send the signals one after the other until the server of `data` is gone with its children; whether it went."""
    with _handle(pid) as handle:
        if handle is None or not is_postmaster(pid, data):
            return True
        for number, seconds in steps:
            try:
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                break
            if _exits(handle, seconds):
                break
        else:
            return False
    return end_orphans(data)


def end_orphans(data: Path, deadline_seconds: float = 10.0) -> bool:
    """End what a killed server left behind: its children keep its shared memory, and no server can start until they go.

    They leave by themselves once they notice; one that does not gets SIGQUIT, and SIGKILL in the end.
    """
    started = time.monotonic()
    while orphans := list(_orphans(data)):
        waited = time.monotonic() - started
        if waited > deadline_seconds:
            return False
        if waited > deadline_seconds / 5:
            number = signal.SIGKILL if waited > deadline_seconds / 2 else signal.SIGQUIT
            for pid in orphans:
                with _handle(pid) as handle, suppress(ProcessLookupError):
                    if handle is not None and _works_in(pid, data):
                        signal.pidfd_send_signal(handle, number)
        time.sleep(0.02)
    return True


def _orphans(data: Path) -> Iterator[int]:
    """What is left of a server of `data`: its children, those included that do not show as such yet."""
    own = os.fsencode(data)
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or not _works_in(pid := int(entry.name), data):
            continue
        arguments = _arguments(pid)
        if own in arguments or _is_child(arguments):
            yield pid


def _is_child(arguments: list[bytes]) -> bool:
    """Children of the server show their task where the server has its own path."""
    return any(argument.startswith(b"postgres: ") for argument in arguments)


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return (_PROC / str(pid) / "cwd").readlink() == folder
    except OSError:  # gone, a zombie, or another user's
        return False


def _arguments(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


@contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    """A descriptor of the process itself: what is sent through it can never reach a later process of the same id."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _exits(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
