"""A device's shadow, jobs and last will against the emulator's real services, over MQTT with its certificate."""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from certs.endpoint import write_trust_anchor
from certs.store import DeviceIdentity, IdentityStore
from infra.pipeline.rule_file import SHADOW_OF_SENDER
from local import emulator as emulators
from local import processes
from local.firehose import process as firehose
from local.session import AwsSession
from local.state import Emulator
from ops.paths import ROOT
from simulator.devices.management import Management, Packet, Restart, Send, Subscribe
from simulator.run import session
from simulator.run.engine import run
from simulator.scenario.config import SimulatorConfig
from tests.e2e.mqtt_device import CONNECTED, Device, Will, device
from tests.functional.conftest import wait_until

RULE = json.loads((ROOT / "iot_rules" / "device_status_to_shadow.json").read_text())
_things = count(1)


@dataclass
class Registered:
    """A thing with a certificate, and what AWS says of it."""

    emulator: Emulator
    identity: DeviceIdentity
    aws: AwsSession
    jobs: "count[int]" = field(default_factory=lambda: count(1))

    @property
    def name(self) -> str:
        return self.identity.thing_name

    def job(self, document: Any) -> str:
        """A job for this thing; its id."""
        job_id = f"{self.name}-job-{next(self.jobs)}"
        arn = f"arn:aws:iot:{emulators.REGION}:{emulators.ACCOUNT}:thing/{self.name}"
        self.aws.client("iot").create_job(jobId=job_id, targets=[arn], document=json.dumps(document))
        return job_id

    def execution(self, job_id: str) -> tuple[str, dict[str, str]]:
        found = self.aws.client("iot").describe_job_execution(jobId=job_id, thingName=self.name)["execution"]
        return found["status"], found.get("statusDetails", {}).get("detailsMap", {})

    def reported(self) -> dict[str, Any]:
        try:
            payload = self.aws.client("iot-data").get_thing_shadow(thingName=self.name)["payload"].read()
        except ClientError:
            return {}
        found: dict[str, Any] = json.loads(payload)["state"]["reported"]
        return found


@pytest.fixture
def thing(emulator: Emulator, aws: AwsSession, tmp_path: Path) -> Registered:
    name = f"managed-{os.getpid()}-{next(_things)}"
    store = IdentityStore(tmp_path / "store")
    store.ensure([name])
    write_trust_anchor(store, emulators.authority(emulator))
    iot = aws.client("iot")
    iot.create_thing(thingName=name)
    pem = store.certificate_file(name).read_text()
    arn = iot.register_certificate_without_ca(certificatePem=pem, status="ACTIVE")["certificateArn"]
    iot.attach_thing_principal(thingName=name, principal=arn)
    return Registered(emulator, store.identity(name), aws)


