"""Raw objects: which S3 objects an event names, and their lines."""

import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol, cast
from urllib.parse import unquote_plus

from lambdas.shared.contract import MAX_LINE_BYTES

_GZIP_MAGIC = b"\x1f\x8b"
_IN_MEMORY_BYTES = 8 * 1024 * 1024
_READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class ObjectVersion:
    """One version of one S3 object: what the ledger knows it by."""

    bucket: str
    key: str
    version_id: str
    """Empty in a bucket without versions."""
    size_bytes: int | None


class UnreadableObjectError(Exception):
    """The object can never be loaded as it is; the message is the reason for the ledger."""


class Body(Protocol):
    """What boto3 returns as the body of GetObject."""

    def read(self, amount: int = ..., /) -> bytes: ...


def objects_of(message_body: str) -> list[ObjectVersion]:
    """The objects whose creation an SQS message announces; S3's test event and other events announce none.

    Raises ValueError when the message is no S3 event at all.
    """
    event = json.loads(message_body)
    if not isinstance(event, dict):
        raise ValueError("not an S3 event")  # noqa: TRY004 - a value that came from outside
    if event.get("Event") == "s3:TestEvent":
        return []
    try:
        return [
            ObjectVersion(
                bucket=record["s3"]["bucket"]["name"],
                # Keys are form-encoded: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
                key=unquote_plus(record["s3"]["object"]["key"]),
                version_id=record["s3"]["object"].get("versionId") or "",
                size_bytes=record["s3"]["object"].get("size"),
            )
            for record in event["Records"]
            if record["eventName"].removeprefix("s3:").startswith("ObjectCreated:")
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an S3 event: {error!r}") from None


def spooled(body: Body) -> IO[bytes]:
    """The object's bytes in a file (in memory while small), so that they can be read twice and S3 is asked once."""
    spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(body, spool, _READ_BYTES)
    return spool


def lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of an object from its beginning, without their newline; gzip (of any number of members) or plain.

    A line longer than MAX_LINE_BYTES comes cut to just over that length, so that its reader sees it is too large
    and memory stays bounded. Raises UnreadableObjectError when the gzip is broken or ends early.
    """
    stream.seek(0)
    magic = stream.read(2)
    stream.seek(0)
    source = cast(IO[bytes], gzip.GzipFile(fileobj=stream, mode="rb")) if magic == _GZIP_MAGIC else stream
    limit = MAX_LINE_BYTES + 2
    try:
        while line := source.readline(limit):
            if len(line) == limit and not line.endswith(b"\n"):
                yield line
                while (rest := source.readline(_READ_BYTES)) and not rest.endswith(b"\n"):
                    pass
            else:
                yield line.removesuffix(b"\n").removesuffix(b"\r")
    except EOFError:
        raise UnreadableObjectError("gzip_truncated") from None
    except (gzip.BadGzipFile, zlib.error):
        raise UnreadableObjectError("gzip_corrupt") from None
