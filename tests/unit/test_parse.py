"""The parser: no input raises, and every element of a line ends as exactly one row or one quarantined element."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row, parse_line
from lambdas.shared.quarantine import Quarantined, storable
from tests.stamping import STAMP, STAMPS

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
MS = int(NOW.timestamp() * 1000)


def parse(line: bytes) -> list[Row | Quarantined]:
    return list(parse_line(7, line, LIMITS))


def row(**members: Any) -> Row:
    [parsed] = parse(json.dumps({"device_id": "device-00001", "stamp": STAMP, "ts": MS, "seq": 1, **members}).encode())
    assert isinstance(parsed, Row), parsed
    return parsed


@pytest.mark.parametrize(
    "ts",
    [
        MS,
        float(MS),
        "2026-11-21T12:00:00Z",
        "2026-11-21T12:00:00+00:00",
        "2026-11-21T13:00:00+01:00",
        "2026-11-21T12:00:00.000Z",
        "20261121T120000Z",
    ],
)
def test_a_timestamp_is_epoch_milliseconds_or_iso_8601_with_an_offset(ts: object) -> None:
    assert row(ts=ts).timestamp == NOW
    assert row(ts=ts).timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("offset", "accepted"),
    [
        (timedelta(hours=1), True),
        (timedelta(hours=1, milliseconds=1), False),
        (-timedelta(days=30), True),
        (-timedelta(days=30, milliseconds=1), False),
    ],
)
def test_the_limits_of_time_are_inclusive(offset: timedelta, accepted: bool) -> None:
    [parsed] = parse(
        json.dumps({"device_id": "d", "stamp": STAMP, "ts": MS + offset // timedelta(milliseconds=1)}).encode()
    )
    assert isinstance(parsed, Row) is accepted


def test_null_and_absent_metrics_are_the_same_and_no_fault() -> None:
    assert row(temperature=None) == row()
    assert row().quality == 1 << 8 or row().quality == 0
    assert row(temperature=None).quality == 0


def test_numbers_of_any_json_form_are_values() -> None:
    assert row(temperature=21).temperature == 21.0
    assert row(temperature=-1.5e1).temperature == -15.0


def test_quality_bits_add_up() -> None:
    assert row(temperature="x", humidity=[], pressure={}, battery=False).quality == 0b1111
    assert row(temperature=1e6, humidity=-1, pressure=1, battery=101).quality == 0b1111_0000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\x00", "\ud800", "2026-11-21T12:00:00Z", MS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
members = st.sampled_from(
    [
        "device_id",
        "received_at",
        "readings",
        "ts",
        "seq",
        "temperature",
        "humidity",
        "pressure",
        "battery",
        "extra",
        "\x00",
    ]
)
readings = st.dictionaries(members, json_values | st.just(MS), max_size=8)
messages = st.one_of(
    readings,
    st.builds(
        lambda elements, rest: {**rest, "readings": elements, "device_id": "device-00001"},
        st.lists(readings | json_values, max_size=5),
        readings,
    ),
)


@given(st.binary(max_size=300))
def test_no_bytes_raise(line: bytes) -> None:
    [parsed] = parse(line) if not line.startswith(b"{") else parse(line)[:1]
    assert isinstance(parsed, Row | Quarantined)


@given(messages)
def test_every_element_ends_as_one_row_or_one_quarantined_element(message: dict[str, Any]) -> None:
    line = json.dumps(message | {"stamp": STAMP}).encode()
    parsed = parse(line)
    elements = message.get("readings")
    named = (
        isinstance(message.get("device_id"), str)
        and len(message["device_id"]) > 0
        and message["device_id"].isprintable()
    )
    if named and len(message["device_id"]) <= 128 and isinstance(elements, list) and elements:
        assert len(parsed) == len(elements)
    else:
        assert len(parsed) == 1
    for item in parsed:
        if isinstance(item, Row):
            storable_by_postgres(item)
        else:
            assert item.line == 7
            assert "\x00" not in storable(item.raw)
            storable(item.raw).encode()


def storable_by_postgres(item: Row) -> None:
    assert -(2**63) < item.seq < 2**63
    assert 0 <= item.quality < 2**15
    assert LIMITS.oldest <= item.timestamp <= LIMITS.newest
    if item.extra is not None:
        assert "\\u0000" not in item.extra.replace("\\\\", "")

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        assert isinstance(json.loads(item.extra, parse_constant=refuse), dict)
        item.extra.encode()


@given(json_values)
def test_what_jsonb_cannot_hold_is_spelt_out(value: object) -> None:
    line = json.dumps({"device_id": "d", "stamp": STAMP, "ts": MS, "note": value}).encode()
    [parsed] = parse(line)
    assert isinstance(parsed, Row)
    storable_by_postgres(parsed)


def test_deep_nesting_does_not_raise() -> None:
    for depth in (900, 5_000, 60_000):
        [parsed] = parse(
            b'{"stamp": "%s", "device_id": "d", "ts": %d, "x": ' % (STAMP.encode(), MS)
            + b"[" * depth
            + b"]" * depth
            + b"}"
        )
        assert isinstance(parsed, Row | Quarantined)
