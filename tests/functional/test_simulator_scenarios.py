"""A scenario through a real broker, twice: the same bytes in the same order, and a certificate revoked in the middle."""

import multiprocessing
import os
import threading
from collections import defaultdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import boto3
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from certs import pem
from certs.endpoint import write_trust_anchor
from certs.store import IdentityStore
from local import emulator as emulators
from local.state import Emulator
from simulator.accounts.report import Progress, RunReport
from simulator.revocation import Revocation
from simulator.run.engine import run
from simulator.scenario import behaviours as kinds
from simulator.scenario.config import SimulatorConfig

HOST = emulators.HOST
PATIENCE_SECONDS = 30.0
_fleets = count(1)


class Registered:
    """A store of devices that the broker knows, and all that the broker delivers of them."""

    def __init__(self, emulator: Emulator, folder: Path, devices: int) -> None:
        self.prefix = f"scenario-{os.getpid()}-{next(_fleets)}-"
        self.emulator = emulator
        self.iot: Any = boto3.client(
            "iot",
            region_name=emulators.REGION,
            endpoint_url=f"http://{HOST}:{emulator.port}",
            aws_access_key_id=emulators.ACCOUNT,
            aws_secret_access_key=emulators.SECRET_KEY,
        )
        self.names = SimulatorConfig(device_count=devices, prefix=self.prefix).thing_names()
        self.store = IdentityStore(folder / "store")
        self.store.ensure([*self.names, f"{self.prefix}subscriber"])
        write_trust_anchor(self.store, emulators.authority(emulator))
        for name in [*self.names, f"{self.prefix}subscriber"]:
            text = self.store.certificate_file(name).read_text()
            self.iot.register_certificate_without_ca(certificatePem=text, status="ACTIVE")

    def run(self, config: SimulatorConfig, revocation: Revocation | None = None) -> RunReport:
        identities = [self.store.identity(name) for name in self.names]
        return run(config, identities, HOST, self.emulator.mqtt_port, stop=threading.Event(), revoke=revocation)

    def statuses(self) -> list[str]:
        """Of the devices' certificates."""
        ids = [pem.certificate_id(self.store.certificate(name)) for name in self.names]
        found = [self.iot.describe_certificate(certificateId=each)["certificateDescription"] for each in ids]
        return [each["status"] for each in found]

    def delivered(self, config: SimulatorConfig) -> tuple[RunReport, dict[str, list[bytes]]]:
        """Run it, and return what has arrived by device, in order."""
        payloads: dict[str, list[bytes]] = defaultdict(list)
        connected, ended = threading.Event(), threading.Event()
        end = f"iot/end/{self.prefix}"

        def received(data: mqtt5.PublishReceivedData) -> None:
            if data.publish_packet.topic == end:
                ended.set()
                return
            payloads[data.publish_packet.topic.rpartition("/")[2]].append(bytes(data.publish_packet.payload or b""))

        identity = self.store.identity(f"{self.prefix}subscriber")
        client = mqtt5_client_builder.mtls_from_path(
            str(identity.certificate_file),
            str(identity.key_file),
            endpoint=HOST,
            port=self.emulator.mqtt_port,
            ca_filepath=str(identity.root_ca_file),
            client_id=identity.thing_name,
            on_publish_received=received,
            on_lifecycle_connection_success=lambda _: connected.set(),
        )
        client.start()
        try:
            assert connected.wait(PATIENCE_SECONDS)
            topics = [end, *(f"iot/telemetry/{name}" for name in self.names)]
            subscriptions = [mqtt5.Subscription(topic, mqtt5.QoS.AT_LEAST_ONCE) for topic in topics]
            client.subscribe(mqtt5.SubscribePacket(subscriptions=subscriptions)).result(PATIENCE_SECONDS)
            report = self.run(config)
            # The emulator acknowledges a message when it has written it to its subscribers: this one is behind them all.
            client.publish(mqtt5.PublishPacket(topic=end, qos=mqtt5.QoS.AT_LEAST_ONCE)).result(PATIENCE_SECONDS)
            assert ended.wait(PATIENCE_SECONDS)
        finally:
            client.stop()
        return report, {name: list(each) for name, each in payloads.items()}


