"""Processes that outlive the command that starts them, and are only ever stopped by an identity that cannot be reused."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import psutil

_STOP_SECONDS = 10.0
_started: list[subprocess.Popen[bytes]] = []
"""Kept, because a Popen that is forgotten while its process runs complains; these are meant to run on."""


class ProcessRef(msgspec.Struct, frozen=True):
    """A process by id and start time: a process id alone may belong to somebody else tomorrow."""

    pid: int
    started: float
    """Seconds since the epoch, as the kernel reports it."""
    log: str


def start(command: Sequence[str], *, log: Path, environment: Mapping[str, str], cwd: Path) -> ProcessRef:
    """Starts `command` in a session of its own, its output appended to `log` (readable by the owner only)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
            close_fds=True,
        )
    finally:
        os.close(output)
    _started.append(process)
    return ProcessRef(process.pid, psutil.Process(process.pid).create_time(), str(log))


def is_running(reference: ProcessRef | None) -> bool:
    """Whether it is still this process that has the id, and it has not ended."""
    return reference is not None and _find(reference) is not None


def wait_until(reference: ProcessRef, ready: Callable[[], bool], seconds: float) -> bool:
    """Waits until the process is ready. If it ends first, is late, or the wait is interrupted, nothing of it is left."""
    deadline = time.monotonic() + seconds
    try:
        while is_running(reference) and time.monotonic() < deadline:
            if ready():
                return True
            time.sleep(0.05)
    except BaseException:
        stop(reference)
        raise
    stop(reference)
    return False


def stop(reference: ProcessRef) -> None:
    """Ends the process and all that it started: politely, and after ten seconds without asking.

    What it started is found by parent and by session, so that the children of a process that was killed are found too.
    """
    leader = _find(reference)
    family = {child.pid: child for child in _descendants(leader)} if leader else {}
    family |= {process.pid: process for process in _session(reference)}
    if leader is not None:
        leader.terminate()
        _wait([leader])
    for process in family.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in _wait(list(family.values()) + ([leader] if leader else [])):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(list(family.values()))
    for started in _started:
        started.poll()


def last_lines(log: str | Path, count: int = 3) -> str:
    """The last lines of a log in one line, for a message that names the log anyway."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(no log)"
    return " | ".join(line.strip() for line in text.splitlines()[-count:]) or "(empty log)"


def _find(reference: ProcessRef) -> psutil.Process | None:
    try:
        process = psutil.Process(reference.pid)
        # The start time is the same number each time; the margin is for file formats that round.
        same = abs(process.create_time() - reference.started) < 0.02
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session(reference: ProcessRef) -> list[psutil.Process]:
    """Processes of the session that `start` opened. A session's id is not reused while a member lives."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            same_session = os.getsid(process.pid) == reference.pid
            if same_session and process.pid != reference.pid and process.create_time() >= reference.started - 0.02:
                members.append(process)
    return members


def _wait(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Waits for the processes to end; returns those that did not."""
    # psutil reaps only children of this process; for others it polls, which is what is wanted here.
    deadline = time.monotonic() + _STOP_SECONDS
    _, alive = psutil.wait_procs(processes, timeout=max(0.0, deadline - time.monotonic()))
    return list(alive)
