"""The fast path says the same as the parser, or nothing at all."""

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lambdas.processor.binary_copy import Encoder
from lambdas.processor.clean import encode_clean
from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row, parse_line
from tests.stamping import STAMP, STAMPS

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
MS = int(NOW.timestamp() * 1000)

identity = {"ts": st.integers(MS - 10_000, MS), "seq": st.integers(0, 2**40)}
metrics = {
    "temperature": st.floats(-50, 120) | st.integers(-50, 120),
    "humidity": st.floats(0, 100),
    "pressure": st.floats(300, 1100),
    "battery": st.floats(0, 100),
}
odd: st.SearchStrategy[Any] = st.sampled_from([None, True, "hot", -1, 1e9, 2**63, 2**70, MS + 10**7, 0, 1.5, [], {}])
clean_readings = st.fixed_dictionaries(identity, optional=metrics)
readings = clean_readings | st.dictionaries(
    st.sampled_from([*identity, *metrics, "device_id", "note"]), odd, max_size=5
)
stamps = st.fixed_dictionaries(
    {
        "device_id": st.sampled_from(["device-00001", "é", "", "a\tb", "x" * 129]),
        "received_at": st.just(MS),
        "stamp": st.sampled_from([STAMP, "forged", None]),
    }
)


def slow(line: bytes) -> bytes | None:
    """The rows of the parser, or None when not every element is a row."""
    items = list(parse_line(1, line, LIMITS))
    if not all(isinstance(item, Row) for item in items):
        return None
    encoder = Encoder(7)
    return b"".join(encoder.row(item) for item in items if isinstance(item, Row))


@given(st.lists(readings, max_size=4), stamps)
def test_envelopes(elements: list[dict[str, Any]], stamp: dict[str, Any]) -> None:
    line = json.dumps({"readings": elements, **stamp}).encode()
    encoded = encode_clean(line, LIMITS, Encoder(7))
    if encoded is not None:
        assert encoded.data == slow(line)
        assert encoded.rows == len(elements)
        times = [element["ts"] for element in elements]
        assert (encoded.first, encoded.last) == (min(times), max(times))


@given(readings, stamps)
def test_single_readings(reading: dict[str, Any], stamp: dict[str, Any]) -> None:
    line = json.dumps({**reading, **stamp}).encode()
    encoded = encode_clean(line, LIMITS, Encoder(7))
    if encoded is not None:
        assert encoded.data == slow(line)


@given(st.lists(clean_readings, min_size=1, max_size=4))
def test_what_is_in_order_takes_the_fast_path(elements: list[dict[str, Any]]) -> None:
    line = json.dumps({"readings": elements, "device_id": "device-00001", "received_at": MS, "stamp": STAMP}).encode()
    assert encode_clean(line, LIMITS, Encoder(7)) is not None


@given(st.binary(max_size=200))
def test_no_bytes_raise(line: bytes) -> None:
    encode_clean(line, LIMITS, Encoder(7))
    encode_clean(b'{"readings"' + line, LIMITS, Encoder(7))


def fields(data: bytes) -> Iterator[bytes | None]:
    """The columns of one row in binary COPY."""
    (columns,) = struct.unpack_from(">h", data)
    at = 2
    for _ in range(columns):
        (length,) = struct.unpack_from(">i", data, at)
        at += 4
        yield None if length < 0 else data[at : at + length]
        at += max(length, 0)
    assert at == len(data)


def test_a_row_in_binary() -> None:
    line = json.dumps(
        {"ts": MS, "seq": 5, "temperature": 21.5, "device_id": "é", "received_at": MS + 1, "stamp": STAMP}
    ).encode()
    encoded = encode_clean(line, LIMITS, Encoder(7))
    assert encoded is not None
    since_2000 = (NOW - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert list(fields(encoded.data)) == [
        "é".encode(),
        struct.pack(">q", since_2000),
        struct.pack(">q", 5),
        struct.pack(">f", 21.5),
        None,
        None,
        None,
        None,
        struct.pack(">h", 0),
        struct.pack(">q", since_2000 + 1000),
        struct.pack(">q", 7),
    ]


def test_times_out_of_the_limits_are_left_to_the_parser() -> None:
    first, last = LIMITS.oldest_milliseconds, LIMITS.newest_milliseconds
    for ts, accepted in [(first, True), (first - 1, False), (last, True), (last + 1, False), (10**18, False)]:
        line = json.dumps(
            {"readings": [{"ts": ts, "seq": 1}], "device_id": "d", "received_at": MS, "stamp": STAMP}
        ).encode()
        assert (encode_clean(line, LIMITS, Encoder(7)) is not None) is accepted
        assert (slow(line) is not None) is accepted, "the parser says the same"