def test_a_seed_and_a_start_are_the_same_bytes_in_the_same_order(emulator: Emulator, tmp_path: Path) -> None:
    registered = Registered(emulator, tmp_path, 4)
    config = SimulatorConfig(
        device_count=4,
        prefix=registered.prefix,
        interval_seconds=0.04,
        duration_seconds=2.5,
        batch=3,
        topic="iot/telemetry",
        seed=7,
        start=datetime(2026, 11, 21, tzinfo=UTC),
        behaviours=(
            # All between two messages: one that is in flight when the line is cut is sent again, out of order.
            kinds.Offline(at_seconds=0.54, for_seconds=0.5, share=0.5),
            kinds.DisconnectStorm(at_seconds=1.5, for_seconds=0.2, share=0.5),
            kinds.Reboot(at_seconds=1.26, for_seconds=0.2, keep_backlog=False, devices=(1,)),
            kinds.ClockSkew(at_seconds=1, offset_seconds=-60, devices=(2,)),
            # Often enough that no fleet goes without: what befalls a device follows from its name, which is another each time.
            kinds.Duplicate(probability=0.4, after=1),
            kinds.Reorder(window=3, share=0.5),
            kinds.Malformed(probability=0.4),
        ),
    )
    (first_report, first), (second_report, second) = (registered.delivered(config) for _ in range(2))
    assert first_report.complete
    assert second_report.complete
    assert first_report.duplicates_published == second_report.duplicates_published > 5
    assert first_report.malformed_published == second_report.malformed_published > 2
    assert first_report.reconnects >= 3
    assert set(first) == set(registered.names)
    assert {name: set(each) for name, each in first.items()} == {name: set(each) for name, each in second.items()}
    if first_report.retries == second_report.retries == 0:  # else this machine has not acknowledged within 70 ms
        assert first == second


def test_a_revoked_device_is_shut_out_until_the_scenario_begins_again(emulator: Emulator, tmp_path: Path) -> None:
    registered = Registered(emulator, tmp_path, 2)
    config = SimulatorConfig(
        device_count=2,
        prefix=registered.prefix,
        interval_seconds=0.05,
        duration_seconds=3,
        batch=2,
        topic="iot/telemetry",
        behaviours=(kinds.Revoke(at_seconds=0.5, reconnect_seconds=0.5, devices=(2,)),),
    )
    revocation = Revocation(registered.iot, registered.store)
    report = registered.run(config, revocation)
    assert revocation.revoked == [registered.names[1]]
    acknowledged = {
        name: sum(last - first + 1 for first, last in report.acknowledged[name]) for name in registered.names
    }
    assert acknowledged[registered.names[0]] == 60
    assert 10 <= acknowledged[registered.names[1]] <= 25
    assert report.complete
    assert report.readings_excused == 60 - acknowledged[registered.names[1]]

    assert registered.statuses() == ["ACTIVE", "INACTIVE"]
    revocation.restore(registered.names)
    assert registered.statuses() == ["ACTIVE", "ACTIVE"]


def test_what_is_sent_to_every_process_of_a_run_is_for_the_first_of_them(emulator: Emulator, tmp_path: Path) -> None:
    """As `timeout` and systemd do: workers end when they are told, with their devices' account."""
    registered = Registered(emulator, tmp_path, 4)
    config = SimulatorConfig(
        device_count=4, prefix=registered.prefix, interval_seconds=0.05, batch=2, topic="iot/telemetry", workers=2
    )
    stop = threading.Event()

    def show(progress: Progress) -> None:
        if progress.readings_acknowledged and not stop.is_set():
            for worker in multiprocessing.active_children():
                worker.terminate()
            stop.set()

    identities = [registered.store.identity(name) for name in registered.names]
    report = run(config, identities, HOST, emulator.mqtt_port, stop=stop, on_progress=show)
    assert report.complete
    assert (report.devices, len(report.acknowledged)) == (4, 4)
    assert report.readings_acknowledged > 0
