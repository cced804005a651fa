"""The loader in a process of its own: warm from one delivery to the next, stopped where a test wants it, killed at will.

Run as a program it takes deliveries from its standard input, a JSON line each, and runs the real handler on them. What
makes it stop lies between the loader and psycopg: it looks at the SQL that passes, not into the loader.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, get_args

from ops.paths import ROOT

Boundary = Literal[
    "claimed",  # the ledger has the claim, nothing was copied
    "mid_copy",  # half of a block of rows is on its way into the hypertable, and the half ends within a row
    "copied",  # COPY is complete; quarantine and ledger know nothing of it
    "mid_staging",  # as mid_copy, into the temporary table: there are duplicates
    "staged",  # the temporary table is filled, nothing of it is in the hypertable
    "counted",  # all is stored but the counts
    "recorded",  # all is stored; next is COMMIT
    "committed",  # and committed, but SQS was not told
]
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
FUNCTION_SECONDS = 60.0
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Stopped:
    """The loader waits at the boundary, for `go_on` or its end."""

    boundary: Boundary


@dataclass(frozen=True)
class Answered:
    """The handler's answer: the ids of the messages that SQS must deliver again."""

    failed: frozenset[str]


class LoaderProcess:
    """A started loader; leaving the context kills it."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        answers, theirs = os.pipe()
        os.set_blocking(answers, False)
        self._answers = answers
        self._received = b""
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.functional.loader_process", str(theirs)],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
            )
        os.close(theirs)

    def __enter__(self) -> "LoaderProcess":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def deliver(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        stop_at: Boundary | None = None,
        function_seconds: float = FUNCTION_SECONDS,
    ) -> None:
        """Hands the messages to the handler, as one batch of an invocation that may last so long."""
        self._say({"messages": messages, "stop_at": stop_at, "seconds": function_seconds})

    def go_on(self) -> None:
        """Lets a stopped loader go on."""
        self._say({})

    def outcome(self, patience_seconds: float = PATIENCE_SECONDS) -> Stopped | Answered:
        """Waits until the loader has stopped at the boundary or the handler has answered."""
        answer = json.loads(self._line(patience_seconds))
        return Stopped(answer["stopped"]) if "stopped" in answer else Answered(frozenset(answer["failed"]))

    def failed(self, patience_seconds: float = PATIENCE_SECONDS) -> frozenset[str]:
        """Waits for the handler's answer: the ids of the messages that failed."""
        outcome = self.outcome(patience_seconds)
        assert isinstance(outcome, Answered), outcome
        return outcome.failed

    def kill(self) -> None:
        """SIGKILL: nothing is closed, rolled back or said."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE_SECONDS)
            self._pipe().close()
            os.close(self._answers)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _say(self, command: Mapping[str, object]) -> None:
        self._pipe().write(json.dumps(command).encode() + b"\n")
        self._pipe().flush()

    def _line(self, patience_seconds: float) -> bytes:
        deadline = time.monotonic() + patience_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._received:
                assert selector.select(deadline - time.monotonic()), f"no answer in time; {self._log}: {self.log()}"
                more = os.read(self._answers, 65536)
                assert more, f"the loader ended; {self._log}: {self.log()}"
                self._received += more
        line, self._received = self._received.split(b"\n", 1)
        return line


# From here on: what runs in the process.


class _Invocation:
    """Lambda's context."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    aws_request_id = "test"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, round((self._ends - time.monotonic()) * 1000))


class _Gate:
    """Stops the process once at the boundary that it is set to."""

    def __init__(self, answer: Callable[[Mapping[str, object]], None]) -> None:
        self._answer = answer
        self.boundary: str | None = None

    def at(self, boundary: Boundary) -> bool:
        return self.boundary == boundary

    def pass_(self, boundary: Boundary) -> None:
        if self.at(boundary):
            self.boundary = None
            self._answer({"stopped": boundary})
            if not sys.stdin.readline():
                os._exit(1)


def _install(gate: _Gate) -> None:
    """Puts the gate between the loader and psycopg."""
    import psycopg
    from psycopg.pq import TransactionStatus

    execute, copy, write, leave = (
        psycopg.Cursor.execute,
        psycopg.Cursor.copy,
        psycopg.Copy.write,
        psycopg.Transaction.__exit__,
    )
    executemany = psycopg.Cursor.executemany
    target = ""

    def gated_execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        if "INSERT INTO telemetry" in query:
            gate.pass_("staged")
        if query.startswith("UPDATE ingest.objects"):
            gate.pass_("counted")
        result = execute(self, query, *arguments, **options)
        if query.startswith("INSERT INTO ingest.objects"):
            gate.pass_("claimed")
        if query.startswith("UPDATE ingest.objects"):
            gate.pass_("recorded")
        return result

    def gated_executemany(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        if query.startswith("INSERT INTO ingest.quarantine"):
            gate.pass_("copied")
        return executemany(self, query, *arguments, **options)

    def gated_copy(self: Any, statement: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal target
        target = statement.split()[1]
        return copy(self, statement, *arguments, **options)

    def gated_write(self: Any, data: Any) -> None:
        boundary: Boundary = "mid_copy" if target == "telemetry" else "mid_staging"
        if not gate.at(boundary) or len(data) < 10_000:
            return write(self, data)
        half = len(data) // 2 + 3
        write(self, data[:half])
        gate.pass_(boundary)
        return write(self, data[half:])

    def gated_leave(self: Any, kind: Any, error: Any, at: Any) -> Any:
        result = leave(self, kind, error, at)
        if kind is None and self.connection.info.transaction_status == TransactionStatus.IDLE:
            gate.pass_("committed")
        return result

    for owner, name, function in (
        (psycopg.Cursor, "execute", gated_execute),
        (psycopg.Cursor, "executemany", gated_executemany),
        (psycopg.Cursor, "copy", gated_copy),
        (psycopg.Copy, "write", gated_write),
        (psycopg.Transaction, "__exit__", gated_leave),
    ):
        setattr(owner, name, function)


def _main(answers: int) -> None:
    from lambdas.processor import handler as processor
    from lambdas.shared import retry
    from lambdas.shared.connection import KeptConnection

    def answer(said: Mapping[str, object]) -> None:
        os.write(answers, json.dumps(said).encode() + b"\n")

    retry._FIRST_SECONDS = 0  # a failed message is there again at once
    processor._database = KeptConnection(
        application_name="iot-telemetry-processor",
        statement_timeout_seconds=int(os.environ["STATEMENT_TIMEOUT_SECONDS"]),
    )
    gate = _Gate(answer)
    _install(gate)
    while line := sys.stdin.readline():
        delivery = json.loads(line)
        gate.boundary = delivery["stop_at"]
        response = processor.handler({"Records": delivery["messages"]}, _Invocation(delivery["seconds"]))
        answer({"failed": [failure["itemIdentifier"] for failure in response["batchItemFailures"]]})


if __name__ == "__main__":
    _main(int(sys.argv[1]))
