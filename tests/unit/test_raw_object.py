"""Which objects an event names, and the lines of an object."""

import gzip
import io
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambdas.processor.raw_object import LongLine, ObjectVersion, UnreadableObjectError, line_blocks, objects_of
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


def of(body: bytes) -> list[bytes | LongLine]:
    return [line for block in line_blocks(io.BytesIO(body)) for line in block]


def test_lines_of_gzip_of_several_members_and_of_plain_objects() -> None:
    assert of(gzip.compress(b"a\nb\n") + gzip.compress(b"c\n")) == [b"a", b"b", b"c"]
    assert of(gzip.compress(b"a") + gzip.compress(b"b\n")) == [b"ab"], "members are one stream"
    assert of(gzip.compress(b"a\n") + b"\0" * 700) == [b"a"], "padded, as by tape"
    assert of(b"a\nb") == [b"a", b"b"]
    assert of(b"") == []
    assert of(b"\n\n") == [b"", b""]
    assert of(gzip.compress(b"")) == []


@given(st.lists(st.binary(max_size=400_000), max_size=6), st.integers(1, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_lines_are_what_was_written_however_it_is_cut(parts: list[bytes], members: int, compressed: bool) -> None:
    text = b"\n".join(part.replace(b"\n", b" ") for part in parts)
    third = len(text) // members + 1
    pieces = [text[at : at + third] for at in range(0, max(len(text), 1), third)]
    body = b"".join(gzip.compress(piece) for piece in pieces) if compressed else text
    if not compressed and text.startswith(b"\x1f\x8b"):
        return
    expected = text.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    found = of(body)
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        if isinstance(got, LongLine):
            assert (got.start, got.length_bytes) == (wanted[:MAX_LINE_BYTES], len(wanted))
        else:
            assert got == wanted


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() -> None:
    long = b"x" * 5_000_000
    for body in (b"a\n" + long + b"\nb\n", gzip.compress(b"a\n" + long + b"\nb\n")):
        assert of(body) == [b"a", LongLine(long[:MAX_LINE_BYTES], len(long)), b"b"]
    assert of(long) == [LongLine(long[:MAX_LINE_BYTES], len(long))]


def test_memory_stays_bounded_for_a_huge_line_and_a_compression_bomb() -> None:
    class Bomb:
        """1 GiB of one line, compressed to a megabyte, made as it is read."""

        def __init__(self) -> None:
            compressor = zlib.compressobj(9, wbits=31)
            block = b"x" * (1 << 20)
            pieces = [compressor.compress(block) for _ in range(1024)]
            self._body = io.BytesIO(b"".join(pieces) + compressor.flush())

        def read(self, amount: int = -1, /) -> bytes:
            return self._body.read(amount)

    bomb = Bomb()
    tracemalloc.start()
    try:
        [[line]] = list(line_blocks(bomb))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert line == LongLine(b"x" * MAX_LINE_BYTES, 1 << 30)
    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize("cut", [3, 12, 40])
def test_a_truncated_gzip_says_so(cut: int) -> None:
    with pytest.raises(UnreadableObjectError, match="gzip_truncated"):
        of(gzip.compress(bytes(range(256)) * 4)[:-cut])


def test_a_corrupt_gzip_says_so() -> None:
    body = bytearray(gzip.compress(b"hello world\n" * 100))
    body[15] ^= 0xFF
    with pytest.raises(UnreadableObjectError, match="gzip_"):
        of(bytes(body))
    with pytest.raises(UnreadableObjectError, match="gzip_corrupt"):
        of(gzip.compress(b"a\n") + b"garbage")
