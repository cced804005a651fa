"""The handler of iot-telemetry-processor: SQS messages with S3 events in, the ids of those to deliver again out."""

import os
import time
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol

import boto3
import psycopg
from aws_lambda_powertools import Logger
from botocore.config import Config
from botocore.exceptions import ClientError

from lambdas.processor import metrics
from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import Body, ObjectVersion, UnreadableObjectError, objects_of
from lambdas.shared.connection import KeptConnection
from lambdas.shared.retry import retry_later

logger = Logger()
_database = KeptConnection(application_name="iot-telemetry-processor", statement_timeout_seconds=90)
_GONE = {"NoSuchKey", "NoSuchVersion", "404"}
_RESERVE_SECONDS = 5.0
"""Kept of the function's time to report what failed. Were the time to run out, the whole batch would count as failed,
and be hidden for the queue's visibility timeout."""


class Context(Protocol):
    """What is used of Lambda's context."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int: ...


@cache
def _s3() -> Any:
    return boto3.client(
        "s3", config=Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=3, read_timeout=10)
    )


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Loads each object that the messages announce; a message that failed is reported, so that SQS delivers it again.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    logger.append_keys(request_id=context.aws_request_id)
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS
    failed = []
    for message in event["Records"]:
        try:
            for version in objects_of(message["body"]):
                _load(version, message["messageId"], deadline)
        except Exception as error:  # one message's fault must not fail the others
            # The text of a database error may repeat a value of the payload, which does not belong in logs.
            logger.warning(
                "object not loaded; it will be delivered again",
                extra={"message_id": message["messageId"], "fault": _fault(error), "detail": _detail(error)},
            )
            if isinstance(error, psycopg.Error):
                _database.discard()
            metrics.count_failure()
            retry_later(message, os.environ["OBJECT_QUEUE_URL"])
            failed.append({"itemIdentifier": message["messageId"]})
    metrics.flush()
    return {"batchItemFailures": failed}


def _load(version: ObjectVersion, message_id: str, deadline: float) -> None:
    arrival = _Arrival()
    with _database.within(deadline - time.monotonic()) as connection:
        outcome = load_object(connection, version, lambda: _open(version, arrival), arrival.limits)
    metrics.count(outcome, datetime.now(UTC))
    logger.info(
        "object " + outcome.status,
        message_id=message_id,
        object_id=outcome.object_id,
        bucket=version.bucket,
        key=version.key,
        version_id=version.version_id,
        reason=outcome.reason,
        rows=outcome.rows,
        duplicates=outcome.duplicates,
        quarantined=outcome.quarantined,
        milliseconds=outcome.milliseconds,
    )


class _Arrival:
    """When S3 stored an object, which is known once it is open: what is in the future is judged against it."""

    at: datetime | None = None

    def limits(self) -> Limits:
        """The limits for the object's timestamps."""
        now = datetime.now(UTC)
        return Limits.for_arrival(
            self.at or now,
            now,
            retention_days=int(os.environ["RETENTION_DAYS"]),
            max_future_seconds=int(os.environ["MAX_FUTURE_SECONDS"]),
        )


def _open(version: ObjectVersion, arrival: _Arrival | None = None) -> AbstractContextManager[Body]:
    if version.bucket != os.environ["BUCKET_NAME"]:
        raise UnreadableObjectError("not_our_bucket")
    request = {"Bucket": version.bucket, "Key": version.key}
    if version.version_id:
        request["VersionId"] = version.version_id
    try:
        response = _s3().get_object(**request)
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:
            raise UnreadableObjectError("object_does_not_exist") from None
        raise
    if arrival is not None:
        arrival.at = response["LastModified"]
    return closing(response["Body"])


def _fault(error: Exception) -> str:
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({sqlstate})" if sqlstate else type(error).__name__


def _detail(error: Exception) -> str:
    """The fault in one line. Of a database error only the primary message: the detail repeats values."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).partition("\n")[0][:300]
