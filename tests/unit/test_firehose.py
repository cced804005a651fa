"""What the local Firehose does with records: keys, buffering, and nothing lost when it ends."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local.firehose.keys import object_key
from local.firehose.republish import Republish, twins
from local.firehose.spool import Spool, delivered

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        (
            "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/hour=!{timestamp:HH}/",
            "year=2026/month=01/day=02/hour=03/s-1-2026-01-02-03-04-05-u.gz",
        ),
        ("", "2026/01/02/03/s-1-2026-01-02-03-04-05-u.gz"),
        ("raw/", "raw/2026/01/02/03/s-1-2026-01-02-03-04-05-u.gz"),
        ("!{timestamp:yyyy-MM-dd'T'HH}/", "2026-01-02T03/s-1-2026-01-02-03-04-05-u.gz"),
    ],
)
def test_keys_are_firehoses(prefix: str, key: str) -> None:
    assert object_key(prefix, "s", AT, "u", gzip=True) == key


def batches(spool: Spool, *, everything: bool = False) -> list[bytes]:
    return [batch.file.read_bytes() for batch in spool.due(everything=everything)]


def test_a_batch_closes_when_it_is_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size_bytes=10, interval_seconds=3600)
    for record in (b"aaaa\n", b"bbbb\n", b"cc\n"):
        spool.append(record)
    assert batches(spool) == [b"aaaa\nbbbb\n"]
    assert batches(spool, everything=True) == [b"aaaa\nbbbb\n", b"cc\n"]


def test_a_batch_closes_when_it_is_old_enough(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size_bytes=1000, interval_seconds=0.05)
    spool.append(b"a\n")
    deadline = time.monotonic() + 10
    while not batches(spool):
        assert time.monotonic() < deadline
    assert batches(spool) == [b"a\n"]


def test_a_record_larger_than_the_buffer_is_a_batch_of_its_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size_bytes=4, interval_seconds=3600)
    spool.append(b"larger than that\n")
    spool.append(b"b\n")
    assert batches(spool, everything=True) == [b"larger than that\n", b"b\n"]


def test_what_a_killed_process_had_buffered_is_delivered_by_the_next(tmp_path: Path) -> None:
    killed = Spool(tmp_path, size_bytes=1000, interval_seconds=3600)
    killed.append(b"a\n")
    [batch] = Spool(tmp_path, size_bytes=1000, interval_seconds=3600).due()
    assert batch.file.read_bytes() == b"a\n"
    unique, at = batch.unique, batch.first_record_at
    [again] = Spool(tmp_path, size_bytes=1000, interval_seconds=3600).due()
    assert (again.unique, again.first_record_at) == (unique, at), "a repeated delivery overwrites"
    delivered(again)
    assert not list(Spool(tmp_path, size_bytes=1000, interval_seconds=3600).due())
    killed.close()


def test_other_hints_apply_to_what_is_buffered_already(tmp_path: Path) -> None:
    spool = Spool(tmp_path, size_bytes=1000, interval_seconds=3600)
    spool.append(b"aaaa\n")
    assert batches(spool) == []
    spool.resize(size_bytes=6, interval_seconds=3600)
    spool.append(b"bbbb\n")
    assert batches(spool) == [b"aaaa\n"]
    assert batches(spool, everything=True) == [b"aaaa\n", b"bbbb\n"]


RULE: dict[str, Any] = {
    "ruleName": "Status",
    "sql": "SELECT * FROM 'iot/status/+' WHERE state <> 'a FROM \"b\"'",
    "awsIotSqlVersion": "2016-03-23",
    "actions": [
        {"firehose": {"deliveryStreamName": "s"}},
        {"republish": {"topic": "$$aws/things/${topic(3)}/shadow/update", "qos": 1, "roleArn": "r"}},
        {"republish": {"topic": "seen/${topic(3)}/${n}", "roleArn": "r"}},
        {"republish": {"topic": "literal", "roleArn": "r"}},
    ],
}


def test_a_rule_with_templates_has_a_twin_that_selects_their_expressions() -> None:
    payloads, republished = twins([RULE, {**RULE, "ruleName": "Off", "ruleDisabled": True}])
    assert list(republished) == ["local/republish/Status/1", "local/republish/Status/2"]
    [(name, twin)] = payloads.items()
    by_expression = {"n": "local_template_6e", "topic(3)": "local_template_746f706963283329"}
    more = "".join(f", {expression} AS {member}" for expression, member in by_expression.items())
    assert twin["sql"] == f"SELECT *{more} FROM 'iot/status/+' WHERE state <> 'a FROM \"b\"'"
    assert twins([RULE, {**twin, "ruleName": name}]) == (payloads, republished), "and none of its own"
    result = {"state": 1, **dict(zip(by_expression.values(), (7, "device-1"), strict=True))}
    shadow, seen = (each.message(json.dumps(result).encode()) for each in republished.values())
    assert shadow == ("$aws/things/device-1/shadow/update", b'{"state": 1}')
    assert seen == ("seen/device-1/7", b'{"state": 1}')
    assert [each.qos for each in republished.values()] == [1, 0]


@pytest.mark.parametrize(
    "result",
    [
        b"not json",
        b"[1]",
        b"{}",
        b'{"local_template_6e": null}',
        b'{"local_template_6e": ""}',
        b'{"local_template_6e": "+"}',
    ],
)
def test_a_result_that_gives_no_topic_is_not_republished(result: bytes) -> None:
    with pytest.raises(ValueError, match=r"n|JSON"):
        Republish("to/${n}", 0).message(result)
