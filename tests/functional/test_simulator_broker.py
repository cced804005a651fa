"""The simulator against a real MQTT broker over mutual TLS, directly and through a line that can be cut."""

import json
import multiprocessing
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import orjson
import pyarrow.parquet
import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from certs.endpoint import write_trust_anchor
from certs.store import DeviceIdentity, IdentityStore
from local import emulator as emulators
from local.state import Emulator
from ops.errors import UserError
from simulator.accounts.report import Progress, RunReport
from simulator.devices.signals import DeviceSignals
from simulator.mqtt import publishing
from simulator.run import fleet as fleet_module
from simulator.run.engine import run
from simulator.scenario.config import SimulatorConfig

ROOT = Path(__file__).parents[2]
HOST = emulators.HOST
PATIENCE_SECONDS = 30.0
_fleets = count(1)


@dataclass(frozen=True)
class Devices:
    """A fleet of its own names, registered with the broker."""

    prefix: str
    store: IdentityStore
    identities: list[DeviceIdentity]
    iot: Any

    @property
    def config(self) -> SimulatorConfig:
        return SimulatorConfig(
            device_count=len(self.identities),
            prefix=self.prefix,
            interval_seconds=0.02,
            duration_seconds=1.5,
            topic="iot/telemetry",
        )

    def deactivate(self, identity: DeviceIdentity) -> None:
        for found in self.iot.list_certificates(pageSize=250)["certificates"]:
            pem = self.iot.describe_certificate(certificateId=found["certificateId"])["certificateDescription"]
            if pem["certificatePem"].strip() == identity.certificate_file.read_text().strip():
                self.iot.update_certificate(certificateId=found["certificateId"], newStatus="INACTIVE")
                return
        raise AssertionError(identity.thing_name)


@pytest.fixture(scope="module")
def iot(emulator: Emulator) -> Any:
    return boto3.client(
        "iot",
        region_name=emulators.REGION,
        endpoint_url=f"http://{HOST}:{emulator.port}",
        aws_access_key_id=emulators.ACCOUNT,
        aws_secret_access_key=emulators.SECRET_KEY,
    )


@pytest.fixture
def devices(emulator: Emulator, iot: Any, tmp_path: Path) -> Devices:
    prefix = f"simulated-{os.getpid()}-{next(_fleets)}-"
    names = SimulatorConfig(device_count=5, prefix=prefix).thing_names()
    store = IdentityStore(tmp_path / "store")
    store.ensure(names)
    write_trust_anchor(store, emulators.authority(emulator))
    for name in names:
        pem = store.certificate_file(name).read_text()
        iot.register_certificate_without_ca(certificatePem=pem, status="ACTIVE")
    return Devices(prefix, store, [store.identity(name) for name in names], iot)


class Subscriber:
    """Keeps every reading that the broker delivers for a fleet."""

    def __init__(self, emulator: Emulator, identity: DeviceIdentity, prefix: str) -> None:
        self.readings: list[tuple[str, dict[str, Any]]] = []
        self.payloads: list[bytes] = []
        self._prefix = prefix
        connected = threading.Event()
        self._client = mqtt5_client_builder.mtls_from_path(
            str(identity.certificate_file),
            str(identity.key_file),
            endpoint=HOST,
            port=emulator.mqtt_port,
            ca_filepath=str(identity.root_ca_file),
            client_id=f"{prefix}subscriber",
            on_publish_received=self._received,
            on_lifecycle_connection_success=lambda _: connected.set(),
        )
        self._client.start()
        assert connected.wait(PATIENCE_SECONDS)
        everything = mqtt5.Subscription("iot/telemetry/#", mqtt5.QoS.AT_LEAST_ONCE)
        self._client.subscribe(mqtt5.SubscribePacket(subscriptions=[everything])).result(PATIENCE_SECONDS)

    def _received(self, data: mqtt5.PublishReceivedData) -> None:
        thing = data.publish_packet.topic.rpartition("/")[2]
        if thing.startswith(self._prefix):
            self.payloads.append(data.publish_packet.payload)
            self.readings += [(thing, row) for row in orjson.loads(data.publish_packet.payload)["readings"]]

    def arrived(self) -> Counter[tuple[str, int]]:
        return Counter((thing, row["seq"]) for thing, row in list(self.readings))

    def stop(self) -> None:
        self._client.stop()


@pytest.fixture
def subscriber(emulator: Emulator, devices: Devices) -> Iterator[Subscriber]:
    subscriber = Subscriber(emulator, devices.identities[0], devices.prefix)
    yield subscriber
    subscriber.stop()


