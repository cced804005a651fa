"""Raw objects: which S3 objects an event names, and their lines."""

import json
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote_plus

from lambdas.shared.contract import MAX_LINE_BYTES

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's: gzip header and trailer, 32 KiB window
_READ_BYTES = 64 * 1024
_CHUNK_BYTES = 512 * 1024


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


@dataclass(frozen=True)
class LongLine:
    """A line too long to be a message, of which only the beginning was kept."""

    start: bytes
    length_bytes: int


def line_blocks(body: Body) -> Iterator[list[bytes | LongLine]]:
    """The lines of an object, a block at a time; gzip (of any number of members) or plain.

    Memory stays bounded whatever the object's size, its compression ratio or the length of a line: a line longer than
    MAX_LINE_BYTES may come as a LongLine. Raises UnreadableObjectError when the gzip is broken or ends early.
    """
    rest = b""
    chunks = _decompressed(body)
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [*lines]
        while len(rest) > MAX_LINE_BYTES:
            long, after = _skip_line(rest, chunks)
            *lines, rest = after.split(b"\n")
            yield [long, *lines]
    if rest:
        yield [rest]


def _skip_line(start: bytes, chunks: Iterator[bytes]) -> tuple[LongLine, bytes]:
    """Reads on to the end of a line; returns it cut, and what follows it."""
    length = len(start)
    for chunk in chunks:
        end = chunk.find(b"\n")
        if end >= 0:
            return LongLine(start[:MAX_LINE_BYTES], length + end), chunk[end + 1 :]
        length += len(chunk)
    return LongLine(start[:MAX_LINE_BYTES], length), b""


def _decompressed(body: Body) -> Iterator[bytes]:
    data = body.read(_READ_BYTES)
    if not data.startswith(_GZIP_MAGIC):
        while data:
            yield data
            data = body.read(_READ_BYTES)
        return
    try:
        while data:
            data = yield from _gzip_member(data, body)
    except zlib.error:
        raise UnreadableObjectError("gzip_corrupt") from None


def _gzip_member(data: bytes, body: Body) -> Generator[bytes, None, bytes]:
    """Yields one gzip member's contents; returns what follows it, less the zero bytes some writers pad with."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    while not member.eof:
        if not data:
            raise UnreadableObjectError("gzip_truncated")
        if chunk := member.decompress(data, _CHUNK_BYTES):
            yield chunk
        data = member.unconsumed_tail or (b"" if member.eof else body.read(_READ_BYTES))
        if not data and not member.eof and (chunk := member.decompress(b"", _CHUNK_BYTES)):
            yield chunk
    after = member.unused_data.lstrip(b"\0")
    while not after and (more := body.read(_READ_BYTES)):
        after = more.lstrip(b"\0")
    return after
