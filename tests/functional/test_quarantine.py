"""Quarantine and redrive against a real TimescaleDB and a real emulator: nothing is lost, doubled or counted wrong."""

import base64
import gzip
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count as counter
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError
from rich.console import Console
from typer.testing import CliRunner

import ops.quarantine.cli as command_line
from lambdas.processor import parse
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError
from lambdas.rule_errors.handler import quarantined
from lambdas.shared import quarantine
from lambdas.shared.stamp import Stamps
from local.session import emulator_session
from local.state import Emulator
from ops.errors import UserError
from ops.quarantine import refusals
from ops.quarantine.dead_letters import DeadLetter
from ops.quarantine.items import Filter, ItemId
from ops.quarantine.lines import redrive_lines
from ops.quarantine.messages import redrive_messages
from ops.quarantine.objects import redrive_object
from ops.quarantine.outcome import Outcome, Tally
from ops.quarantine.pipeline import Pipeline, Rules
from ops.quarantine.select import by_filter, by_ids, open_queues
from ops.quarantine.work import carry_out, discard_steps, redrive_steps
from tests.stamping import STAMP, STAMPS

_PATIENCE_SECONDS = 20.0
STRICT = Rules(retention_days=1, max_future_seconds=60, stamps=STAMPS)
TODAY = Rules(retention_days=30, max_future_seconds=60, stamps=STAMPS)
NOW = datetime.now(UTC)
MS = int(NOW.timestamp() * 1000)
DAY = 86_400_000
EVERYTHING = Filter()
_names = counter(1)


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator is one server: there is nothing that a short poll could miss."""
    monkeypatch.setattr("ops.quarantine.dead_letters._POLL_SECONDS", 0)


@pytest.fixture
def pipeline(connection: psycopg.Connection, emulator: Emulator) -> Pipeline:
    """A pipeline of the test's own, with the rules of today."""
    aws = emulator_session(emulator.port)
    name = f"quarantine-{next(_names)}"
    s3, sqs, firehose = aws.client("s3"), aws.client("sqs"), aws.client("firehose")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    queues = [sqs.create_queue(QueueName=f"{name}-{what}")["QueueUrl"] for what in ("o", "o-dlq", "r", "r-dlq")]
    firehose.create_delivery_stream(
        DeliveryStreamName=name,
        ExtendedS3DestinationConfiguration={
            "BucketARN": f"arn:aws:s3:::{name}",
            "RoleARN": "arn:aws:iam::111122223333:role/firehose",
            "Prefix": "year=!{timestamp:yyyy}/",
            "ErrorOutputPrefix": "errors/",
        },
    )
    return Pipeline(
        database=connection,
        s3=s3,
        sqs=sqs,
        firehose=firehose,
        stream=name,
        object_queue=queues[0],
        object_dead_letters=queues[1],
        rule_error_queue=queues[2],
        rule_error_dead_letters=queues[3],
        rules=TODAY,
        operator="alice",
    )


def reading(seq: int, *, days_ago: float = 0, **members: Any) -> dict[str, Any]:
    return {"ts": MS - int(days_ago * DAY) - 60_000 + seq, "seq": seq, "temperature": 20.5, **members}


def envelope(*readings: Any, **members: Any) -> bytes:
    return json.dumps(
        {"readings": readings, "device_id": "device-00001", "received_at": MS, "stamp": STAMP, **members}
    ).encode()


def single(seq: int, *, days_ago: float = 0, **members: Any) -> bytes:
    stamps = {"device_id": "device-00001", "received_at": MS, "stamp": STAMP}
    return json.dumps(reading(seq, days_ago=days_ago, **members) | stamps).encode()


def put(pipeline: Pipeline, body: bytes, key: str = "year=2026/a b+ü.gz") -> ObjectVersion:
    answer = pipeline.s3.put_object(Bucket=pipeline.stream, Key=key, Body=body)
    return ObjectVersion(pipeline.stream, key, answer["VersionId"], len(body))


def load(pipeline: Pipeline, *lines: bytes, key: str = "year=2026/a b+ü.gz", rules: Rules = STRICT) -> int:
    """Puts an object of these lines and loads it by other rules than today's; returns its id in the ledger."""
    version = put(pipeline, gzip.compress(b"".join(line + b"\n" for line in lines)), key)
    limits = rules.limits(arrived_at=NOW, now=NOW)
    outcome = load_object(pipeline.database, version, lambda: pipeline.open(version).body, limits)
    assert outcome.object_id is not None
    return outcome.object_id


