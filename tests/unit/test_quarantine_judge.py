"""A refused line under today's rules: which of its readings are rows, and what stays."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from lambdas.processor.limits import Limits
from lambdas.processor.parse import parse_line
from lambdas.processor.raw_object import LongLine
from lambdas.shared.quarantine import Quarantined, storable
from ops.quarantine.hints import _HINTS, hint
from ops.quarantine.judge import Refused, Verdict, judge_kept, readings
from ops.quarantine.judge import judge as judge_readings
from ops.quarantine.refusals import Kept
from tests.stamping import STAMP, STAMPS

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MS = int(NOW.timestamp() * 1000)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
OLD = MS - 20 * 86_400_000


def refused(element: int | None = None, reason: str = "timestamp_older_than_retention", raw: str = "") -> Refused:
    return Refused(1, 1, element, "device-00001", reason, raw, len(raw.encode()))


def judge(line_refused: Refused, line: bytes | LongLine, limits: Limits) -> Verdict:
    return judge_readings(line_refused, readings(line_refused.line, line, limits))


def envelope(*elements: Any, **members: Any) -> bytes:
    return json.dumps(
        {"readings": elements, "device_id": "device-00001", "received_at": MS, "stamp": STAMP, **members}
    ).encode()


def test_an_element_is_judged_alone_with_what_its_envelope_says_for_all() -> None:
    line = envelope({"ts": 1}, {"ts": OLD, "seq": 2}, {"ts": 1}, site="north")
    verdict = judge(refused(element=1), line, LIMITS)
    assert verdict.stays is None
    [row] = verdict.rows
    assert (row.seq, row.extra, row.received_at) == (2, '{"site":"north"}', NOW)
    assert judge(refused(element=2), line, LIMITS).stays == "timestamp_older_than_retention"


def test_a_line_refused_whole_may_turn_out_to_hold_several_readings() -> None:
    verdict = judge(refused(reason="too_large"), envelope({"ts": OLD, "seq": 1}, {"seq": 2}, {"ts": OLD}), LIMITS)
    assert verdict.stays is None
    assert len(verdict.rows) == 2
    assert [(element.element, element.reason) for element in verdict.elements] == [(1, "no_timestamp")]


@pytest.mark.parametrize("element", [None, 0, 3])
def test_a_line_that_is_still_refused_whole_stays(element: int | None) -> None:
    verdict = judge(refused(element=element), b"not json", LIMITS)
    assert (verdict.stays, verdict.rows, verdict.elements) == ("invalid_json", [], [])
    assert judge(refused(element=element), LongLine(b"x", 10**6), LIMITS).stays == "too_large"


def test_an_envelope_of_one_that_is_refused_stays_an_element() -> None:
    verdict = judge(refused(element=0), envelope({"seq": 1}), LIMITS)
    assert (verdict.stays, verdict.elements) == ("no_timestamp", [])
    whole = judge(refused(element=None), envelope({"seq": 1}), LIMITS)
    assert (whole.stays, [element.element for element in whole.elements]) == (None, [0])


def test_an_element_that_is_not_there_stays() -> None:
    assert judge(refused(element=5), envelope({"ts": OLD}), LIMITS).stays == "element_not_found"


def test_from_the_kept_text_a_line_is_the_same_and_an_element_lacks_its_envelope() -> None:
    line = json.dumps({"ts": OLD, "seq": 1, "device_id": "device-00001", "received_at": MS})
    assert judge_kept(refused(raw=line), line.encode(), LIMITS).rows[0].received_at == NOW
    verdict = judge_kept(refused(element=7), b'{"ts": %d, "seq": 1, "x": 2}' % OLD, LIMITS)
    [row] = verdict.rows
    assert verdict.refused.element == 7
    assert (row.device_id, row.received_at, row.extra) == ("device-00001", None, '{"x":2}')


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        (b"plain", True),
        ("größe".encode(), True),
        (b"\xff\xfe", False),
        (b"nul\x00", False),
        (b"x" * 8192, True),
        (b"x" * 8193, False),
        (b"\xff" * 2 + b"x" * 8196, False),
        ("é".encode() * 4097, False),
    ],
)
def test_a_text_that_was_cut_or_escaped_is_known_not_to_be_whole(raw: bytes, whole: bool) -> None:
    kept = Kept(storable(raw), len(raw), None)
    assert kept.whole == (raw if whole else None)


def test_a_payload_is_whole_whatever_its_text() -> None:
    assert Kept("\\xff", 1, b"\xff").whole == b"\xff"


def test_every_reason_of_the_parser_has_a_hint() -> None:
    lines = [
        b"",
        b"{",
        b"[]",
        b"{}",
        json.dumps({"stamp": STAMP}).encode(),
        b"x" * 200_000,
        envelope(),
        envelope(1),
        envelope({}),
        envelope({"ts": "x"}),
    ]
    lines += [envelope({"ts": "2026-11-21T12:00"}), envelope({"ts": 1}), envelope({"ts": MS * 2})]
    lines += [json.dumps({"device_id": "d", "readings": 1, "stamp": STAMP}).encode()]
    reasons = {item.reason for line in lines for item in parse_line(1, line, LIMITS) if isinstance(item, Quarantined)}
    assert len(reasons) >= 12
    assert reasons <= _HINTS.keys()
    assert "Firehose" in hint("rule_action_failed: FirehoseAction")
    assert hint("unheard of")
