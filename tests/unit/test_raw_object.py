"""Which objects an event names, and the lines of an object."""

import gzip
import io
import json
from typing import Any

import pytest

from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError, lines, objects_of, spooled
from lambdas.shared.contract import MAX_LINE_BYTES


def event(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": list(records)})


def record(key: str, name: str = "ObjectCreated:Put", **members: Any) -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "raw"}, "object": {"key": key, **members}}}


def test_keys_are_form_decoded() -> None:
    [found] = objects_of(event(record("year%3D2026/a+b%2Bc/%C3%A9.gz", versionId="v1", size=5)))
    assert found == ObjectVersion("raw", "year=2026/a b+c/é.gz", "v1", 5)


def test_a_bucket_without_versions_gives_an_empty_version() -> None:
    assert objects_of(event(record("year=1")))[0].version_id == ""


def test_the_test_event_and_deletions_name_no_object() -> None:
    assert objects_of(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"})) == []
    assert objects_of(event(record("year=1", "ObjectRemoved:Delete"), record("year=2", "s3:ObjectCreated:Copy"))) == [
        ObjectVersion("raw", "year=2", "", None)
    ]


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", "nonsense", '{"Records": [{}]}', '{"Records": 5}', '{"Records": [7]}']
)
def test_what_is_no_s3_event_is_a_value_error(body: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        objects_of(body)


def of(body: bytes) -> list[bytes]:
    with spooled(io.BytesIO(body)) as stream:
        return list(lines(stream))


def test_lines_of_gzip_of_several_members_and_of_plain_objects() -> None:
    assert of(gzip.compress(b"a\nb\n") + gzip.compress(b"c\n")) == [b"a", b"b", b"c"]
    assert of(b"a\r\nb") == [b"a", b"b"]
    assert of(b"") == []
    assert of(b"\n\n") == [b"", b""]
    assert of(gzip.compress(b"")) == []


def test_an_object_larger_than_the_memory_buffer_is_read_whole() -> None:
    body = b"".join(b"%d\n" % n for n in range(2_000_000))
    with spooled(io.BytesIO(body)) as stream:
        assert sum(1 for _ in lines(stream)) == 2_000_000


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() -> None:
    long = b"x" * (MAX_LINE_BYTES * 5)
    first, second, third = of(gzip.compress(b"a\n" + long + b"\nb\n"))
    assert (first, third) == (b"a", b"b")
    assert MAX_LINE_BYTES < len(second) < MAX_LINE_BYTES + 10
    assert of(long)[0].startswith(b"xxx")
    exactly = b"y" * MAX_LINE_BYTES
    assert of(exactly + b"\n" + b"z") == [exactly, b"z"]


@pytest.mark.parametrize("cut", [3, 12, 40])
def test_a_truncated_gzip_says_so(cut: int) -> None:
    with pytest.raises(UnreadableObjectError, match="gzip_truncated"):
        of(gzip.compress(bytes(range(256)) * 4)[:-cut])


def test_a_corrupt_gzip_says_so() -> None:
    body = bytearray(gzip.compress(b"hello world\n" * 100))
    body[15] ^= 0xFF
    with pytest.raises(UnreadableObjectError, match="gzip_"):
        of(bytes(body))
