"""Takes down what becomes of each message while a fleet runs, and hands it to a process that writes it.

In the scheduler's thread that is a header, and the payload's bytes as they are, put together to a block now and then; a
thread of its own moves blocks on, and needs Python's lock, for which the connections' thread waits, only for a moment.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Protocol

from ops.errors import UserError
from simulator.oracle.frames import HEADER, NEVER, block_frame, text_frame

WAITING_BYTES = 64 * 1024 * 1024
"""What may wait for the writing process; beyond that the scheduler waits for it, and nothing is lost."""
BLOCK_BYTES = 256 * 1024
"""Of payloads: a block that has so many is moved on."""
BLOCK_SECONDS = 0.1
"""So long after the last one a smaller block is moved on."""
_pack = HEADER.pack
_PIPE_BYTES = 1024 * 1024
_PATIENCE_SECONDS = 120.0
"""For the writing process to end, once it has been handed everything."""


class Settled(Protocol):
    """What is read of a message (`simulator.devices.envelope.Message`)."""

    @property
    def device(self) -> int: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def kind(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def first_sent_at(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the file says of the run as a whole."""

    seed: int
    topic: str
    simulator_version: str = field(default_factory=lambda: version("fleetledger"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a ground truth."""

    path: Path
    messages: int = 0
    rows: int = 0
    bytes: int = 0
    stalled_seconds: float = 0.0
    """How long the scheduler had to wait for the writing process."""
    fault: str | None = None
    """One line: why there is no complete file at `path`. None: there is."""


def part_of(path: Path) -> Path:
    """Where a ground truth is while it is written, and stays when the run is killed."""
    return path.with_name(f"{path.name}.part")


class Recorder:
    """`settled` belongs to one thread, the scheduler's. The rest is for whoever opened it."""

    def __init__(self, path: Path, process: "subprocess.Popen[bytes]", thing_names: Sequence[str], run: Run) -> None:
        self.path = path
        self.stalled_seconds = 0.0
        self.outcome: Outcome | None = None
        """Once it is closed."""
        self._process = process
        self._headers: list[bytes] = []
        self._payloads: list[bytes] = []
        self._open_bytes = 0
        """Of the payloads in the open block."""
        self._move_on_at = 0.0
        self._frames: SimpleQueue[bytes | None] = SimpleQueue()
        """For the mover; None: there is no more."""
        self._taken_bytes = self._moved_bytes = 0
        """Each is written by one thread only, the scheduler's and the mover."""
        self._broken = False
        hello = {
            "seed": run.seed,
            "topic": run.topic,
            "simulator_version": run.simulator_version,
            "devices": len(thing_names),
            "started_at": datetime.now(UTC).isoformat(),
            "thing_names": list(thing_names),
        }
        self._ran: dict[str, str] = {}
        self._say(hello)
        self._mover = threading.Thread(target=self._move, name="oracle", daemon=True)
        self._mover.start()

    def settled(self, message: Settled, acknowledged_at: float | None) -> None:
        """Take down a message once and for all: when it is acknowledged (epoch seconds), or that it never was (None).

        Never raises for a fault of the file: the run goes on, and `outcome` tells of it.
        """
        payload = message.payload
        size = len(payload)
        at = NEVER if acknowledged_at is None else acknowledged_at
        self._headers.append(_pack(size, message.device, message.attempts, message.kind, message.first_sent_at, at))
        self._payloads.append(payload)
        self._open_bytes += size
        if self._open_bytes > BLOCK_BYTES:
            self._move_on()

    def step(self, now: float) -> None:
        """Move on what has been taken down, if it has been a while (`now`: seconds on the scheduler's clock)."""
        if now >= self._move_on_at:
            self._move_on_at = now + BLOCK_SECONDS
            self._move_on()

    def ran(self, started_at: datetime, ended_at: datetime) -> None:
        """When the run began and ended, as its report says; without it, when the file was opened and closed."""
        self._ran = {"started_at": started_at.isoformat(), "ended_at": ended_at.isoformat()}

    def close(self, *, complete: bool) -> Outcome:
        """Write what is left, and give the file its name if it is complete. Idempotent; never raises for its faults."""
        if self.outcome is None:
            self._move_on()
            if complete:
                ran = self._ran or {"ended_at": datetime.now(UTC).isoformat()}
                self._say(ran)
            self._frames.put(None)
            self._mover.join()
            self.outcome = self._conclude(complete=complete)
        return self.outcome

    # The scheduler's thread.

    def _say(self, what: Mapping[str, Any]) -> None:
        self._take(text_frame(json.dumps(what).encode()))

    def _move_on(self) -> None:
        if not self._headers:
            return
        self._take(block_frame(self._headers, self._payloads))
        self._headers.clear()
        self._payloads.clear()
        self._open_bytes = 0
        if self._taken_bytes - self._moved_bytes > WAITING_BYTES:
            self._wait()

    def _take(self, frame: bytes) -> None:
        self._taken_bytes += len(frame)
        self._frames.put(frame)

    def _wait(self) -> None:
        started = time.monotonic()
        while self._taken_bytes - self._moved_bytes > WAITING_BYTES // 2:
            time.sleep(0.001)
        self.stalled_seconds += time.monotonic() - started

    # The mover's thread.

    def _move(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101 - for the type checker: it was asked for
        while (frame := self._frames.get()) is not None:
            self._hand_over(pipe, frame)
            self._moved_bytes += len(frame)
        with suppress(OSError):
            pipe.close()

    def _hand_over(self, pipe: IO[bytes], frame: bytes) -> None:
        """Once the writing process is gone, what would have been for it is given up: its end says that it is."""
        if self._broken:
            return
        try:
            pipe.write(frame)
            pipe.flush()
        except OSError:
            self._broken = True

    # At the end.

    def _conclude(self, *, complete: bool) -> Outcome:
        said = self._last_words()
        fault = said.get("fault")
        numbers: dict[str, int] = {name: said.get(name, 0) for name in ("messages", "rows", "bytes")}
        part = part_of(self.path)
        if fault is not None:
            part.unlink(missing_ok=True)  # without its end no reader can use it, and the disk may be full
            fault = f"the ground truth {self.path} could not be written: {fault}: make room, or choose another place"
        elif not complete and not numbers["rows"]:
            part.unlink(missing_ok=True)
            fault = f"the ground truth {self.path} was not written: the run ended before it had a message"
        elif not (complete and said.get("complete")):
            fault = f"the ground truth is incomplete: what there is of it is in {part}"
        else:
            part.replace(self.path)
        return Outcome(path=self.path, stalled_seconds=self.stalled_seconds, fault=fault, **numbers)

    def _last_words(self) -> dict[str, Any]:
        process = self._process
        process.stdin = None  # the mover has closed it
        try:
            output, _ = process.communicate(timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        try:
            said: dict[str, Any] = json.loads(output)
        except ValueError:
            code = process.returncode
            by = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            return {"fault": f"its writing process was ended {by}"}
        return said


@contextmanager
def open_oracle(path: Path, *, thing_names: Sequence[str], run: Run) -> Iterator[Recorder]:
    """A recorder of messages into the Parquet file `path`; `Message.device` is a place in `thing_names`, the whole fleet.

    While the run goes on the file is `part_of(path)`; there it stays, readable, if the run is killed or raises. On leaving
    the context `Recorder.outcome` says what became of it; a fault of the file never ends a run.
    Raises `UserError` at the beginning, when no file can be written there.
    """
    part = part_of(path)
    try:
        file = part.open("wb", buffering=0)
    except OSError as error:
        raise UserError(
            f"the ground truth cannot be written to {path}: {error.strerror}: choose another file"
        ) from None
    with file:
        # The lock is the open file's, so it lasts for as long as the writing process has it: this is not all yet.
        fcntl.flock(file, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [sys.executable, "-m", "simulator.oracle.writer", str(file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(file.fileno(),),
            # Ctrl-C in a terminal is for the run, which then ends the file.
            start_new_session=True,
            env=_environment(),
        )
    if process.stdin is not None:
        with suppress(OSError):  # which only spares both a few turns
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    recorder = Recorder(path, process, thing_names, run)
    complete = False
    try:
        yield recorder
        complete = True
    finally:
        recorder.close(complete=complete)


def _environment() -> dict[str, str]:
    """Ours, with one thread for its arithmetic: the other cores are the run's."""
    return os.environ | {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
