"""A message on its second way into Firehose: stamped, one line, and every byte of it still there."""

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row, parse_line
from ops.quarantine.stamp import stamped
from tests.stamping import STAMP, STAMPS

AT = datetime(2026, 11, 21, 12, 0, 0, 5000, tzinfo=UTC)
MS = int(AT.timestamp() * 1000)
ADDED = b'"device_id":"device-00001","received_at":%d,"stamp":"%s"}' % (MS, STAMP.encode())
LIMITS = Limits.around(AT, retention_days=30, max_future_seconds=3600, stamps=STAMPS)


def stamp(payload: bytes) -> bytes:
    return stamped(payload, "device-00001", AT, STAMP)


@pytest.mark.parametrize(
    ("payload", "line"),
    [
        (b'{"ts":1}', b'{"ts":1,' + ADDED),
        (b"{}", b"{" + ADDED),
        (b'{\r\n  "a": [1,\n 2]\n}\n', b'{"a":[1,  2],' + ADDED),
        (
            b'{"a": 1e400, "b": 123456789012345678901234567890}',
            b'{"a":1e400,"b":123456789012345678901234567890,' + ADDED,
        ),
        ('{"name": "größe"}'.encode(), '{"name":"größe",'.encode() + ADDED),
        (b'{"half a pair": "\\ud83d"}', b'{"half a pair": "\\ud83d",' + ADDED),
        (b'{"temperature": NaN,\n"seq": 1}', b'{"temperature": NaN, "seq": 1,' + ADDED),
    ],
)
def test_members_keep_their_bytes(payload: bytes, line: bytes) -> None:
    assert stamp(payload) == line


@pytest.mark.parametrize(
    "payload",
    [b'{"device_id": "forged", "received_at": 0, "stamp": "forged", "ts": %d}', b'{"device_id": NaN, "ts": %d}'],
)
def test_a_device_cannot_forge_the_stamps(payload: bytes) -> None:
    line = stamp(payload % MS)
    [row] = parse_line(1, line, LIMITS)
    assert isinstance(row, Row)
    assert (row.device_id, row.received_at) == ("device-00001", AT)
    assert b"forged" not in line


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe\x00", b"[1]", b"not\njson", b'{"a": 1', b"\xef\xbb\xbf{}"])
def test_what_is_no_json_object_travels_whole(payload: bytes) -> None:
    members = json.loads(stamp(payload))
    assert base64.b64decode(members.pop("base64OriginalPayload")) == payload
    assert members == {"device_id": "device-00001", "received_at": MS, "stamp": STAMP}


@given(st.binary(max_size=200))
def test_any_bytes_are_one_line_that_ends_with_the_stamps(payload: bytes) -> None:
    line = stamp(payload)
    assert b"\n" not in line
    assert line.endswith(ADDED)


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists), max_size=5)
)
def test_any_json_object_keeps_its_members(members: dict[str, object]) -> None:
    line = json.loads(stamp(json.dumps(members, indent=1).encode("utf-8", "surrogatepass")))
    expected = members | {"device_id": "device-00001", "received_at": MS, "stamp": STAMP}
    assert json.dumps(line, sort_keys=True) == json.dumps(expected, sort_keys=True)
