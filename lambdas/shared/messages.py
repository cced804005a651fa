"""The one loop over the messages of an SQS batch: a message that fails is told to SQS, and fails no other.

https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg
from aws_lambda_powertools import Logger

from lambdas.shared.connection import KeptConnection
from lambdas.shared.retry import retry_later

logger = Logger(child=True)
_RESERVE_SECONDS = 5.0
"""Kept of the function's time to report what failed. Were the time to run out, the whole batch would count as failed,
and be hidden for the queue's visibility timeout."""

Message = dict[str, Any]


class Context(Protocol):
    """What is used of Lambda's context."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


class Batch:
    """The messages of one invocation, and the database for as long as the invocation may last."""

    def __init__(self, event: dict[str, Any], context: Context, database: KeptConnection, queue_url: str) -> None:
        self._messages: list[Message] = event["Records"]
        self._deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS
        self._database = database
        self._queue_url = queue_url
        self.failed: list[str] = []
        """Ids of the messages that SQS must deliver again."""
        self.unreachable = 0
        """How often the database could not be connected to."""

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """A connection that is cut when the invocation's time is up (KeptConnection.within)."""
        connected = False
        try:
            with self._database.within(self._deadline - time.monotonic()) as connection:
                connected = True
                yield connection
        except psycopg.OperationalError:
            self.unreachable += not connected
            raise

    def each(self, handle: Callable[[Message], None], *, fault: str) -> dict[str, Any]:
        """Handles every message, and returns what SQS wants to hear; `fault` is what the log says of one that failed."""
        for message in self._messages:
            try:
                handle(message)
            except Exception as error:  # one message's fault must not fail the others
                # The text of a database error may repeat a value of the payload, which does not belong in logs.
                logger.warning(
                    fault,
                    extra={"message_id": message["messageId"], "fault": _kind(error), "detail": _detail(error)},
                )
                if isinstance(error, psycopg.Error):
                    self._database.discard()
                retry_later(message, self._queue_url)
                self.failed.append(message["messageId"])
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in self.failed]}


def _kind(error: Exception) -> str:
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({sqlstate})" if sqlstate else type(error).__name__


def _detail(error: Exception) -> str:
    """The fault in one line. Of a database error only the primary message: the detail repeats values."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).partition("\n")[0][:300]
