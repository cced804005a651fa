"""The handler of iot-telemetry-processor: SQS messages with S3 events in, the ids of those to deliver again out."""

import os
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
import psycopg
from aws_lambda_powertools import Logger
from botocore.config import Config
from botocore.exceptions import ClientError

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import Body, ObjectVersion, UnreadableObjectError, objects_of
from lambdas.shared.connection import KeptConnection
from lambdas.shared.retry import retry_later

logger = Logger()
_database = KeptConnection(application_name="iot-telemetry-processor", statement_timeout_seconds=90)
_GONE = {"NoSuchKey", "NoSuchVersion", "404"}


@cache
def _s3() -> Any:
    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 3}, read_timeout=30))


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Loads each object that the messages announce; a message that failed is reported, so that SQS delivers it again.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    failed = []
    for message in event["Records"]:
        try:
            for version in objects_of(message["body"]):
                _load(version, message["messageId"])
        except Exception as error:  # one message's fault must not fail the others
            # The text of a database error may repeat a value of the payload, which does not belong in logs.
            logger.warning(
                "object not loaded; it will be delivered again",
                extra={"message_id": message["messageId"], "fault": _fault(error), "detail": _detail(error)},
            )
            if isinstance(error, psycopg.Error):
                _database.discard()
            retry_later(message, os.environ["OBJECT_QUEUE_URL"])
            failed.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failed}


def _load(version: ObjectVersion, message_id: str) -> None:
    limits = Limits.around(
        datetime.now(UTC),
        retention_days=int(os.environ["RETENTION_DAYS"]),
        max_future_seconds=int(os.environ["MAX_FUTURE_SECONDS"]),
    )
    outcome = load_object(_database.get(), version, lambda: _open(version), limits)
    logger.info(
        "object " + outcome.status,
        message_id=message_id,
        bucket=version.bucket,
        key=version.key,
        version_id=version.version_id,
        reason=outcome.reason,
        rows=outcome.rows,
        duplicates=outcome.duplicates,
        quarantined=outcome.quarantined,
        milliseconds=outcome.milliseconds,
    )


def _open(version: ObjectVersion) -> AbstractContextManager[Body]:
    request = {"Bucket": version.bucket, "Key": version.key}
    if version.version_id:
        request["VersionId"] = version.version_id
    try:
        return closing(_s3().get_object(**request)["Body"])
    except ClientError as error:
        if error.response["Error"]["Code"] in _GONE:
            raise UnreadableObjectError("object_does_not_exist") from None
        raise


def _fault(error: Exception) -> str:
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__} ({sqlstate})" if sqlstate else type(error).__name__


def _detail(error: Exception) -> str:
    """The fault in one line. Of a database error only the primary message: the detail repeats values."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error).partition("\n")[0][:300]
