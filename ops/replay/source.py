"""Where raw objects are read from, in a form that can be handed to another process."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.settings import load
from lambdas.processor.raw_object import Body, ObjectVersion
from lambdas.shared.listing import Listed
from local.session import AwsSession, emulator_session
from ops.aws import outputs

_GONE = frozenset({"NoSuchKey", "NoSuchVersion", "404"})


class UnavailableError(Exception):
    """The object cannot be read now; the message says why, and what to do."""


@dataclass(frozen=True)
class Source:
    """The bucket of raw objects of an environment."""

    bucket: str
    region: str | None = None
    emulator_port: int | None = None
    """None: AWS itself, with the operator's own credentials."""

    def client(self) -> Any:
        """An S3 client."""
        if self.emulator_port is not None:
            session = emulator_session(self.emulator_port)
        else:
            session = AwsSession(boto3.Session(region_name=self.region))
        return session.client(
            "s3",
            config=Config(retries={"mode": "standard", "max_attempts": 5}, read_timeout=30, max_pool_connections=16),
        )

    def version(self, listed: Listed) -> ObjectVersion:
        """What the ledger knows a listed object by."""
        return ObjectVersion(self.bucket, listed.key, listed.version_id, listed.size_bytes)


def source_of(environment: str) -> Source:
    """The bucket of a deployed environment. Raises UserError when it is not deployed or not running."""
    from ops.aws import session_for

    settings = load(environment)
    bucket = outputs(session_for(environment), settings.names.stack("ingest"))["BucketName"]
    if environment == "local":
        from local.stack import running_emulator

        return Source(bucket, emulator_port=running_emulator().port)
    return Source(bucket, region=settings.region)


@contextmanager
def opened(s3: Any, version: ObjectVersion) -> Iterator[Body]:
    """The object's body. Raises UnavailableError when it is in an archive, or was deleted since it was listed."""
    request = {"Bucket": version.bucket, "Key": version.key}
    if version.version_id:
        request["VersionId"] = version.version_id
    try:
        body = s3.get_object(**request)["Body"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _GONE:
            raise UnavailableError("it is not in S3 any more") from None
        if code == "InvalidObjectState":
            raise UnavailableError("it is archived: restore it (aws s3api restore-object), then repeat") from None
        raise
    with closing(body):
        yield body
