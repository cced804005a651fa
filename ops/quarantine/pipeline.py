"""The deployed pipeline of an environment, as these commands need it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from botocore.exceptions import ClientError

from infra.settings import load
from lambdas.processor.limits import Limits
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError
from lambdas.shared.stamp import Stamps
from ops.aws import outputs, session_for
from ops.errors import UserError
from ops.operator import operator
from ops.target import database, stamps

_GONE = {"NoSuchKey", "NoSuchVersion", "404"}
_ARCHIVED = "InvalidObjectState"


class ArchivedObjectError(Exception):
    """The object is in an archive of S3, from which it must be restored before it can be read."""


@dataclass(frozen=True)
class Rules:
    """The deployed loader's settings: today's rules of time, and the rule's stamps."""

    retention_days: int
    max_future_seconds: int
    stamps: Stamps

    def limits(self, *, arrived_at: datetime, now: datetime) -> Limits:
        """Retention is judged against now, the future against the object's arrival: a wrong clock stays wrong."""
        return Limits.for_arrival(
            arrived_at,
            now,
            retention_days=self.retention_days,
            max_future_seconds=self.max_future_seconds,
            stamps=self.stamps,
        )


class Opened(NamedTuple):
    """An object at its beginning."""

    body: Any
    arrived_at: datetime
    """When S3 stored it."""


@dataclass(frozen=True)
class Pipeline:
    """Its parts, and who works on it."""

    database: psycopg.Connection
    s3: Any
    sqs: Any
    firehose: Any
    stream: str
    object_queue: str
    object_dead_letters: str
    rule_error_queue: str
    rule_error_dead_letters: str
    rules: Rules
    operator: str

    def open(self, version: ObjectVersion) -> Opened:
        """Opens one version of an object; raises UnreadableObjectError when it is gone, else ArchivedObjectError."""
        request = {"Bucket": version.bucket, "Key": version.key}
        if version.version_id:
            request["VersionId"] = version.version_id
        try:
            answer = self.s3.get_object(**request)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _GONE:
                raise UnreadableObjectError("object_does_not_exist") from None
            if code == _ARCHIVED:
                raise ArchivedObjectError("object_archived") from None
            raise
        return Opened(answer["Body"], answer["LastModified"])


def deployed_pipeline(environment: str) -> Pipeline:
    """The pipeline of an environment. Raises UserError when it, or its database, cannot be reached."""
    aws = session_for(environment)
    stack = load(environment).names.stack("ingest")
    found = outputs(aws, stack)
    try:
        stream, loader = found["StreamName"], found["LoaderName"]
        objects, dead_objects = found["ObjectQueueUrl"], found["ObjectDeadLettersUrl"]
        dead_rule_errors, rule_errors = found["RuleErrorDeadLettersUrl"], found["RuleErrorQueueUrl"]
    except KeyError as error:
        raise UserError(f"stack {stack} has no output {error.args[0]}: deploy this release first") from None
    variables = aws.client("lambda").get_function_configuration(FunctionName=loader)["Environment"]["Variables"]
    return Pipeline(
        database=database(environment, application_name="fleet quarantine"),
        s3=aws.client("s3"),
        sqs=aws.client("sqs"),
        firehose=aws.client("firehose"),
        stream=stream,
        object_queue=objects,
        object_dead_letters=dead_objects,
        rule_error_queue=rule_errors,
        rule_error_dead_letters=dead_rule_errors,
        rules=Rules(int(variables["RETENTION_DAYS"]), int(variables["MAX_FUTURE_SECONDS"]), stamps(environment)),
        operator=operator(),
    )
