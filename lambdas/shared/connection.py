"""One database connection per Lambda environment, kept from one invocation to the next."""

import os

import psycopg

from lambdas.shared.database import connect, read_secret


class KeptConnection:
    """Connects at first use with the secret named by DATABASE_SECRET_ARN; after `discard`, anew with a fresh secret."""

    def __init__(self, *, application_name: str, statement_timeout_seconds: int) -> None:
        self._application_name = application_name
        self._statement_timeout_seconds = statement_timeout_seconds
        self._connection: psycopg.Connection | None = None

    def get(self) -> psycopg.Connection:
        """The connection, in autocommit mode: transactions are opened explicitly."""
        if self._connection is None or self._connection.closed:
            # Read at each connect rather than kept: a rotated password is picked up by the next attempt.
            connection = connect(
                read_secret(os.environ["DATABASE_SECRET_ARN"]),
                application_name=self._application_name,
                statement_timeout_seconds=self._statement_timeout_seconds,
            )
            connection.autocommit = True
            self._connection = connection
        return self._connection

    def discard(self) -> None:
        """Closes the connection after a fault; whatever it was in the midst of is rolled back by the server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
