"""One database connection per Lambda environment, kept from one invocation to the next, and cut when time is up."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg.pq import TransactionStatus

from lambdas.shared.database import connect, read_secret

_LEAST_SECONDS = 2
"""libpq takes no shorter timeout for connecting: https://www.postgresql.org/docs/current/libpq-connect.html"""
_CONNECT_SECONDS = 10.0
_CHECK_SECONDS = 5.0


class KeptConnection:
    """Connects at first use with the secret named by DATABASE_SECRET_ARN; after `discard`, anew with a fresh secret."""

    def __init__(self, *, application_name: str, statement_timeout_seconds: int) -> None:
        self._application_name = application_name
        self._statement_timeout_seconds = statement_timeout_seconds
        self._connection: psycopg.Connection | None = None

    def get(self, *, connect_timeout_seconds: float = _CONNECT_SECONDS) -> psycopg.Connection:
        """The connection, in autocommit mode: transactions are opened explicitly."""
        if self._connection is None or self._connection.closed:
            # Read at each connect rather than kept: a rotated password is picked up by the next attempt.
            connection = connect(
                read_secret(os.environ["DATABASE_SECRET_ARN"]),
                application_name=self._application_name,
                statement_timeout_seconds=self._statement_timeout_seconds,
                connect_timeout_seconds=max(_LEAST_SECONDS, int(connect_timeout_seconds)),
            )
            connection.autocommit = True
            self._connection = connection
        return self._connection

    @contextmanager
    def within(self, seconds: float) -> Iterator[psycopg.Connection]:
        """A connection that works, for so long: then it is cut, and what waits for it raises TimeoutError.

        Nothing else ends the wait for a peer that stalls while its kernel acknowledges (a stopped server, hung storage,
        a proxy in between): to TCP such a connection is healthy, and a statement timeout is the server's to notice.
        """
        deadline = time.monotonic() + seconds
        if seconds < _LEAST_SECONDS:
            raise TimeoutError("too little time is left to begin")
        self._discard_if_dead(min(_CHECK_SECONDS, seconds / 2))
        connection = self.get(connect_timeout_seconds=min(deadline - time.monotonic(), _CONNECT_SECONDS))
        cut = _Cut(connection, deadline - time.monotonic())
        try:
            yield connection
        except psycopg.Error as error:
            if cut.cancel():
                raise TimeoutError(f"not done after {seconds:.0f} s: the connection was cut") from error
            raise
        finally:
            if cut.cancel():
                self.discard()

    def discard(self) -> None:
        """Closes the connection after a fault; whatever it was in the midst of is rolled back by the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _discard_if_dead(self, seconds: float) -> None:
        """Asks, at the price of one round trip: while Lambda froze us, the server or a NAT may have given us up.

        A connection left in a transaction is as bad as dead: what was taken for a commit would only end a savepoint.
        """
        if self._connection is None or self._connection.closed:
            return
        if self._connection.info.transaction_status != TransactionStatus.IDLE:
            self.discard()
            return
        cut = _Cut(self._connection, seconds)
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            self.discard()
        finally:
            if cut.cancel():
                self.discard()


class _Cut:
    """Shuts the connection's socket down after so many seconds, unless it is cancelled before."""

    def __init__(self, connection: psycopg.Connection, seconds: float) -> None:
        # A descriptor of our own: the connection's may be closed, and its number another file's, when the time comes.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._done = False
        self._timer = threading.Timer(max(0.0, seconds), self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> bool:
        """Ends the watch; whether the connection was cut. May be called again."""
        self._timer.cancel()
        self._timer.join()
        self._socket.close()
        return self._done

    def _shut_down(self) -> None:
        self._done = True
        with suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)