def rows(pipeline: Pipeline, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    return pipeline.database.execute(query, parameters).fetchall()


def ids(pipeline: Pipeline) -> list[int]:
    return [row[0] for row in rows(pipeline, "SELECT quarantine_id FROM ingest.quarantine ORDER BY 1")]


def counts(pipeline: Pipeline, object_id: int) -> tuple[Any, ...]:
    """readings, rows, duplicates, quarantined: what the ledger says, after it was compared with what is there."""
    [ledger] = rows(
        pipeline, "SELECT readings, rows, duplicates, quarantined FROM ingest.objects WHERE object_id = %s", object_id
    )
    [(stored,)] = rows(pipeline, "SELECT count(*) FROM telemetry WHERE object_id = %s", object_id)
    [(refused,)] = rows(
        pipeline,
        "SELECT count(*) FILTER (WHERE resolution IS DISTINCT FROM 'redriven') FROM ingest.quarantine "
        "WHERE object_id = %s",
        object_id,
    )
    assert ledger[1] == stored
    assert ledger[3] == refused
    return ledger


def redrive(pipeline: Pipeline, object_id: int, *, dry_run: bool = False) -> dict[tuple[str, str, str], int]:
    tally = redrive_lines(pipeline, object_id, ids(pipeline), now=NOW, dry_run=dry_run)
    return {(outcome.reason, outcome.became, outcome.because): number for outcome, number in tally.items()}


OLD = "timestamp_older_than_retention"


def test_lines_become_rows_duplicates_or_stay(pipeline: Pipeline) -> None:
    load(pipeline, single(2, days_ago=5), key="year=2026/other.gz", rules=TODAY)
    object_id = load(
        pipeline,
        envelope(reading(1), reading(1, days_ago=5), reading(2, days_ago=5), reading(3, days_ago=40), site="north"),
        b"not json",
        single(4, days_ago=5),
    )
    assert counts(pipeline, object_id) == (6, 1, 0, 5)
    expected = {
        (OLD, "row", ""): 2,
        (OLD, "duplicate", ""): 1,
        (OLD, "stays", OLD): 1,
        ("invalid_json", "stays", "invalid_json"): 1,
    }
    assert redrive(pipeline, object_id, dry_run=True) == expected
    assert counts(pipeline, object_id) == (6, 1, 0, 5)
    assert redrive(pipeline, object_id) == expected
    assert counts(pipeline, object_id) == (6, 3, 1, 2)
    [(extra, received_at, first)] = rows(
        pipeline,
        "SELECT extra, received_at, first_timestamp = timestamp FROM telemetry JOIN ingest.objects USING (object_id) "
        "WHERE seq = 1 AND timestamp < now() - interval '2 days'",
    )
    assert (extra, int(received_at.timestamp() * 1000), first) == ({"site": "north"}, MS, True)
    marked = rows(pipeline, "SELECT DISTINCT resolved_by, note FROM ingest.quarantine WHERE resolution = 'redriven'")
    assert marked == [("alice", None)]


def test_again_it_changes_nothing(pipeline: Pipeline) -> None:
    object_id = load(pipeline, single(1, days_ago=5), b"not json")
    redrive(pipeline, object_id)
    before = rows(pipeline, "SELECT * FROM ingest.objects, ingest.quarantine ORDER BY quarantine_id")
    assert redrive(pipeline, object_id) == {
        ("", "resolved already", ""): 1,
        ("invalid_json", "stays", "invalid_json"): 1,
    }
    assert rows(pipeline, "SELECT * FROM ingest.objects, ingest.quarantine ORDER BY quarantine_id") == before


def test_several_operators_at_once_store_each_reading_once(pipeline: Pipeline, database_dsn: str) -> None:
    object_id = load(pipeline, *[single(seq, days_ago=5) for seq in range(2500)])
    numbers = ids(pipeline)
    together = threading.Barrier(3)

    def attempt(_: int) -> Tally:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            together.wait()
            return redrive_lines(replace(pipeline, database=own), object_id, numbers, now=NOW)

    with ThreadPoolExecutor(3) as pool:
        tally = sum(pool.map(attempt, range(3)), Tally())
    assert tally == {Outcome("line", OLD, "row"): 2500, Outcome("line", "", "resolved already"): 5000}
    assert counts(pipeline, object_id) == (2500, 2500, 0, 0)


def test_the_same_reading_refused_twice_is_a_row_and_a_duplicate(pipeline: Pipeline) -> None:
    object_id = load(pipeline, single(1, days_ago=5), single(1, days_ago=5))
    assert redrive(pipeline, object_id) == {(OLD, "row", ""): 1, (OLD, "duplicate", ""): 1}
    assert counts(pipeline, object_id) == (2, 1, 1, 0)


def test_a_line_refused_whole_becomes_each_of_its_readings(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(parse, "MAX_LINE_BYTES", 100)
        object_id = load(pipeline, envelope(reading(1, x=1), {"seq": 2}, reading(3, x=1)), b"", single(4))
    assert counts(pipeline, object_id) == (3, 1, 0, 2)
    assert redrive(pipeline, object_id) == {
        ("too_large", "row", ""): 2,
        ("too_large", "stays", "no_timestamp"): 1,
        ("empty", "stays", "empty"): 1,
    }
    assert counts(pipeline, object_id) == (5, 3, 0, 2)
    waiting = refusals.listed(pipeline.database, Filter(), None)
    assert {(item.reason, item.line, item.element) for item in waiting} == {("no_timestamp", 1, 1), ("empty", 2, None)}


def test_what_stays_carries_the_reason_of_today(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr(parse, "MAX_LINE_BYTES", 10)
        object_id = load(pipeline, b"not json at all")
    assert redrive(pipeline, object_id) == {("too_large", "stays", "invalid_json"): 1}
    assert rows(pipeline, "SELECT reason, resolution FROM ingest.quarantine") == [("invalid_json", None)]


def test_a_line_without_the_stamp_of_its_day_is_redriven_once_that_one_is_known(pipeline: Pipeline) -> None:
    """What operators do after they have found out about a stamp that got lost."""
    lost = "theLostStamp0123456789abcdefghij"
    lines = [single(seq, days_ago=0, **{}).replace(STAMP.encode(), lost.encode()) for seq in (1, 2)]
    object_id = load(pipeline, *lines, single(3).replace(STAMP.encode(), b"forged"), rules=TODAY)
    assert counts(pipeline, object_id) == (3, 0, 0, 3)
    assert redrive(pipeline, object_id) == {("not_stamped", "stays", "not_stamped"): 3}
    knowing = replace(pipeline, rules=replace(TODAY, stamps=Stamps(STAMP, lost)))
    assert redrive(knowing, object_id) == {("not_stamped", "row", ""): 2, ("not_stamped", "stays", "not_stamped"): 1}
    assert counts(pipeline, object_id) == (3, 2, 0, 1)


def test_from_the_kept_text_a_forged_line_stays_forged(pipeline: Pipeline) -> None:
    """The stamp of a line that had one is not kept either, so what tells them apart is that no device is known."""
    object_id = load(pipeline, single(1, days_ago=5), single(2).replace(STAMP.encode(), b"forged"))
    [version] = rows(pipeline, "SELECT key, version_id FROM ingest.objects")
    pipeline.s3.delete_object(Bucket=pipeline.stream, Key=version[0], VersionId=version[1])
    assert redrive(pipeline, object_id) == {(OLD, "row", ""): 1, ("not_stamped", "stays", "not_stamped"): 1}


def test_the_future_is_judged_against_the_objects_arrival(pipeline: Pipeline) -> None:
    object_id = load(pipeline, single(1, days_ago=-0.1))
    later = NOW + timedelta(days=3)
    tally = redrive_lines(pipeline, object_id, ids(pipeline), now=later)
    assert tally == {Outcome("line", "timestamp_in_the_future", "stays", "timestamp_in_the_future"): 1}
    patient = replace(pipeline, rules=Rules(retention_days=30, max_future_seconds=86_400, stamps=STAMPS))
    assert redrive(patient, object_id) == {("timestamp_in_the_future", "row", ""): 1}


def test_an_object_that_is_gone_from_s3_leaves_the_kept_text(pipeline: Pipeline) -> None:
    object_id = load(
        pipeline,
        single(1, days_ago=5, site="north"),
        envelope(reading(2, days_ago=5), site="south"),
        single(3, days_ago=5, long="x" * 9000),
        b"\xff not whole",
    )
    [version] = pipeline.s3.list_object_versions(Bucket=pipeline.stream)["Versions"]
    pipeline.s3.delete_object(Bucket=pipeline.stream, Key=version["Key"], VersionId=version["VersionId"])
    assert redrive(pipeline, object_id) == {
        (OLD, "row", ""): 2,
        (OLD, "stays", "object_does_not_exist"): 1,
        ("invalid_json", "stays", "object_does_not_exist"): 1,
    }
    assert counts(pipeline, object_id) == (4, 2, 0, 2)
    stored = rows(pipeline, "SELECT extra, received_at IS NOT NULL FROM telemetry ORDER BY seq")
    assert stored == [({"site": "north"}, True), (None, False)]
    assert rows(pipeline, "SELECT reason, note IS NOT NULL FROM ingest.quarantine ORDER BY line") == [
        (OLD, True),
        (OLD, True),
        (OLD, False),
        ("invalid_json", False),
    ]


class Refusing:
    """S3 that answers GetObject with a fault, of one key or of all."""

    def __init__(self, s3: Any, code: str, key: str | None = None) -> None:
        self._s3, self._code, self._key = s3, code, key

    def get_object(self, **request: Any) -> Any:
        if self._key in {None, request["Key"]}:
            raise ClientError({"Error": {"Code": self._code, "Message": "as told"}}, "GetObject")
        return self._s3.get_object(**request)


def test_of_an_archived_object_only_whole_lines_can_be_had(pipeline: Pipeline) -> None:
    object_id = load(pipeline, single(1, days_ago=5), envelope(reading(2, days_ago=5), site="south"))
    archived = replace(pipeline, s3=Refusing(pipeline.s3, "InvalidObjectState"))
    assert redrive(archived, object_id) == {(OLD, "row", ""): 1, (OLD, "stays", "object_archived"): 1}
    rejected = reject(pipeline, "year=2026/rejected.gz")
    tally = redrive_object(archived, rejected, now=NOW)
    assert tally == {Outcome("object", "object_does_not_exist", "stays", "object_archived"): 1}
    assert redrive(pipeline, object_id) == {("", "resolved already", ""): 1, (OLD, "row", ""): 1}
    assert counts(pipeline, object_id) == (2, 2, 0, 0)


def gone() -> AbstractContextManager[Any]:
    raise UnreadableObjectError("object_does_not_exist")


def reject(pipeline: Pipeline, key: str, *, body: bytes | None = None) -> int:
    version = put(pipeline, body if body is not None else gzip.compress(single(1) + b"\n" + single(2)), key)
    opener: Callable[[], Any] = gone if body is None else lambda: io.BytesIO(body)
    limits = TODAY.limits(arrived_at=NOW, now=NOW)
    outcome = load_object(pipeline.database, version, opener, limits)
    assert outcome.status == "rejected"
    assert outcome.object_id
    return outcome.object_id


def test_a_rejected_object_is_loaded_under_its_id(pipeline: Pipeline, database_dsn: str) -> None:
    object_id = reject(pipeline, "year=2026/a.gz")
    dry = redrive_object(pipeline, object_id, now=NOW, dry_run=True)
    assert dry[Outcome("object", "object_does_not_exist", "loaded")] == 1
    assert counts(pipeline, object_id) == (0, 0, 0, 0)
    together = threading.Barrier(2)

    def attempt(_: int) -> Tally:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            together.wait()
            return redrive_object(replace(pipeline, database=own), object_id, now=NOW)

    with ThreadPoolExecutor(2) as pool:
        tally = sum(pool.map(attempt, range(2)), Tally())
    assert {outcome.became: number for outcome, number in tally.items()} == {
        "loaded": 1,
        "row": 2,
        "resolved already": 1,
    }
    assert counts(pipeline, object_id) == (2, 2, 0, 0)
    assert rows(pipeline, "SELECT status, reason FROM ingest.objects") == [("loaded", None)]


def test_an_object_that_is_still_broken_stays_rejected_with_its_reason(pipeline: Pipeline) -> None:
    broken = gzip.compress(single(1) * 100)[:-20]
    object_id = reject(pipeline, "year=2026/a.gz", body=broken)
    discard(pipeline, "object", [object_id])
    assert redrive_object(pipeline, object_id, now=NOW) == {
        Outcome("object", "gzip_truncated", "stays", "gzip_truncated"): 1
    }
    state = rows(pipeline, "SELECT status, reason, resolution FROM ingest.objects")
    assert state == [("rejected", "gzip_truncated", None)]
    assert rows(pipeline, "SELECT count(*) FROM telemetry") == [(0,)]


def discard(pipeline: Pipeline, kind: Any, numbers: Sequence[int], *, dry_run: bool = False) -> Tally:
    return refusals.discard(pipeline.database, kind, numbers, by="bob", note="known fault", dry_run=dry_run)


def test_what_is_discarded_is_kept_and_still_counts_as_quarantined(pipeline: Pipeline) -> None:
    object_id = load(pipeline, single(1, days_ago=5), b"not json")
    first, second = ids(pipeline)
    assert discard(pipeline, "line", [first], dry_run=True).total() == 1
    assert len(refusals.listed(pipeline.database, Filter(), None)) == 2
    assert discard(pipeline, "line", [first]) == {Outcome("line", OLD, "discarded"): 1}
    assert discard(pipeline, "line", [first]) == {Outcome("line", "", "resolved already"): 1}
    assert counts(pipeline, object_id) == (2, 0, 0, 2)
    assert [item.id.number for item in refusals.listed(pipeline.database, Filter(), None)] == [second]
    [item] = refusals.with_ids(pipeline.database, [ItemId("line", str(first))])
    assert (item.resolution, item.resolved_by, item.note) == ("discarded", "bob", "known fault")
    # Somebody thinks better of it.
    redrive(pipeline, object_id)
    assert counts(pipeline, object_id) == (2, 1, 0, 1)
    assert discard(pipeline, "line", [first]) == {Outcome("line", "", "resolved already"): 1}


def test_a_rejected_object_that_is_discarded_is_no_longer_listed(pipeline: Pipeline) -> None:
    object_id = reject(pipeline, "year=2026/a.gz")
    assert [str(item.id) for item in refusals.listed(pipeline.database, Filter(), None)] == [f"object-{object_id}"]
    discard(pipeline, "object", [object_id])
    assert refusals.listed(pipeline.database, Filter(), None) == []
    assert len(refusals.listed(pipeline.database, Filter(resolved=True), None)) == 1


def error_document(payload: bytes, device: str = "device-00007") -> str:
    return json.dumps(
        {
            "ruleName": "TelemetryToFirehose",
            "topic": f"$aws/rules/TelemetryToFirehose/iot/telemetry/{device}",
            "base64OriginalPayload": base64.b64encode(payload).decode(),
            "failures": [{"failedAction": "FirehoseAction", "errorMessage": "no such stream"}],
        }
    )


def refuse_message(pipeline: Pipeline, payload: bytes, message_id: str = "m-1", body: str | None = None) -> None:
    with pipeline.database.transaction(), pipeline.database.cursor() as cursor:
        refused = quarantined(body or error_document(payload))
        quarantine.insert(cursor, [refused], message_id=message_id, received_at=NOW)


def delivered(pipeline: Pipeline, number: int) -> list[bytes]:
    """What Firehose has put into S3, once it is `number` objects."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        listed = pipeline.s3.list_objects_v2(Bucket=pipeline.stream, Prefix="year=").get("Contents", [])
        if len(listed) >= number or time.monotonic() > deadline:
            assert len(listed) == number
            return [pipeline.s3.get_object(Bucket=pipeline.stream, Key=one["Key"])["Body"].read() for one in listed]
        time.sleep(0.05)


def test_a_message_whose_action_failed_reaches_s3_with_every_byte(pipeline: Pipeline) -> None:
    payload = json.dumps({"readings": [reading(seq, note="ü" * 40) for seq in range(500)]}).encode()
    assert len(payload) > quarantine.MAX_RAW_BYTES
    refuse_message(pipeline, payload)
    refuse_message(pipeline, b"\xff\x00\n{", "m-2")
    numbers = ids(pipeline)
    expected = {Outcome("message", "rule_action_failed: FirehoseAction", "in Firehose"): 2}
    assert redrive_messages(pipeline, numbers, dry_run=True) == expected
    assert redrive_messages(pipeline, numbers) == expected
    assert redrive_messages(pipeline, numbers) == {Outcome("message", "", "resolved already"): 2}
    bodies = {len(body): body for body in delivered(pipeline, 2)}
    stamps = b'"device_id":"device-00007","received_at":%d,"stamp":"%s"}\n' % (MS, STAMP.encode())
    whole = bodies[max(bodies)]
    assert whole == b'{"readings":' + payload.removeprefix(b'{"readings": ')[:-1] + b"," + stamps
    assert bodies[min(bodies)] == b'{"base64OriginalPayload":"/wAKew==",' + stamps
    limits = TODAY.limits(arrived_at=NOW, now=NOW)
    version = ObjectVersion(pipeline.stream, "year=2026/x", "", None)
    assert load_object(pipeline.database, version, lambda: io.BytesIO(whole), limits).rows == 500


def test_two_operators_put_a_message_once(pipeline: Pipeline, database_dsn: str) -> None:
    for number in range(5):
        refuse_message(pipeline, b"{}", f"m-{number}")
    together = threading.Barrier(2)

    def attempt(_: int) -> Tally:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            numbers = ids(replace(pipeline, database=own))
            together.wait()
            return redrive_messages(replace(pipeline, database=own), numbers)

    with ThreadPoolExecutor(2) as pool:
        tally = sum(pool.map(attempt, range(2)), Tally())
    assert sorted(tally.values()) == [5, 5]
    assert len(delivered(pipeline, 5)) == 5


class Throttled:
    """Firehose that takes every other record: https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html"""

    def __init__(self, firehose: Any) -> None:
        self._firehose = firehose

    def put_record_batch(self, *, Records: list[Any], **request: Any) -> Any:  # noqa: N803 - AWS's spelling
        self._firehose.put_record_batch(Records=Records[::2], **request)
        refused = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
        return {"RequestResponses": [{"RecordId": "1"} if i % 2 == 0 else refused for i in range(len(Records))]}


def test_a_message_that_firehose_does_not_take_still_waits(pipeline: Pipeline) -> None:
    for number in range(4):
        refuse_message(pipeline, b'{"ts": %d}' % number, f"m-{number}")
    tally = redrive_messages(replace(pipeline, firehose=Throttled(pipeline.firehose)), ids(pipeline))
    assert {(o.became, o.because): n for o, n in tally.items()} == {
        ("in Firehose", ""): 2,
        ("failed", "ServiceUnavailableException"): 2,
    }
    assert redrive_messages(pipeline, ids(pipeline)).total() == 4
    assert len(delivered(pipeline, 4)) == 4


def test_a_message_whose_text_was_cut_before_payloads_were_kept_stays(pipeline: Pipeline) -> None:
    refuse_message(pipeline, b'{"ts": 1}', "short")
    refuse_message(pipeline, b'{"ts": 1, "x": "%s"}' % (b"x" * 9000), "long")
    pipeline.database.execute("UPDATE ingest.quarantine SET payload = NULL, received_at = NULL")
    tally = redrive_messages(pipeline, ids(pipeline))
    assert {(o.became, o.because) for o in tally} == {("in Firehose", ""), ("stays", "text_was_cut")}


def test_an_unreadable_rule_error_stays_until_it_can_be_read(pipeline: Pipeline) -> None:
    refuse_message(pipeline, b"", body="no error document")
    assert redrive_messages(pipeline, ids(pipeline)) == {
        Outcome("message", "rule_error_unreadable", "stays", "rule_error_unreadable"): 1
    }
    readable = error_document(b'{"ts": 1}')  # as if the handler had learnt to read it
    pipeline.database.execute("UPDATE ingest.quarantine SET payload = %s", [readable.encode()])
    assert redrive_messages(pipeline, ids(pipeline)) == {Outcome("message", "rule_error_unreadable", "in Firehose"): 1}
    assert delivered(pipeline, 1)[0].startswith(b'{"ts":1,"device_id":"device-00007"')


def event(version: ObjectVersion) -> str:
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {
            "bucket": {"name": version.bucket},
            "object": {"key": version.key.replace(" ", "+"), "versionId": version.version_id, "size": 5},
        },
    }
    return json.dumps({"Records": [record]})


def dead_letters(pipeline: Pipeline, chosen: Filter = EVERYTHING) -> list[DeadLetter]:
    with open_queues(pipeline, hold_seconds=30) as queues:
        selection = by_filter(pipeline, queues, chosen, None)
        return selection.events + selection.rule_errors


def bodies_in(pipeline: Pipeline, url: str) -> list[str]:
    answer = pipeline.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return [message["Body"] for message in answer.get("Messages", [])]


def test_dead_letters_are_listed_without_being_consumed(pipeline: Pipeline) -> None:
    loaded = ObjectVersion(*rows_of_version(pipeline, load(pipeline, single(1), key="year=2026/loaded.gz")))
    for number in range(23):
        version = ObjectVersion(pipeline.stream, f"year=2026/{number}.gz", "v", 5)
        pipeline.sqs.send_message(QueueUrl=pipeline.object_dead_letters, MessageBody=event(version))
    for body in (event(loaded), "no event"):
        pipeline.sqs.send_message(QueueUrl=pipeline.object_dead_letters, MessageBody=body)
    for _ in range(2):
        reasons = [letter.item.reason for letter in dead_letters(pipeline)]
        assert {reason: reasons.count(reason) for reason in reasons} == {
            "not_loaded": 23,
            "loaded": 1,
            "not_an_s3_event": 1,
        }
    [letter] = dead_letters(pipeline, Filter(key="year=2026/7.gz"))
    assert letter.item.version_id == "v"


def rows_of_version(pipeline: Pipeline, object_id: int) -> tuple[Any, ...]:
    [row] = rows(
        pipeline, "SELECT bucket, key, version_id, size_bytes FROM ingest.objects WHERE object_id = %s", object_id
    )
    return row


def work(pipeline: Pipeline, *, chosen: Filter = EVERYTHING, verb: str = "redrive", dry_run: bool = False) -> Tally:
    with open_queues(pipeline, hold_seconds=30) as queues:
        selection = by_filter(pipeline, queues, chosen, None)
        if verb == "redrive":
            steps = redrive_steps(pipeline, queues, selection, now=NOW, dry_run=dry_run)
        else:
            steps = discard_steps(pipeline, queues, selection, note=None, dry_run=dry_run)
        return carry_out(pipeline.database, steps, threading.Event(), lambda _: None)


def test_an_event_goes_back_to_the_object_queue_and_then_leaves_the_dead_letters(pipeline: Pipeline) -> None:
    body = event(ObjectVersion(pipeline.stream, "year=2026/a b.gz", "v", 5))
    pipeline.sqs.send_message(QueueUrl=pipeline.object_dead_letters, MessageBody=body)
    expected = {Outcome("event", "not_loaded", "in the object queue"): 1}
    assert work(pipeline, dry_run=True) == expected
    assert bodies_in(pipeline, pipeline.object_queue) == []
    assert work(pipeline) == expected
    assert bodies_in(pipeline, pipeline.object_queue) == [body]
    assert work(pipeline) == {}


def test_a_dead_rule_error_goes_through_quarantine_into_firehose(pipeline: Pipeline) -> None:
    body = error_document(b'{"ts": 1}')
    answer = pipeline.sqs.send_message(QueueUrl=pipeline.rule_error_dead_letters, MessageBody=body)
    [letter] = dead_letters(pipeline)
    assert (letter.item.device, letter.item.reason) == ("device-00007", "rule_action_failed: FirehoseAction")
    # Put there by an attempt that ended before it was taken from the queue: it is not kept twice.
    refuse_message(pipeline, b"", answer["MessageId"], body)
    assert work(pipeline, chosen=Filter(kinds=frozenset({"rule-error"}))) == {
        Outcome("message", "rule_action_failed: FirehoseAction", "in Firehose"): 1
    }
    assert dead_letters(pipeline) == []
    assert rows(pipeline, "SELECT message_id, resolution FROM ingest.quarantine") == [(answer["MessageId"], "redriven")]
    assert len(delivered(pipeline, 1)) == 1


def test_a_dead_rule_error_that_is_discarded_is_kept_in_quarantine(pipeline: Pipeline) -> None:
    pipeline.sqs.send_message(QueueUrl=pipeline.rule_error_dead_letters, MessageBody=error_document(b"\xffonly copy"))
    work(pipeline, verb="discard")
    assert dead_letters(pipeline) == []
    state = rows(pipeline, "SELECT payload, resolution FROM ingest.quarantine")
    assert state == [(b"\xffonly copy", "discarded")]


def test_a_step_that_fails_changes_nothing_and_does_not_stop_the_others(pipeline: Pipeline) -> None:
    first = load(pipeline, single(1, days_ago=5), key="year=2026/a.gz")
    second = load(pipeline, single(2, days_ago=5), key="year=2026/b.gz")
    tally = work(replace(pipeline, s3=Refusing(pipeline.s3, "SlowDown", "year=2026/a.gz")))
    assert {outcome.became: number for outcome, number in tally.items()} == {"failed": 1, "row": 1}
    assert counts(pipeline, first) == (1, 0, 0, 1)
    assert counts(pipeline, second) == (1, 1, 0, 0)
    assert work(pipeline) == {Outcome("line", OLD, "row"): 1}


def test_it_stops_between_two_objects_and_can_go_on(pipeline: Pipeline) -> None:
    for number in range(3):
        load(pipeline, single(number, days_ago=5), key=f"year=2026/{number}.gz")
    stop = threading.Event()
    with open_queues(pipeline, hold_seconds=30) as queues:
        selection = by_filter(pipeline, queues, Filter(kinds=frozenset({"line"})), None)
        steps = redrive_steps(pipeline, queues, selection, now=NOW, dry_run=False)
        tally = carry_out(pipeline.database, steps, stop, lambda _: stop.set())
    assert tally == {Outcome("line", OLD, "row"): 1}
    assert work(pipeline) == {Outcome("line", OLD, "row"): 2}


def test_a_lost_connection_is_one_line_and_nothing_is_half_done(pipeline: Pipeline, database_dsn: str) -> None:
    object_id = load(pipeline, single(1, days_ago=5))
    with psycopg.connect(database_dsn, autocommit=True) as own:

        class Killer(Refusing):
            def get_object(self, **request: Any) -> Any:
                pipeline.database.execute("SELECT pg_terminate_backend(%s, 5000)", [own.info.backend_pid])
                return pipeline.s3.get_object(**request)

        broken = replace(pipeline, database=own, s3=Killer(None, ""))
        with open_queues(pipeline, hold_seconds=30) as queues:
            selection = by_filter(pipeline, queues, EVERYTHING, None)
            steps = redrive_steps(broken, queues, selection, now=NOW, dry_run=False)
            with pytest.raises(UserError, match="the connection to the database was lost"):
                carry_out(own, steps, threading.Event(), lambda _: None)
    assert counts(pipeline, object_id) == (1, 0, 0, 1)
    assert work(pipeline) == {Outcome("line", OLD, "row"): 1}


def test_filters_choose_the_same_in_the_list_and_for_work(pipeline: Pipeline) -> None:
    load(pipeline, single(1, days_ago=5), b"not json", key="year=2026/a.gz")
    load(pipeline, single(2, days_ago=5), key="year=2026/b.gz")
    refuse_message(pipeline, b"{}")
    object_id = reject(pipeline, "year=2026/c.gz")

    def choose(**values: Any) -> int:
        chosen = Filter(**values)
        listed = refusals.listed(pipeline.database, chosen, None)
        work_on = refusals.choose(pipeline.database, chosen, None)
        assert len(listed) == len(work_on) == refusals.count(pipeline.database, chosen)
        return len(listed)

    assert choose() == 5
    assert choose(reason=OLD) == 2
    assert choose(reason="rule_action_failed") == 1
    assert choose(reason="rule_action") == 0
    assert choose(device="device-00007") == 1
    assert choose(key="year=2026/a.gz") == 2
    assert choose(key="year=2026/c.gz") == 1
    assert choose(kinds=frozenset({"object", "message"})) == 2
    assert choose(since=datetime.now(UTC) + timedelta(hours=1)) == 0
    assert choose(until=datetime.now(UTC) + timedelta(hours=1)) == 5
    newest = refusals.listed(pipeline.database, Filter(), 1)
    assert [str(item.id) for item in newest] == [f"object-{object_id}"]
    assert len(refusals.choose(pipeline.database, Filter(), 3)) == 3


def test_an_id_that_is_not_there_is_one_line(pipeline: Pipeline) -> None:
    with (
        open_queues(pipeline, hold_seconds=30) as queues,
        pytest.raises(UserError, match=r"there is no event-nobody \(nor 1 others\): see fleet quarantine list"),
    ):
        by_ids(pipeline, queues, [ItemId("line", "4711"), ItemId("event", "nobody")])


Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def fleet(pipeline: Pipeline, database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """`fleet quarantine` on the test's pipeline: exit code, JSON of the output (else its text), standard error."""
    with ExitStack() as opened:

        def deployed(_: str) -> Pipeline:
            own = opened.enter_context(psycopg.connect(database_dsn, autocommit=True))
            return replace(pipeline, database=own)

        monkeypatch.setattr(command_line, "deployed_pipeline", deployed)
        monkeypatch.setattr(command_line, "_console", Console(width=200))
        monkeypatch.setattr(command_line, "_errors", Console(stderr=True, width=200))

        def run(*arguments: str) -> tuple[int, Any, str]:
            done = CliRunner().invoke(command_line.app, arguments)
            if done.exception and not isinstance(done.exception, SystemExit):
                raise done.exception
            output = json.loads(done.stdout) if "--json" in arguments and done.stdout else done.stdout
            return done.exit_code, output, done.stderr

        yield run


def test_the_command_line_from_list_to_redriven(pipeline: Pipeline, fleet: Run) -> None:
    load(pipeline, single(1, days_ago=5), b"not\x1b[2J json")
    pipeline.sqs.send_message(QueueUrl=pipeline.rule_error_dead_letters, MessageBody=error_document(b"{}"))
    code, listed, _ = fleet("list", "--json")
    assert code == 0
    assert [entry["kind"] for entry in listed] == ["rule-error", "line", "line"]
    [line] = [entry for entry in listed if entry["reason"] == OLD]
    text = fleet("list", "--reason", OLD)[1]
    assert line["id"] in text
    assert "line 1" in text
    shown = fleet("show", line["id"], "--json")[1]
    assert shown["raw"] == single(1, days_ago=5).decode().replace(f', "stamp": "{STAMP}"', "")
    assert "retention_days" in shown["hint"]
    [broken] = [entry for entry in listed if entry["reason"] == "invalid_json"]
    assert "not\\x1b[2J json" in fleet("show", broken["id"])[1]
    with pytest.raises(UserError, match=r"the filter matches 2 lines: add --yes to redrive them"):
        fleet("redrive", "--kind", "line")
    assert fleet("redrive", "--kind", "line", "--dry-run", "--json")[1]["totals"] == {"row": 1, "stays": 1}
    assert fleet("redrive", line["id"], "--json")[1]["totals"] == {"row": 1}
    assert fleet("discard", broken["id"], "--note", "test bench")[0] == 0
    assert [entry["kind"] for entry in fleet("list", "--json")[1]] == ["rule-error"]
    kept = fleet("list", "--all", "--kind", "line", "--json")[1]
    assert {(entry["resolution"], entry.get("note")) for entry in kept} == {
        ("redriven", None),
        ("discarded", "test bench"),
    }


def test_an_event_is_only_deleted_when_the_ledger_has_its_object_or_with_yes(pipeline: Pipeline, fleet: Run) -> None:
    version = ObjectVersion(pipeline.stream, "year=2026/lost.gz", "v", 5)
    pipeline.sqs.send_message(QueueUrl=pipeline.object_dead_letters, MessageBody=event(version))
    [letter] = dead_letters(pipeline)
    with pytest.raises(UserError, match="the ledger does not have its object"):
        fleet("discard", str(letter.item.id))
    code, _, shown = fleet("discard", str(letter.item.id), "--yes")
    assert code == 0
    assert "year=2026/lost.gz" in shown
    assert dead_letters(pipeline) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["redrive"], "nothing chosen: give ids"),
        (["discard", "line-1", "--reason", "empty"], "ids and a filter: give one or the other"),
        (["redrive", "line-4711"], "there is no line-4711"),
        (["show", "row-1"], "'row-1' is no id"),
        (["list", "--from", "yesterday"], "--from yesterday: not a time"),
    ],
)
def test_bad_input_is_one_line(fleet: Run, arguments: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        fleet(*arguments)


def test_a_database_of_an_older_release_is_one_line(pipeline: Pipeline, fleet: Run) -> None:
    pipeline.database.execute("DROP VIEW ingest.refusals")
    with pytest.raises(UserError, match="has an older schema: deploy this release first"):
        fleet("list")
