"""What one worker process does: it loads the objects it is handed, over a database connection of its own."""

import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from typing import Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.processor.limits import Limits
from lambdas.processor.load import Opener, Outcome, load_object
from lambdas.shared.database import DatabaseSecret, connect
from lambdas.shared.listing import Listed
from lambdas.shared.stamp import Stamps
from ops.replay.replacement import Replacement, replace_object
from ops.replay.source import Source, UnavailableError, opened

_ATTEMPTS = 5
_ALONE = 0x7265706C6179  # "replay": who holds this advisory lock exclusively reloads alone


@dataclass(frozen=True)
class Job:
    """What all workers of a run have in common."""

    source: Source
    secret: DatabaseSecret
    now: datetime
    retention_days: int
    max_future_seconds: int
    stamps: Stamps
    force: bool = False
    """Load again what the ledger has."""
    application_name: str = "fleet replay"

    def limits(self, listed: Listed) -> Limits:
        """How an object's timestamps are judged: as at its first load, but for what the retention has passed."""
        return Limits.for_arrival(
            listed.arrived_at,
            self.now,
            retention_days=self.retention_days,
            max_future_seconds=self.max_future_seconds,
            stamps=self.stamps,
        )


@dataclass(frozen=True)
class Done:
    """What became of one object."""

    listed: Listed
    outcome: Outcome | None = None
    replacement: Replacement | None = None
    failure: str | None = None
    """Why it was not loaded; nothing of it is in the database then, or what was there before."""


class Loader:
    """Loads one object after the other."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._s3 = job.source.client()
        self._connection: psycopg.Connection | None = None

    def load(self, listed: Listed) -> Done:
        """Loads an object; what may pass (a deadlock, a lost connection, S3 out of breath) is tried again."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._attempt(listed, alone=attempt > 1)
            except UnavailableError as error:
                return Done(listed, failure=str(error))
            except (psycopg.OperationalError, BotoCoreError, ClientError, OSError) as error:
                failure = _line(error)
                if isinstance(error, psycopg.Error):
                    self._discard()
            except psycopg.Error as error:
                self._discard()
                return Done(listed, failure=_line(error))
            time.sleep(min(10.0, 0.2 * 4 ** (attempt - 1)) * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries
        return Done(listed, failure=failure)

    def _attempt(self, listed: Listed, *, alone: bool) -> Done:
        job = self._job
        connection = self._connected()
        version = job.source.version(listed)
        limits = job.limits(listed)
        open_object: Opener = lambda: opened(self._s3, version)  # noqa: E731
        if not job.force:
            return Done(listed, outcome=load_object(connection, version, open_object, limits))
        # Two objects that hold readings of each other deadlock when both are replaced at once; on the second try alone.
        with connection.transaction():
            connection.execute(
                "SELECT pg_advisory_xact_lock(%s)" if alone else "SELECT pg_advisory_xact_lock_shared(%s)", (_ALONE,)
            )
            replacement = replace_object(connection, version, open_object, limits)
        return Done(listed, outcome=replacement.outcome, replacement=replacement)

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(
                self._job.secret, application_name=self._job.application_name, statement_timeout_seconds=900
            )
            self._connection.autocommit = True
        return self._connection

    def _discard(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Closes the connection."""
        self._discard()


def _line(error: Exception) -> str:
    """The fault in one line. Of a database error only the primary message: the detail repeats values."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


def serve(pipe: Connection, job: Job) -> None:
    """The worker process: takes objects from the pipe until it is closed, and answers each with a Done.

    Ctrl-C reaches every process of the terminal; here it is ignored, so that the object under way is finished. When the
    parent is killed the pipe closes, and the worker ends after that object.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loader = Loader(job)
    try:
        while True:
            listed: Any = pipe.recv()
            pipe.send(loader.load(listed))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        loader.close()
