"""The process that stands for Data Firehose, killed and refused a disk: each record is in S3 once."""

import gzip
import os
import shutil
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from local import emulator as emulators
from local import processes
from local.firehose import CLIENT_ID
from local.firehose import process as firehose
from local.processes import ProcessRef
from local.session import AwsSession, emulator_session
from local.state import Emulator
from tests.functional.conftest import wait_until

_names = count(1)
_ROLE = "arn:aws:iam::111122223333:role/firehose"


class Delivered:
    """A rule, its stream and its bucket, and the process that delivers."""

    def __init__(self, emulator: Emulator, aws: AwsSession, folder: Path) -> None:
        self.name = f"delivered-{os.getpid()}-{next(_names)}"
        self.rule = self.name.replace("-", "_")
        self.spool = folder / "spool" / self.name
        self._emulator, self._folder = emulator, folder
        self._iot, self._s3, self._data = aws.client("iot"), aws.client("s3"), aws.client("iot-data")
        self._s3.create_bucket(Bucket=self.name)
        self._firehose: Any = aws.client("firehose")
        self._iot.create_thing(thingName=CLIENT_ID)  # a thing's connectivity can be asked for
        indexing = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"}
        self._iot.update_indexing_configuration(thingIndexingConfiguration=indexing)
        self._firehose.create_delivery_stream(
            DeliveryStreamName=self.name,
            ExtendedS3DestinationConfiguration={
                "RoleARN": _ROLE,
                "BucketARN": f"arn:aws:s3:::{self.name}",
                "BufferingHints": {"IntervalInSeconds": 900, "SizeInMBs": 1},
                "CompressionFormat": "GZIP",
            },
        )
        action = {"deliveryStreamName": self.name, "roleArn": _ROLE, "separator": "\n"}
        sql = f"SELECT * FROM '{self.name}/+'"
        self._iot.create_topic_rule(
            ruleName=self.rule, topicRulePayload={"sql": sql, "actions": [{"firehose": action}]}
        )
        self.process: ProcessRef | None = None

    def start(self) -> None:
        self.process = firehose.start(self._folder, self._emulator, self._iot)

    def publish(self, number: int) -> None:
        self._data.publish(topic=f"{self.name}/a", qos=1, payload=b'{"n": %d}' % number)

    def spooled(self) -> bytes:
        return b"".join(file.read_bytes() for file in sorted(self.spool.glob("*")))

    def ended(self) -> bool:
        assert self.process
        return not processes.is_running(self.process)

    def kill(self) -> None:
        """Returns when the broker has noticed: what it has sent by then, it sends again only half a minute later."""
        assert self.process
        os.kill(self.process.pid, signal.SIGKILL)
        wait_until(self.ended, "the end of the process")
        wait_until(lambda: not self.is_connected(), "the end of its connection")

    def is_connected(self) -> bool:
        found = self._iot.search_index(queryString=f"thingName:{CLIENT_ID}")["things"]
        return bool(found[0]["connectivity"]["connected"])

    def records(self) -> list[bytes]:
        """What is in S3 once the process has ended in an orderly way."""
        if self.process:
            processes.stop(self.process)
            self.process = None
        keys = [each["Key"] for each in self._s3.list_objects_v2(Bucket=self.name).get("Contents", ())]
        bodies = [gzip.decompress(self._s3.get_object(Bucket=self.name, Key=key)["Body"].read()) for key in keys]
        return sorted(line for body in bodies for line in body.splitlines())

    def close(self) -> None:
        if self.process:
            processes.stop(self.process)
        self._iot.delete_thing(thingName=CLIENT_ID)
        self._iot.delete_topic_rule(ruleName=self.rule)
        self._firehose.delete_delivery_stream(DeliveryStreamName=self.name)


@pytest.fixture
def delivered(emulator: Emulator, aws: AwsSession, tmp_path: Path) -> Iterator[Delivered]:
    made = Delivered(emulator, aws, tmp_path / "firehose")
    try:
        yield made
    finally:
        made.close()


def test_a_killed_process_is_followed_by_one_that_delivers_each_record_once(delivered: Delivered) -> None:
    """What the first had spooled, what came while none ran, and what comes after: the session and the spool survive."""
    delivered.start()
    delivered.publish(1)
    wait_until(lambda: b'{"n": 1}\n' in delivered.spooled(), "the first record")
    delivered.kill()
    delivered.publish(2)
    delivered.start()
    # Twins of a record come one after the other, and in order: those of 3 are there when the last one is.
    for number in (3, 4):
        delivered.publish(number)
        wait_until(lambda number=number: b'{"n": %d}\n' % number in delivered.spooled(), "the record")  # type: ignore[misc]
    assert delivered.records() == [b'{"n": 1}', b'{"n": 2}', b'{"n": 3}', b'{"n": 4}']


def test_a_record_that_the_disk_does_not_take_is_not_acknowledged(emulator_python: Path, tmp_path: Path) -> None:
    """The process ends rather, and the broker sends the record again to the next one."""
    emulator = emulators.start(tmp_path, emulator_python, port=None, mqtt_port=None, before=None, retransmit_seconds=1)
    refused = Delivered(emulator, emulator_session(emulator.port), tmp_path / "firehose")
    try:
        refused.start()
        shutil.rmtree(refused.spool)
        refused.publish(1)
        wait_until(refused.ended, "the end of the process")
        refused.start()
        assert refused.process
        assert "a message cannot be kept: FileNotFoundError" in Path(refused.process.log).read_text()
        wait_until(lambda: b'{"n": 1}\n' in refused.spooled(), "the record, again")
        # Sent again in a second, it may have come twice where this machine is slow.
        assert set(refused.records()) == {b'{"n": 1}'}
    finally:
        refused.close()
        processes.stop(emulator.process)


def test_what_no_deployed_rule_writes_is_dropped_and_ends_nothing(delivered: Delivered, aws: AwsSession) -> None:
    """Otherwise it would come back to each process that is started, and end that one too."""
    delivered.start()
    for topic in ("local/firehose/none/none", "local/republish/none/0"):
        aws.client("iot-data").publish(topic=topic, qos=1, payload=b"{}")
    delivered.publish(1)
    wait_until(lambda: b'{"n": 1}\n' in delivered.spooled(), "the record behind them")
    assert not delivered.ended()
    assert delivered.records() == [b'{"n": 1}']
