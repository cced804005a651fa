"""The handlers, with S3, SQS and Secrets Manager played by moto and the database out of reach or not needed."""

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from lambdas.processor import handler as processor
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError
from lambdas.rule_errors import handler as rule_errors
from lambdas.rule_errors.handler import quarantined
from lambdas.shared import retry
from lambdas.shared.database import DatabaseSecret, DatabaseSecretError, decode_secret, read_secret


@pytest.fixture
def queue_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "BUCKET_NAME": "raw-bucket",
        "RETENTION_DAYS": "30",
        "MAX_FUTURE_SECONDS": "3600",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws(), socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        secret = {"host": "127.0.0.1", "port": nobody_listens.getsockname()[1], "username": "u", "password": "hunter2"}
        arn = boto3.client("secretsmanager").create_secret(Name="loader", SecretString=json.dumps(secret))["ARN"]
        monkeypatch.setenv("DATABASE_SECRET_ARN", arn)
        url = boto3.client("sqs").create_queue(QueueName="objects")["QueueUrl"]
        monkeypatch.setenv("OBJECT_QUEUE_URL", url)
        retry._sqs.cache_clear()
        yield url
    retry._sqs.cache_clear()


class Context:
    """Of an invocation that has just begun."""

    aws_request_id = "test"

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def receive(url: str, *bodies: str) -> list[dict[str, Any]]:
    """Messages as Lambda hands them to a handler, received for real so that their receipt handles are."""
    sqs = boto3.client("sqs")
    for body in bodies:
        sqs.send_message(QueueUrl=url, MessageBody=body)
    received = sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=720, AttributeNames=["ApproximateReceiveCount"]
    )
    return [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message["Attributes"],
        }
        for message in received["Messages"]
    ]


OBJECT = json.dumps(
    {
        "Records": [
            {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "raw-bucket"}, "object": {"key": "year=1"}}}
        ]
    }
)
TEST_EVENT = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"})


def test_a_database_out_of_reach_fails_only_the_messages_that_need_it(
    queue_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    messages = receive(queue_url, OBJECT, TEST_EVENT)
    response = processor.handler({"Records": messages}, Context())
    failed = [message["messageId"] for message in messages if message["body"] == OBJECT]
    assert response == {"batchItemFailures": [{"itemIdentifier": failed[0]}]}
    [record] = caplog.records
    assert vars(record)["fault"] == "OperationalError"
    assert "hunter2" not in str(vars(record))


def test_each_connect_that_failed_is_counted_and_nothing_else_is(
    queue_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    processor.handler({"Records": receive(queue_url, OBJECT, OBJECT, TEST_EVENT, "nonsense")}, Context())
    assert emitted(capsys) == {"DatabaseUnreachable": [2.0], "MessagesFailed": [3.0]}
    processor.handler({"Records": receive(queue_url, TEST_EVENT)}, Context())
    assert emitted(capsys) == {"DatabaseUnreachable": [0.0]}


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The metrics of the one document that was written."""
    [document] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    [directive] = document["_aws"]["CloudWatchMetrics"]
    return {metric["Name"]: document[metric["Name"]] for metric in directive["Metrics"]}


def test_a_rule_error_that_cannot_be_stored_comes_back(
    queue_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RULE_ERROR_QUEUE_URL", queue_url)
    monkeypatch.setattr(retry, "delay_seconds", lambda _: 0)
    [message] = receive(queue_url, "a rule error")
    response = rule_errors.handler({"Records": [message]}, Context())
    assert response == {"batchItemFailures": [{"itemIdentifier": message["messageId"]}]}
    assert vars(caplog.records[0])["fault"] == "OperationalError"
    assert len(boto3.client("sqs").receive_message(QueueUrl=queue_url)["Messages"]) == 1


def test_a_batch_whose_time_is_up_connects_to_nothing(queue_url: str, caplog: pytest.LogCaptureFixture) -> None:
    class NoTime(Context):
        def get_remaining_time_in_millis(self) -> int:
            return 6000

    for handler in (processor.handler, rule_errors.handler):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RULE_ERROR_QUEUE_URL", queue_url)
            assert len(handler({"Records": receive(queue_url, OBJECT)}, NoTime())["batchItemFailures"]) == 1
        assert vars(caplog.records[-1])["fault"] == "TimeoutError"


def test_a_message_that_is_no_s3_event_fails_alone(queue_url: str) -> None:
    messages = receive(queue_url, "nonsense", TEST_EVENT)
    response = processor.handler({"Records": messages}, Context())
    assert len(response["batchItemFailures"]) == 1


def test_a_failed_message_comes_back_soon(queue_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "delay_seconds", lambda _: 0)
    processor.handler({"Records": receive(queue_url, OBJECT)}, Context())
    again = boto3.client("sqs").receive_message(QueueUrl=queue_url)
    assert len(again["Messages"]) == 1, "it would have been hidden for 720 s"


def test_waits_grow_up_to_a_quarter_of_an_hour() -> None:
    waits = [retry.delay_seconds(deliveries) for deliveries in range(1, 30)]
    assert 3 <= waits[0] <= 4
    assert all(675 <= wait <= 900 for wait in waits[10:])
    assert sum(waits[:20]) > 2.5 * 3600, "an outage of hours is outlasted before the dead-letter queue"


def test_a_secret_that_is_not_filled_in_says_which_member(queue_url: str) -> None:
    arn = boto3.client("secretsmanager").create_secret(
        Name="empty", SecretString=json.dumps({"host": "", "username": "iot_loader", "password": "hunter2"})
    )["ARN"]
    with pytest.raises(DatabaseSecretError, match=r"empty.*is not filled in.*host") as caught:
        read_secret(arn)
    assert "hunter2" not in str(caught.value)


def test_a_secret_is_not_shown_by_its_repr() -> None:
    secret = decode_secret('{"host": "h", "username": "u", "password": "hunter2"}', "x")
    assert isinstance(secret, DatabaseSecret)
    assert "hunter2" not in f"{secret!r} {secret}"


def test_a_rule_error_becomes_its_original_payload() -> None:
    document = {
        "ruleName": "TelemetryToFirehose",
        "topic": "iot/telemetry/device-00003",
        "base64OriginalPayload": base64.b64encode(b"\xff broken").decode(),
        "failures": [{"failedAction": "FirehoseAction", "failedResource": "s", "errorMessage": "denied"}],
    }
    row = quarantined(json.dumps(document))
    assert (row.device_id, row.reason, row.raw) == (
        "device-00003",
        "rule_action_failed: FirehoseAction",
        b"\xff broken",
    )


@pytest.mark.parametrize("body", ["", "{}", '{"topic": "a", "base64OriginalPayload": "***"}'])
def test_an_unreadable_rule_error_is_quarantined_whole(body: str) -> None:
    row = quarantined(body)
    assert (row.reason, row.raw) == ("rule_error_unreadable", body.encode())


def test_an_object_of_another_bucket_is_refused_before_s3_is_asked(queue_url: str) -> None:
    with pytest.raises(UnreadableObjectError, match="not_our_bucket"):
        processor._open(ObjectVersion("somebody-elses", "year=1", "", None))


def test_an_object_that_vanished_is_refused(queue_url: str) -> None:
    boto3.client("s3").create_bucket(Bucket="raw-bucket")
    with pytest.raises(UnreadableObjectError, match="object_does_not_exist"):
        processor._open(ObjectVersion("raw-bucket", "year=1", "", None))