class Driver:
    """Does what Management says, on one connection."""

    def __init__(self, management: Management, client: Device) -> None:
        self.management = management
        self.client = client
        self.restart = False
        self.do(management.connected())

    def do(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            match packet:
                case Subscribe(topic):
                    assert self.client.subscribe(topic) == "GRANTED_QOS_1"
                case Send(topic, payload):
                    assert self.client.publish(topic, payload) == "SUCCESS"
                case Restart():
                    self.restart = True

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come about"
            try:
                topic, payload = self.client.received(0.02)
            except queue.Empty:
                pass
            else:
                self.do(self.management.received(topic, payload, time.monotonic()))
            self.do(self.management.tick(time.monotonic()))


def connection(thing: Registered, management: Management) -> Any:
    return device(thing.emulator, thing.identity, client_id=thing.name, will=Will(*management.will()))


@pytest.mark.parametrize("protocol", ["mqtt5", "mqtt311"])
def test_a_managed_fleet_updates_itself_while_it_sends_telemetry(
    thing: Registered, protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator as a whole: job, reboot and last words beside readings, of which none is missing."""
    monkeypatch.setattr(session, "Management", partial(Management, update_seconds=0.4))
    config = SimulatorConfig(
        device_count=1,
        interval_seconds=0.05,
        batch=5,
        duration_seconds=None,
        topic=f"iot/telemetry-{thing.name}",
        managed=True,
        protocol=protocol,
        workers=1,
    )
    stop = threading.Event()
    update = thing.job({"operation": "firmware_update", "version": "2.1.0"})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, config, [thing.identity], emulators.HOST, thing.emulator.mqtt_port, stop=stop)
        try:
            wait_until(lambda: running.done() or thing.execution(update)[0] == "SUCCEEDED", "the update")
            wait_until(lambda: running.done() or thing.reported()["connected"] is True, "the return")
        finally:
            stop.set()
        report = running.result()
    assert thing.execution(update)[0] == "SUCCEEDED"
    assert thing.reported() == {"firmware": "2.1.0", "connected": False}
    assert report.management_failures == 0
    assert report.reconnects == 1, "the reboot"
    assert report.readings_generated == report.readings_acknowledged > 0


def test_jobs_of_every_kind_run_one_after_another_and_the_shadow_follows(thing: Registered) -> None:
    management = Management(thing.name, firmware="1.0.0", update_seconds=0.4)
    update = thing.job({"operation": "firmware_update", "version": "2.1.0"})
    unknown = thing.job({"operation": "self_destruct\n"})
    failing = thing.job({"operation": "firmware_update", "version": "3.0.0", "simulate": "fail"})
    assert thing.execution(update)[0] == "QUEUED"
    seen = []
    with connection(thing, management) as client:
        assert client.outcome == CONNECTED
        driver = Driver(management, client)

        def rebooting() -> bool:
            if (state := thing.execution(update)) not in seen:
                seen.append(state)
            return driver.restart

        driver.until(rebooting, "the reboot")
        assert thing.reported() == {"firmware": "1.0.0", "connected": True}
        driver.do(management.disconnecting())
    assert thing.reported()["connected"] is False
    assert {status for status, _ in seen} == {"IN_PROGRESS"}
    progress = [int(details["progress"]) for _, details in seen if details]
    assert progress == sorted(progress)
    assert progress[-1] == 90
    with connection(thing, management) as client:
        driver = Driver(management, client)
        driver.until(lambda: thing.execution(failing)[0] == "FAILED", "the third job's end")
        assert thing.execution(update) == ("SUCCEEDED", {"progress": "100", "firmware": "2.1.0"})
        status, details = thing.execution(unknown)
        assert status == "REJECTED"
        assert "self_destruct" in details["reason"]
        assert thing.execution(failing)[1]["reason"] == "the update was told to fail"
        assert thing.reported() == {"firmware": "2.1.0", "connected": True}
        # The device hears of a job that comes while it is connected, and of none that an operator takes back.
        later = thing.job({"operation": "firmware_update", "version": "2.2.0"})
        driver.until(lambda: thing.execution(later)[1].get("progress") == "25", "the start of the fourth job")
        thing.aws.client("iot").cancel_job(jobId=later, force=True)
        last = thing.job({"operation": "firmware_update", "version": "2.1.0"})
        driver.until(lambda: thing.execution(last)[0] == "SUCCEEDED", "the end of the fifth")
        assert thing.execution(later)[0] == "CANCELED"
        assert not driver.restart, "it runs that version already"


def test_a_lost_connection_sets_the_shadow_offline(thing: Registered, tmp_path: Path) -> None:
    """The will, through the rule as it is deployed, and through the process that reads what the emulator does not."""
    iot = thing.aws.client("iot")
    assert RULE["actions"][0]["republish"]["topic"] == SHADOW_OF_SENDER
    name = f"Status_{thing.name.replace('-', '_')}"
    sql = RULE["sql"].replace("iot/status/+", f"iot/status-{thing.name}/+")
    iot.create_topic_rule(ruleName=name, topicRulePayload={"sql": sql, "actions": RULE["actions"]})
    delivering = firehose.start(tmp_path / "firehose", thing.emulator, iot)
    management = Management(thing.name, firmware="1.0.0", status_topic=f"iot/status-{thing.name}")
    try:
        with connection(thing, management) as client:
            driver = Driver(management, client)
            driver.until(lambda: thing.reported().get("connected") is True, "the shadow")
        # Its end sends no DISCONNECT.
        wait_until(lambda: thing.reported()["connected"] is False, "the will in the shadow")
        assert thing.reported()["firmware"] == "1.0.0"
        # A will that comes late, of a connection before this one, is not the last word.
        with connection(thing, management) as client:
            driver = Driver(management, client)
            driver.until(lambda: thing.reported()["connected"] is True, "the return")
            thing.aws.client("iot-data").publish(topic=management.will()[0], qos=1, payload=management.will()[1])
            wait_until(lambda: thing.reported()["connected"] is False, "the late will")
            driver.until(lambda: thing.reported()["connected"] is True, "the device's objection")
        # A twin goes with its rule.
        iot.delete_topic_rule(ruleName=name)
        wait_until(lambda: not any(name in each for each in rule_names(iot)), "the end of the twin")
    finally:
        processes.stop(delivering)
        for each in rule_names(iot):
            if name in each:
                iot.delete_topic_rule(ruleName=each)


def rule_names(iot: Any) -> list[str]:
    return [rule["ruleName"] for rule in iot.list_topic_rules()["rules"]]
