"""The intake as it is deployed, on the emulator: a bucket that announces its objects to a queue, and loaders."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from lambdas.shared.logins import set_login
from local import emulator as emulators
from local import processes
from local.session import AwsSession, emulator_session
from local.state import Emulator
from tests.functional.accounting import RawObject
from tests.functional.loader_process import LoaderProcess
from tests.stamping import STAMP
from tests.waiting import wait_for

_PATIENCE_SECONDS = 30.0
_names = count(1)

Message = dict[str, Any]
"""An SQS message as Lambda hands it to a handler."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits for a condition, for so long."""
    wait_for(condition, what, seconds, every=0.02)


class Intake:
    """A bucket with versions, whose events go to a queue."""

    def __init__(self, aws: AwsSession, name: str) -> None:
        self._s3, self._sqs = aws.client("s3"), aws.client("sqs")
        self.bucket = name
        self.queue_url: str = self._sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "600"})[
            "QueueUrl"
        ]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=["QueueArn"])["Attributes"]
        self._s3.create_bucket(Bucket=name)
        self._s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        notification = {"QueueArn": attributes["QueueArn"], "Events": ["s3:ObjectCreated:*"]}
        self._s3.put_bucket_notification_configuration(
            Bucket=name, NotificationConfiguration={"QueueConfigurations": [notification]}
        )
        self._sqs.purge_queue(QueueUrl=self.queue_url)  # S3's test event

    def put(self, *objects: RawObject) -> list[Message]:
        """Stores the objects and receives their events."""
        for each in objects:
            self._s3.put_object(Bucket=self.bucket, Key=each.key, Body=each.body)
        return self.receive(len(objects))

    def receive(self, number: int) -> list[Message]:
        """So many messages, which then are hidden until they are acknowledged or released."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        received: list[Message] = []
        while len(received) < number:
            assert time.monotonic() < deadline, f"{len(received)} of {number} messages came"
            answer = self._sqs.receive_message(
                QueueUrl=self.queue_url,
                MaxNumberOfMessages=min(10, number - len(received)),
                WaitTimeSeconds=1,
                AttributeNames=["ApproximateReceiveCount"],
            )
            received += [
                {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": message["Attributes"],
                    "eventSource": "aws:sqs",
                }
                for message in answer.get("Messages", [])
            ]
        return received

    def acknowledge(self, messages: Iterable[Message], failed: frozenset[str] = frozenset()) -> None:
        """As Lambda does: deletes all messages but those that the handler reported."""
        for message in messages:
            if message["messageId"] not in failed:
                self._sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["receiptHandle"])

    def release(self, messages: Iterable[Message]) -> None:
        """As if the visibility timeout of messages that nobody answered for were over."""
        for message in messages:
            self._sqs.change_message_visibility(
                QueueUrl=self.queue_url, ReceiptHandle=message["receiptHandle"], VisibilityTimeout=0
            )

    def is_empty(self) -> bool:
        """Whether no message is left, visible or hidden."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self._sqs.get_queue_attributes(QueueUrl=self.queue_url, AttributeNames=names)["Attributes"]
        return all(int(found[name]) == 0 for name in names)


class StartLoader(Protocol):
    """Starts a loader that logs in to the database of `dsn`, at another port if one is given."""

    def __call__(
        self, dsn: str, *, port: int | None = None, statement_timeout_seconds: int = 30, **environment: str
    ) -> LoaderProcess: ...


@pytest.fixture(scope="session")
def local_emulator(emulator_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """For `replay_environment`, whose stack and secrets have the names of the local environment's: nothing else is on it."""
    folder = tmp_path_factory.mktemp("emulator")
    running = emulators.start(folder, emulator_python, port=None, mqtt_port=None, before=None)
    try:
        yield running
    finally:
        processes.stop(running.process)


@pytest.fixture(scope="session")
def aws(emulator: Emulator) -> AwsSession:
    """Clients of the emulator."""
    return emulator_session(emulator.port)


@pytest.fixture(scope="session")
def stamp_secret(aws: AwsSession) -> str:
    """The ARN of a secret with the stamp that the tests' lines carry."""
    text = json.dumps({"stamp": STAMP, "earlier": []})
    arn: str = aws.client("secretsmanager").create_secret(Name=f"stamp-{os.getpid()}", SecretString=text)["ARN"]
    return arn


@pytest.fixture
def intake(aws: AwsSession) -> Intake:
    """A bucket and a queue for one test."""
    return Intake(aws, f"intake-{os.getpid()}-{next(_names)}")


@pytest.fixture
def start_loader(
    emulator: Emulator, aws: AwsSession, stamp_secret: str, intake: Intake, tmp_path: Path
) -> Iterator[StartLoader]:
    """Starts loaders of `intake`, in processes that are gone when the test is over."""
    secrets: dict[tuple[str, int | None], str] = {}
    with ExitStack() as running:

        def start(
            dsn: str, *, port: int | None = None, statement_timeout_seconds: int = 30, **environment: str
        ) -> LoaderProcess:
            if "DATABASE_SECRET_ARN" not in environment and (dsn, port) not in secrets:
                secrets[dsn, port] = _make_secret(aws, dsn, port)
            return running.enter_context(
                LoaderProcess(
                    emulators.environment(emulator)
                    | {
                        "DATABASE_SECRET_ARN": secrets.get((dsn, port), ""),
                        "STAMP_SECRET_ARN": stamp_secret,
                        "BUCKET_NAME": intake.bucket,
                        "OBJECT_QUEUE_URL": intake.queue_url,
                        "RETENTION_DAYS": "30",
                        "MAX_FUTURE_SECONDS": "3600",
                        "STATEMENT_TIMEOUT_SECONDS": str(statement_timeout_seconds),
                        "TMPDIR": str(tmp_path),
                    }
                    | environment,
                    tmp_path / f"loader-{next(_names)}.log",
                )
            )

        yield start


def _make_secret(aws: AwsSession, dsn: str, port: int | None) -> str:
    """A secret as the deployment makes it: with it one is the loader's role and no more."""
    address = conninfo_to_dict(dsn)
    role, password = "iot_loader", f"loader-{os.getpid()}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        set_login(connection, role, password)
    secret = {
        "host": address["host"],
        "port": port or int(address["port"] or 5432),
        "dbname": address["dbname"],
        "username": role,
        "password": password,
        "ca": Path(str(address["sslrootcert"])).read_text(),
    }
    name = f"loader-{os.getpid()}-{next(_names)}"
    arn: str = aws.client("secretsmanager").create_secret(Name=name, SecretString=json.dumps(secret))["ARN"]
    return arn
