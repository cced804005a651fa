"""The handler of iot-telemetry-processor: SQS messages with S3 events in, the ids of those to deliver again out."""

import os
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from botocore.config import Config
from botocore.exceptions import ClientError

from lambdas.processor import metrics
from lambdas.processor.detection.detector import Detector
from lambdas.processor.kept_stamps import KeptStamps
from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import Body, ObjectVersion, UnreadableObjectError, objects_of
from lambdas.shared.connection import KeptConnection
from lambdas.shared.messages import Batch, Context, Message

logger = Logger()
_database = KeptConnection(application_name="iot-telemetry-processor", statement_timeout_seconds=90)
_stamps = KeptStamps()
_detector = Detector()
_GONE = {"NoSuchKey", "NoSuchVersion", "404"}


@cache
def _s3() -> Any:
    return boto3.client(
        "s3", config=Config(retries={"mode": "standard", "max_attempts": 3}, connect_timeout=3, read_timeout=10)
    )


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Loads each object that the messages announce; a message that failed is reported, so that SQS delivers it again."""
    logger.append_keys(request_id=context.aws_request_id)
    batch = Batch(event, context, _database, os.environ["OBJECT_QUEUE_URL"])
    answer = batch.each(partial(_load_all, batch), fault="object not loaded; it will be delivered again")
    metrics.count_batch(failed=len(batch.failed), unreachable=batch.unreachable)
    metrics.flush()
    return answer


def _load_all(batch: Batch, message: Message) -> None:
    for version in objects_of(message["body"]):
        _load(batch, version, message["messageId"])


def _load(batch: Batch, version: ObjectVersion, message_id: str) -> None:
    arrival = _Arrival()
    with batch.connection() as connection:
        outcome = load_object(connection, version, lambda: _open(version, arrival), arrival.limits, _detector)
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
    if outcome.detection_faults:
        logger.error(
            "detection failed; the readings are stored",
            object_id=outcome.object_id,
            faults=outcome.detection_faults,
            fault=outcome.detection_fault,
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
            stamps=_stamps.ready(),
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
