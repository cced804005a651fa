"""The whole local environment through the `fleet` command line: a small fleet, broken payloads, dead parts, strangers."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from certs.store import DeviceIdentity, IdentityStore
from infra.settings import load
from local import emulator as emulators
from local import stack
from local.state import StateFile
from ops.aws import session_for
from ops.devices.shadows import Reported, reported_by
from ops.errors import UserError
from ops.paths import LOCAL, ROOT
from ops.target import database, ensure_devices, mqtt_endpoint
from simulator.run.engine import run
from simulator.scenario.config import SimulatorConfig
from tests.preview_page import panels
from tests.waiting import wait_for

pytestmark = pytest.mark.e2e
FLEET = Path(sys.executable).parent / "fleet"
CDK = ROOT / "node_modules" / ".bin" / "cdk"


def fleet(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does, against the tests' own environment."""
    return subprocess.run(
        [FLEET, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    done = fleet("up")
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    assert fleet("down").returncode == 0


def query(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with database("local", application_name="test") as connection:
        return connection.execute(statement.encode(), parameters).fetchall()


@pytest.mark.usefixtures("environment")
class TestRunning:
    def test_the_demo_ends_with_nothing_missing_and_writes_its_figures(self, tmp_path: Path) -> None:
        figures = tmp_path / "demo.json"
        done = fleet("demo", "--keep", "--devices", "5", "--seconds", "3", "--json", str(figures))
        assert done.returncode == 0, done.stdout + done.stderr
        balance = json.loads(figures.read_text())
        assert balance["missing"] == balance["differing"] == balance["unexpected"] == balance["quarantined"] == 0
        assert balance["published"] == balance["acknowledged"] == balance["rows"] > 1000
        assert balance["in_s3"] == balance["rows"] + balance["duplicates"]
        assert 0 < balance["latency_p50_seconds"] <= balance["latency_p95_seconds"]
        assert balance["accounted_for"]
        assert "Where to look next" in done.stdout
        oracle = f"{os.path.relpath(LOCAL, ROOT)}/demo.parquet"
        assert f".venv/bin/fleet audit --oracle {oracle}" in done.stdout
        audited = tmp_path / "audit.json"
        assert fleet("audit", "--oracle", oracle, "--json-file", str(audited)).returncode == 0
        assert json.loads(audited.read_text())["total"]["rows"] == balance["rows"]
        assert f"All dashboards, to open in a browser: {os.path.relpath(LOCAL, ROOT)}/preview.html" in done.stdout
        drawn = panels(LOCAL / "preview.html")
        assert [each for each in drawn if each["kind"] == "error" or each["bad"]] == []
        # Not "Readings stored", which leaves out the interval that is not over: all of a short run may lie in it.
        assert {"Devices", "Latency, device to row", "The fleet's $metric"} <= {
            each["panel"] for each in drawn if each["marks"]
        }

    def test_a_second_up_changes_nothing(self) -> None:
        before = StateFile(LOCAL).read()
        done = fleet("up")
        assert done.returncode == 0, done.stderr
        assert StateFile(LOCAL).read() == before

    def test_every_stack_is_deployed_and_an_unchanged_checkout_makes_no_difference(self) -> None:
        emulator = stack.running_emulator()
        names = load("local").names
        stacks = session_for("local").client("cloudformation").describe_stacks()["Stacks"]
        deployed = {found["StackName"] for found in stacks if found["StackStatus"] == "CREATE_COMPLETE"}
        layers = ("base", "database", "ingest", "operations", "monitoring")
        assert deployed >= {names.stack(layer) for layer in layers}
        settings = ("-c", "env=local", "-c", f"account={emulators.ACCOUNT}", "-c", f"region={emulators.REGION}")
        done = subprocess.run(
            [CDK, "diff", "--fail", "--no-color", *settings, "--app", f"{shlex.quote(sys.executable)} app.py"],
            cwd=ROOT,
            env=emulators.environment(emulator),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Number of stacks with differences: 0" in done.stdout + done.stderr

    def test_status_names_every_part_and_its_log(self) -> None:
        done = fleet("status")
        assert done.returncode == 0
        for part in ("TimescaleDB", "AWS emulator", "Firehose"):
            [line] = [line for line in done.stdout.splitlines() if part in line]
            assert " running " in line
            assert ".log" in line

    def test_broken_payloads_are_all_in_quarantine_and_stop_nothing(self) -> None:
        [identity] = ensure_devices("local", ["broken-00001"])
        publisher = session_for("local").client("iot-data")
        now = time.time_ns() // 1_000_000
        payloads: list[bytes] = [
            b"not json",
            b"[1, 2]",
            b'{"seq": 1, "temperature": 20}',
            b'{"ts": 7, "seq": 1}',
            json.dumps({"ts": now + 10**9, "seq": 1}).encode(),
            b"\xff\xfe\x00",
            b"",
        ]
        good = {"ts": now, "seq": 1, "temperature": "hot"}
        for payload in [*payloads, json.dumps(good).encode(), b'{"ts": %d, "seq": 2, "temperature": NaN}' % now]:
            publisher.publish(topic=f"iot/telemetry/{identity.thing_name}", qos=1, payload=payload)
        wait_for(
            lambda: len(query("SELECT FROM telemetry WHERE device_id = %s", "broken-00001")) == 2, "two good readings"
        )
        reasons = query("SELECT reason FROM ingest.quarantine WHERE device_id = %s", "broken-00001")
        assert len(reasons) == len(payloads)
        assert all(reason for [reason] in reasons)

    def test_a_plain_topic_reaches_the_table_as_well(self) -> None:
        config = SimulatorConfig(
            device_count=2, prefix="plain-", interval_seconds=0.1, duration_seconds=1, batch=1, topic="iot/telemetry"
        )
        report = simulated(config)
        assert report.readings_acknowledged == report.readings_published > 10
        wait_for(
            lambda: len(query("SELECT FROM telemetry WHERE device_id LIKE 'plain-%%'")) == report.readings_acknowledged,
            "every reading",
        )

    def test_a_device_that_is_cut_off_is_shown_as_not_connected(self) -> None:
        """Broker, last will, the deployed rule, what stands for its action, shadow, command line."""
        name = "cut-00001"
        options = ["--prefix", "cut-", "--device-count", "1", "--interval", "0.2", "--workers", "1", "--managed"]
        cut_off = subprocess.Popen([FLEET, "simulate", *options], cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: query("SELECT FROM devices WHERE device_id = %s", name) != [], "the first reading")
            wait_for(lambda: reported_by("local", [name]) == {name: Reported("1.0.0", True)}, "the shadow")
        finally:
            cut_off.kill()
            cut_off.wait()
        wait_for(
            lambda: reported_by("local", [name]) == {name: Reported("1.0.0", False)}, "the last will in the shadow"
        )
        assert "its shadow: firmware 1.0.0, not connected" in fleet("devices", "show", name).stdout

    def test_a_device_whose_certificate_is_not_registered_is_refused(self, tmp_path: Path) -> None:
        [known] = ensure_devices("local", ["known-00001"])
        strangers = IdentityStore(tmp_path)
        strangers.root_ca_file.parent.mkdir(parents=True, exist_ok=True)
        strangers.root_ca_file.write_text(known.root_ca_file.read_text())
        strangers.ensure(["stranger-00001"])
        config = SimulatorConfig(device_count=1, prefix="stranger-", interval_seconds=0.1, duration_seconds=1)
        with pytest.raises(UserError, match=r"stranger|certificate|refused|registered"):
            simulated(config, [strangers.identity("stranger-00001")])

    @pytest.mark.parametrize("part", ["emulator", "firehose", "database"])
    def test_a_dead_part_is_named_and_up_mends_it(self, part: str) -> None:
        state = StateFile(LOCAL).read()
        assert state.emulator
        assert state.firehose
        victims = {
            "emulator": ("AWS emulator", state.emulator.process.pid),
            "firehose": ("Firehose", state.firehose.pid),
            "database": ("TimescaleDB", postmaster()),
        }
        name, pid = victims[part]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", "the end of the part")
        done = fleet("status")
        assert done.returncode == 1
        [line] = [line for line in done.stdout.splitlines() if name in line]
        assert "not running" in line
        assert ".log" in line
        mended = fleet("up")
        assert mended.returncode == 0, mended.stdout + mended.stderr
        assert fleet("status").returncode == 0
        config = SimulatorConfig(device_count=2, prefix=f"after-{part}-", interval_seconds=0.1, duration_seconds=1)
        report = simulated(config)
        wait_for(
            lambda: (
                len(query("SELECT FROM telemetry WHERE device_id LIKE %s", f"after-{part}-%"))
                == report.readings_acknowledged
                > 0
            ),
            "readings after the repair",
        )

    def test_a_database_that_comes_back_gets_what_waited_for_it(self) -> None:
        from local import timescaledb

        config = SimulatorConfig(device_count=2, prefix="outage-", interval_seconds=0.1, duration_seconds=2)
        ensure_devices("local", config.thing_names())
        port = StateFile(LOCAL).read().database
        assert port
        timescaledb.stop(LOCAL / "timescaledb")
        report = simulated(config)
        assert report.readings_acknowledged > 20
        timescaledb.provide("auto", LOCAL / "timescaledb", port.port)
        wait_for(
            lambda: (
                len(query("SELECT FROM telemetry WHERE device_id LIKE 'outage-%%'")) == report.readings_acknowledged
            ),
            "every reading after the outage",
            120,
        )

    def test_ports_that_differ_from_the_running_ones_are_refused(self) -> None:
        done = fleet("up", "--port", "1")
        assert done.returncode == 2
        assert "runs already" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def simulated(config: SimulatorConfig, identities: list[DeviceIdentity] | None = None) -> Any:
    import threading

    host, port = mqtt_endpoint("local")
    fleet_of = identities or list(ensure_devices("local", config.thing_names()))
    return run(config, fleet_of, host, port, stop=threading.Event())


def postmaster() -> int:
    from local import timescaledb

    pid = timescaledb.status(LOCAL / "timescaledb").pid
    assert pid is not None
    return pid


def test_down_leaves_no_process_and_can_be_repeated() -> None:
    assert fleet("up").returncode == 0
    state = StateFile(LOCAL).read()
    assert state.emulator
    assert state.firehose
    started = [state.emulator.process.pid, state.firehose.pid, postmaster()]
    family = [child.pid for pid in started for child in psutil.Process(pid).children(recursive=True)]
    assert fleet("down").returncode == 0
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in started + family), "the end of every process", 20)
    assert fleet("down").returncode == 0
    assert fleet("status").returncode == 1
    with pytest.raises(UserError, match="not running: start it with fleet up"):
        stack.running_emulator()


def test_a_taken_port_is_one_line_and_nothing_is_left() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = fleet("up", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} for the AWS emulator is taken" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert fleet("down").returncode == 0


def test_no_node_is_one_line() -> None:
    done = fleet("up", PATH="/nonexistent")
    assert done.returncode == 2
    assert "no Node.js on the PATH" in done.stderr
    assert fleet("down").returncode == 0


def test_an_unreadable_database_url_is_one_line() -> None:
    done = fleet("up", "--database-url", "postgresql://nobody@127.0.0.1/x")
    assert done.returncode == 2
    assert "the database URL lacks password" in done.stderr