class Line:
    """A TCP line to the broker that can be cut, and on which the broker's answers can be held back."""

    def __init__(self, port: int) -> None:
        self._broker_port = port
        self._listener = socket.create_server((HOST, 0), backlog=100)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self.answers = True
        """Whether what the broker says reaches the devices; if not, it is lost."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    def cut(self) -> int:
        """Break every connection without a goodbye; new ones are taken."""
        with self._lock:
            ends = list(self._pairs)
            for end in ends:
                end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2

    def close(self) -> None:
        self._closed.set()
        self._thread.join(PATIENCE_SECONDS)
        for end in [self._listener, *self._pairs]:
            end.close()

    def _forward(self) -> None:
        while not self._closed.is_set():
            for ready in select.select([self._listener, *self._pairs], [], [], 0.05)[0]:
                if ready is self._listener:
                    self._accept()
                elif ready in self._pairs:
                    self._pass_on(ready)

    def _accept(self) -> None:
        device, _ = self._listener.accept()
        broker = socket.create_connection((HOST, self._broker_port), PATIENCE_SECONDS)
        with self._lock:
            self._pairs[device], self._pairs[broker] = broker, device

    def _pass_on(self, source: socket.socket) -> None:
        target = self._pairs[source]
        try:
            data = source.recv(65536)
            from_broker = source.getpeername()[1] == self._broker_port if data else False
            if data and (self.answers or not from_broker):
                target.sendall(data)
        except OSError:
            data = b""
        if not data:
            with self._lock:
                for end in (source, target):
                    del self._pairs[end]
                    end.close()


@pytest.fixture
def line(emulator: Emulator) -> Iterator[Line]:
    line = Line(emulator.mqtt_port)
    yield line
    line.close()


def eventually(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def numbers(ranges: tuple[tuple[int, int], ...]) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


def acknowledged(report: RunReport) -> set[tuple[str, int]]:
    return {(thing, seq) for thing, ranges in report.acknowledged.items() for seq in numbers(ranges)}


def simulate(
    config: SimulatorConfig,
    devices: Devices,
    port: int,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    return run(config, devices.identities, HOST, port, stop=stop or threading.Event(), on_progress=on_progress)


def test_every_acknowledged_reading_has_arrived_once_with_the_values_of_its_seed(
    emulator: Emulator, devices: Devices, subscriber: Subscriber
) -> None:
    config = devices.config
    seen: list[Progress] = []
    report = simulate(config, devices, emulator.mqtt_port, on_progress=seen.append)
    assert report.complete
    assert report.readings_acknowledged == 5 * 75
    eventually(lambda: len(subscriber.readings) >= report.readings_acknowledged)
    assert subscriber.arrived() == dict.fromkeys(acknowledged(report), 1)
    assert len(subscriber.payloads) == report.messages_acknowledged < report.readings_acknowledged / 10
    assert max(map(len, subscriber.payloads)) <= 5000

    start_ms = round(report.started_at.timestamp() * 1000)
    for index, thing in enumerate(config.thing_names()):
        signals = DeviceSignals(config, thing)
        due_ms = [start_ms + round((index / 5 + n) * config.interval_seconds * 1000) for n in range(75)]
        expected = [signals.reading(ts, n) for n, ts in enumerate(due_ms)]
        assert sorted((row for name, row in subscriber.readings if name == thing), key=lambda r: r["seq"]) == expected

    assert seen
    assert {progress.phase for progress in seen} <= {"connecting", "running", "finishing", "disconnecting"}
    assert seen[-1].connected == 5
    assert 0 < (report.ack_p50_ms or 0) <= (report.ack_p95_ms or 0) <= (report.ack_max_ms or 0)


def test_readings_without_an_envelope_over_basic_ingest_are_acknowledged(emulator: Emulator, devices: Devices) -> None:
    config = replace(devices.config, batch=1, topic="$aws/rules/NobodyListens/iot/telemetry")
    report = simulate(config, devices, emulator.mqtt_port)
    assert report.complete
    assert report.messages_acknowledged == report.readings_acknowledged == 375


@pytest.mark.parametrize("way", ["private", "public"])
def test_both_ways_to_publish_give_the_same_account(
    emulator: Emulator, devices: Devices, subscriber: Subscriber, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publishing.private_publish() is not None, "awscrt has changed: see simulator/mqtt/publishing.py"
    if way == "public":
        monkeypatch.setattr(publishing, "_PRIVATE_PUBLISH", None)
    report = simulate(replace(devices.config, duration_seconds=0.5), devices, emulator.mqtt_port)
    assert report.complete
    assert report.acknowledged == dict.fromkeys(devices.config.thing_names(), ((0, 24),))
    eventually(lambda: len(subscriber.readings) >= 125)
    assert subscriber.arrived() == dict.fromkeys(acknowledged(report), 1)
    refused = simulate(
        replace(devices.config, duration_seconds=None, topic="$aws/reserved"),
        devices,
        emulator.mqtt_port,
        on_progress=_interrupt_once_refused,
    )
    assert (refused.readings_acknowledged, refused.first_publish_failure) == (0, "PUBACK TOPIC_NAME_INVALID")


def _interrupt_once_refused(progress: Progress) -> None:
    if progress.publish_failures:
        raise KeyboardInterrupt


def test_an_awscrt_that_publishes_in_another_way_is_left_to_its_public_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def publish(self: Any, publish_packet: Any) -> None:
        _awscrt.mqtt5_client_publish(self._binding, publish_packet)  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setattr(mqtt5.Client, "publish", publish)
    assert publishing._find_private_publish() is None


def test_mqtt_311_reconnects_and_loses_nothing(devices: Devices, subscriber: Subscriber, line: Line) -> None:
    cuts: list[int] = []
    connected: list[int] = []

    def cut_once(progress: Progress) -> None:
        if cuts:
            connected.append(progress.connected)
        if progress.phase == "running" and progress.connected == 5 and not cuts:
            cuts.append(line.cut())

    config = replace(devices.config, duration_seconds=3.0, protocol="mqtt311")
    report = simulate(config, devices, line.port, on_progress=cut_once)
    assert (cuts, report.reconnects, report.connected) == ([5], 5, 5)
    assert min(connected) < 5
    assert report.complete
    assert report.readings_acknowledged == 5 * 150
    eventually(lambda: set(subscriber.arrived()) >= acknowledged(report))
    assert set(subscriber.arrived()) == acknowledged(report)


def test_two_workers_are_one_fleet_with_one_account(
    emulator: Emulator, devices: Devices, subscriber: Subscriber, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    truth = tmp_path / "truth.parquet"
    start = datetime(2026, 1, 2, tzinfo=UTC)
    report = run(
        replace(devices.config, workers=2, start=start, duration_seconds=1.5),
        devices.identities,
        HOST,
        emulator.mqtt_port,
        stop=threading.Event(),
        on_progress=seen.append,
        oracle=truth,
    )
    assert report.complete
    assert (report.devices, report.connected, report.readings_acknowledged) == (5, 5, 375)
    assert report.acknowledged == dict.fromkeys(devices.config.thing_names(), ((0, 74),))
    eventually(lambda: len(subscriber.readings) >= 375)
    assert subscriber.arrived() == dict.fromkeys(acknowledged(report), 1)
    # Each device has the readings that it would have in a fleet of one process.
    first = {thing: row["ts"] for thing, row in subscriber.readings if row["seq"] == 0}
    due_ms = [int(start.timestamp() * 1000) + 4 * index for index in range(5)]
    assert first == dict(zip(devices.config.thing_names(), due_ms, strict=True))
    assert seen[-1].devices == 5
    assert report.bytes == sum(map(len, subscriber.payloads))
    assert report.oracle_fault is None
    assert pyarrow.parquet.read_metadata(truth).num_rows == 375
    assert [path.name for path in tmp_path.glob("truth*")] == ["truth.parquet"]


def test_a_worker_that_is_killed_is_one_line_and_the_others_end_in_order(emulator: Emulator, devices: Devices) -> None:
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.readings_acknowledged and not killed:
            worker = next(child for child in multiprocessing.active_children() if child.name == "simulator-2")
            assert worker.pid is not None
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    config = replace(devices.config, workers=2, duration_seconds=None)
    with pytest.raises(UserError) as caught:
        simulate(config, devices, emulator.mqtt_port, on_progress=kill_one)
    line = str(caught.value)
    assert line.startswith(f"worker 2 of 2 (process {killed[0]}, 2 devices) was ended by SIGKILL")
    figures = re.search(r"have ([\d,]+) of ([\d,]+) readings acknowledged", line)
    assert figures is not None
    assert figures[1] == figures[2] != "0"
    assert "\n" not in line
    assert not multiprocessing.active_children()


def test_cut_connections_cost_no_reading(
    emulator: Emulator, devices: Devices, subscriber: Subscriber, line: Line
) -> None:
    cuts: list[int] = []

    def cut_now_and_then(progress: Progress) -> None:
        if progress.phase == "running" and progress.connected == 5 and len(cuts) < 2:
            cuts.append(line.cut())

    config = replace(devices.config, duration_seconds=6.0)
    report = simulate(config, devices, line.port, on_progress=cut_now_and_then)
    assert cuts == [5, 5]
    assert report.reconnects == 10
    assert report.complete
    assert report.readings_acknowledged == report.readings_generated == 5 * 300
    eventually(lambda: set(subscriber.arrived()) >= acknowledged(report))
    assert set(subscriber.arrived()) == acknowledged(report)


def test_messages_in_flight_on_a_broken_connection_are_sent_again(
    devices: Devices, subscriber: Subscriber, line: Line
) -> None:
    states: list[str] = []

    def go_deaf_then_cut(progress: Progress) -> None:
        if progress.readings_acknowledged and not states:
            line.answers = False
            states.append("deaf")
        elif states == ["deaf"] and progress.messages_unacknowledged >= 5:
            line.answers = True
            line.cut()
            states.append("cut")

    config = replace(devices.config, duration_seconds=3.0)
    report = simulate(config, devices, line.port, on_progress=go_deaf_then_cut)
    assert states == ["deaf", "cut"]
    assert report.complete
    assert report.retries >= 5
    assert report.publish_failures == report.retries
    eventually(lambda: set(subscriber.arrived()) >= acknowledged(report))
    # What had arrived and was sent again is there twice: the loader is to know it by its sequence number.
    assert set(subscriber.arrived().values()) == {1, 2}


def test_a_message_whose_acknowledgement_is_lost_is_in_doubt_and_not_counted(
    devices: Devices, subscriber: Subscriber, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "FINISH_SECONDS", 1.0)

    def go_deaf(progress: Progress) -> None:
        if progress.readings_acknowledged:
            line.answers = False

    report = simulate(replace(devices.config, duration_seconds=3.0), devices, line.port, on_progress=go_deaf)
    assert not report.complete
    assert 0 < report.readings_acknowledged < report.readings_published
    assert report.unacknowledged == report.readings_published - len(acknowledged(report))
    published = {(thing, seq) for thing, ranges in report.published.items() for seq in numbers(ranges)}
    eventually(lambda: set(subscriber.arrived()) >= published)
    assert acknowledged(report) < published


def test_what_the_broker_refuses_is_sent_again_and_never_counted_as_acknowledged(
    emulator: Emulator, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "FINISH_SECONDS", 1.0)
    report = simulate(replace(devices.config, topic="$aws/reserved"), devices, emulator.mqtt_port)
    assert report.readings_acknowledged == 0
    assert report.unacknowledged == report.readings_published == 375
    assert report.first_publish_failure == "PUBACK TOPIC_NAME_INVALID"
    assert report.retries > 0
    assert report.connected == 5


def test_devices_that_are_not_let_in_are_told_of_and_the_others_go_on(emulator: Emulator, devices: Devices) -> None:
    for identity in devices.identities[:2]:
        devices.deactivate(identity)
    report = simulate(devices.config, devices, emulator.mqtt_port)
    assert (report.connected, report.not_connected, report.complete) == (3, 2, False)
    names = {identity.thing_name for identity in devices.identities[:2]}
    assert report.first_connect_failure in {f"{name}: CONNACK NOT_AUTHORIZED" for name in names}
    assert report.readings_acknowledged == 3 * 75
    assert report.acknowledged[devices.identities[0].thing_name] == ()


def refused(devices: Devices, port: int, *, host: str = HOST) -> str:
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        run(devices.config, devices.identities, host, port, stop=threading.Event())
    assert time.monotonic() - begin < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_certificates_that_are_not_active_are_refused_in_one_line(emulator: Emulator, devices: Devices) -> None:
    for identity in devices.identities:
        devices.deactivate(identity)
    line = refused(devices, emulator.mqtt_port)
    assert line.startswith(
        f"{HOST}:{emulator.mqtt_port}: refuses {devices.identities[0].certificate_file} (CONNACK 0x87)"
    )


def test_certificates_that_the_broker_has_never_seen_are_refused_in_one_line(
    emulator: Emulator, devices: Devices, tmp_path: Path
) -> None:
    strangers = IdentityStore(tmp_path / "strangers")
    strangers.ensure(devices.config.thing_names())
    write_trust_anchor(strangers, emulators.authority(emulator))
    unknown = replace(devices, identities=[strangers.identity(name) for name in devices.config.thing_names()])
    line = refused(unknown, emulator.mqtt_port)
    assert f"refuses {unknown.identities[0].certificate_file} (" in line
    assert "not registered or not active" in line


def test_a_server_with_another_root_ca_is_not_trusted(emulator: Emulator, devices: Devices) -> None:
    write_trust_anchor(devices.store, devices.store.ca_file.read_text())
    line = refused(devices, emulator.mqtt_port)
    assert f"the server's certificate is not trusted with {devices.store.root_ca_file}" in line


def test_a_server_of_another_name_is_not_trusted(emulator: Emulator, devices: Devices) -> None:
    assert "IP address mismatch" in refused(devices, emulator.mqtt_port, host="127.0.0.2")


def test_a_port_where_nothing_listens(devices: Devices) -> None:
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    assert refused(devices, port).startswith(f"{HOST}:{port}: the connection is refused, nothing listens there")


def test_a_port_that_speaks_something_else(emulator: Emulator, devices: Devices) -> None:
    assert "does not speak TLS" in refused(devices, emulator.port)


def test_a_port_that_never_answers(devices: Devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.mqtt.diagnosis.TIMEOUT_SECONDS", 0.3)
    with socket.create_server((HOST, 0)) as silent:
        assert "gives no answer in TLS within 0.3 s" in refused(devices, silent.getsockname()[1])


def test_a_host_that_does_not_exist(devices: Devices) -> None:
    assert "the host name does not resolve" in refused(devices, 8883, host="nowhere.invalid")


class CommandLine:
    """`fleet simulate` in a process of its own, as a user would run it."""

    def __init__(self, devices: Devices, port: int, *options: str) -> None:
        code = "import typer; from simulator.cli import simulate; typer.run(simulate)"
        self.report = devices.store.root / "report.json"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "--store", str(devices.store.root), "--endpoint", f"ssl://{HOST}:{port}",
             "--device-count", "5", "--prefix", devices.prefix, "--interval", "0.02", "--topic", "iot/telemetry",
             "--json", str(self.report), *options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self, within_seconds: float) -> tuple[int, str, str]:
        try:
            out, err = self.process.communicate(timeout=within_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, out, err

    def figures(self) -> dict[str, Any]:
        return dict(json.loads(self.report.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_what_is_in_flight_and_prints_the_totals(
    emulator: Emulator, devices: Devices, subscriber: Subscriber, number: signal.Signals
) -> None:
    command = CommandLine(devices, emulator.mqtt_port)
    eventually(lambda: len(subscriber.readings) > 100)
    command.process.send_signal(number)
    status, out, err = command.end(within_seconds=10)
    assert status == 0, err
    figures = command.figures()
    assert figures["complete"]
    assert figures["readings_generated"] == figures["readings_acknowledged"] > 100
    totals = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith(("gen", "ack", "unack"))}
    count = f"{figures['readings_acknowledged']:,}"
    assert totals == {"generated": count, "acknowledged": count, "unacknowledged": "0"}
    assert "5 of 5 devices connected" in out
    assert "running: connected 5 of 5" in err
    arrived = {(thing, seq) for thing, pairs in figures["acknowledged"].items() for seq in numbers(pairs)}
    eventually(lambda: set(subscriber.arrived()) == arrived)


def test_a_second_ctrl_c_ends_it_at_once(devices: Devices, line: Line, subscriber: Subscriber) -> None:
    command = CommandLine(devices, line.port)
    eventually(lambda: len(subscriber.readings) > 100)
    line.answers = False
    arrived = len(subscriber.readings)
    eventually(lambda: len(subscriber.readings) > arrived + 100)
    command.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        command.process.wait(timeout=1.5)  # it waits for acknowledgements that will not come
    command.process.send_signal(signal.SIGINT)
    status, out, _ = command.end(within_seconds=8)
    assert status == 1
    assert "were published and not acknowledged: they may or may not have arrived" in out
    assert command.figures()["unacknowledged"] > 0


def test_a_run_with_a_duration_ends_by_itself_and_quietly_if_asked(emulator: Emulator, devices: Devices) -> None:
    command = CommandLine(devices, emulator.mqtt_port, "--duration", "1", "--quiet")
    status, out, err = command.end(within_seconds=PATIENCE_SECONDS)
    assert (status, err) == (0, "")
    assert "generated" in out
    assert command.figures()["readings_acknowledged"] == 250


def test_readings_that_are_not_acknowledged_make_the_exit_status_1(emulator: Emulator, devices: Devices) -> None:
    devices.deactivate(devices.identities[3])
    command = CommandLine(devices, emulator.mqtt_port, "--duration", "1")
    status, out, _ = command.end(within_seconds=PATIENCE_SECONDS)
    assert status == 1
    assert f"1 devices never connected; the first: {devices.identities[3].thing_name}: " in out
