"""Ids, times and filters of `fleet quarantine`: what is usable is taken, the rest is one clear line."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.errors import UserError
from ops.quarantine.items import KINDS, Filter, Item, ItemId, parse_filter, parse_id
from ops.terminal import printable

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("line-12", ItemId("line", "12")),
        ("line-0012", ItemId("line", "12")),
        ("object-7", ItemId("object", "7")),
        ("message-3", ItemId("message", "3")),
        ("event-6e2f-41", ItemId("event", "6e2f-41")),
        ("rule-error-6e2f-41", ItemId("rule-error", "6e2f-41")),
    ],
)
def test_ids_are_read_as_they_are_printed(text: str, expected: ItemId) -> None:
    assert parse_id(text) == expected
    assert parse_id(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "12", "line", "line-", "line-x", "line--1", "line-99999999999999999999", "row-1"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no id: use one that fleet quarantine list prints"):
        parse_id(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading_of_an_id(text: str) -> None:
    try:
        kind = parse_id(text).kind
    except UserError:
        return
    assert kind in KINDS


def options(**given: Any) -> Filter:
    nothing: dict[str, Any] = dict.fromkeys(("kinds", "reason", "device", "since", "until", "key"))
    return parse_filter(**nothing | given, now=NOW)


def test_a_filter_chooses_only_when_something_was_given() -> None:
    assert not options().chooses
    assert not Filter(resolved=True).chooses
    assert options(device="device-00001").chooses
    assert options(kinds=["line"]).chooses


def test_an_unknown_kind_and_a_span_that_is_empty_are_refused() -> None:
    with pytest.raises(UserError, match="--kind row: use one of line, object, event, message, rule-error"):
        options(kinds=["row"])
    with pytest.raises(UserError, match="--from 1h is not before --to 2h"):
        options(since="1h", until="2h")


def test_an_object_may_be_given_as_an_address() -> None:
    assert options(key="s3://bucket/year=2026/a b.gz").key == "year=2026/a b.gz"
    assert options(key="year=2026/a.gz").key == "year=2026/a.gz"


def test_a_reason_matches_what_it_begins_with_before_a_colon() -> None:
    item = Item(ItemId("rule-error", "x"), NOW, "rule_action_failed: FirehoseAction", device="device-00001")
    assert options(reason="rule_action_failed").matches(item)
    assert options(reason="rule_action_failed: FirehoseAction").matches(item)
    assert not options(reason="rule_action").matches(item)
    assert not options(device="device-00002").matches(item)
    assert not options(kinds=["event"]).matches(item)
    assert not options(until="1h").matches(item)
    assert options(since="1h").matches(item)


def test_json_says_only_what_is_known() -> None:
    item = Item(ItemId("object", "7"), NOW, "gzip_truncated", object_id=7, bucket="b", key="k", version_id="v")
    assert item.as_json() == {
        "id": "object-7",
        "kind": "object",
        "at": "2026-11-21T12:00:00+00:00",
        "reason": "gzip_truncated",
        "object_id": 7,
        "bucket": "b",
        "key": "k",
        "version_id": "v",
    }


def test_what_a_device_sent_cannot_drive_the_terminal() -> None:
    shown = printable("a\x1b[2J\x07\u202eb\n\tc").plain
    assert shown == "a\\x1b[2J\\x07\\u202eb\n\tc"
