"""The whole local environment under load, and with every fault at once: what was acknowledged is accounted for."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.settings import load
from local import timescaledb
from local.state import StateFile
from ops.aws import outputs, session_for
from ops.paths import LOCAL, ROOT
from ops.target import database
from simulator.devices.envelope import MessageKind
from simulator.oracle import read
from tests.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("environment")]
FLEET = Path(sys.executable).parent / "fleet"
AHEAD_MICROSECONDS = 12 * 3600 * 1_000_000
"""Between the loader's hour and the scenario's day."""
REDELIVERED_SECONDS = 15
"""Instead of the three minutes for which the queue hides what a killed loader had in its hands."""


def fleet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLEET, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    done = fleet("up")
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    assert fleet("down").returncode == 0


def rows() -> int:
    with database("local", application_name="test") as connection:
        found = connection.execute("SELECT count(*) FROM telemetry WHERE device_id LIKE 'chaos-%'").fetchone()
    assert found
    return int(found[0])


def wait_for_more_rows(number: int, simulation: "subprocess.Popen[bytes]") -> None:
    """On a slow machine the run may be over before: then what it left on its way is harmed all the same."""
    wanted = rows() + number
    wait_for(lambda: simulation.poll() is not None or rows() >= wanted, f"{wanted} rows", 90)


def loader_workers() -> list[psutil.Process]:
    """The emulator's processes that run the loader."""
    emulator = StateFile(LOCAL).read().emulator
    assert emulator
    found = []
    for child in psutil.Process(emulator.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if load("local").names.loader in " ".join(child.cmdline()):  # a zombie has none
                found.append(child)
    return found


def kill_the_database() -> None:
    """As a power failure does; another one is started at once on what is left."""
    pid = timescaledb.status(LOCAL / "timescaledb").pid
    state = StateFile(LOCAL).read()
    assert pid
    assert state.database
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: timescaledb.status(LOCAL / "timescaledb").state != "running", "the end of the database")
    timescaledb.provide("auto", LOCAL / "timescaledb", state.database.port)


def kill_a_loader() -> None:
    """One of the Lambda workers, and so whatever it has in its hands."""
    wait_for(_killed_a_loader, "a Lambda worker that runs the loader")


def _killed_a_loader() -> bool:
    for victim in loader_workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            wait_for(lambda: _is_dead(victim), "its death")  # noqa: B023 - called here and now
            return True
    return False


def _is_dead(process: psutil.Process) -> bool:
    """Its parent may learn of it only when it has work for it again; until then it is a zombie."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def redeliver_soon() -> None:
    session = session_for("local")
    queue = outputs(session, load("local").names.stack("ingest"))["ObjectQueueUrl"]
    session.client("sqs").set_queue_attributes(
        QueueUrl=queue, Attributes={"VisibilityTimeout": str(REDELIVERED_SECONDS)}
    )


def audited(oracle: Path, figures: Path, seconds: float) -> dict[str, Any]:
    """The audit's figures once nothing is on its way any more."""
    deadline = time.monotonic() + seconds
    while True:
        done = fleet("audit", "--oracle", str(oracle), "--json-file", str(figures))
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        sheet: dict[str, Any] = json.loads(figures.read_text())
        if not sheet["total"]["in_flight"]:
            assert done.returncode == 0, done.stdout + done.stderr
            return sheet
        assert time.monotonic() < deadline, f"still on its way after {seconds} s: {done.stdout}{whereabouts()}"


def whereabouts() -> str:
    """Where readings can be stuck, for whoever has to find out why a test failed."""
    with database("local", application_name="test") as connection:
        refusals = connection.execute("SELECT kind, resolution, count(*) FROM ingest.refusals GROUP BY 1, 2").fetchall()
        busy = connection.execute(
            "SELECT application_name, state, wait_event, left(query, 80) FROM pg_stat_activity WHERE state <> 'idle'"
        ).fetchall()
    queue = loader_queue_attributes()
    return f"\nrefusals: {refusals}\nbusy: {busy}\nqueue of objects: {queue}\n" + fleet("status").stdout


def loader_queue_attributes() -> dict[str, str]:
    session = session_for("local")
    queue = outputs(session, load("local").names.stack("ingest"))["ObjectQueueUrl"]
    found = session.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    return {name: value for name, value in found.items() if name.startswith("Approximate")}


def to_be_quarantined(oracle: Path) -> tuple[int, int]:
    """What a ground truth says of acknowledged messages: payloads that are broken, readings from a clock far ahead."""
    broken = ahead = 0
    with read(oracle) as truth:
        for batch in truth.batches(["ts", "kind", "acknowledged_at"]):
            for row in batch.to_pylist():
                if row["acknowledged_at"] is None:
                    continue
                if row["kind"] == MessageKind.MALFORMED:
                    broken += 1
                elif row["ts"] * 1000 - row["acknowledged_at"] > AHEAD_MICROSECONDS:
                    ahead += 1
    return broken, ahead


def test_the_pipeline_benchmark_misses_nothing_and_names_what_limits_it(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.json"
    done = fleet("bench", "pipeline", "--devices", "50", "--rate", "1000", "--seconds", "4", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    assert figures["missing"] == 0
    assert figures["readings_per_second"] in {0, round(figures["steps"][0]["acknowledged_per_second"])}
    assert figures["limited_by"]
    assert figures["limited_by_measured"]
    [step] = figures["steps"]
    assert step["complete"]
    assert step["rows"] == step["acknowledged"] > 1000
    assert 0 < step["latency_p50_seconds"] <= figures["latency_p95_seconds"]
    assert set(figures["microseconds_per_reading"]) == {
        "simulator", "emulator", "lambda workers", "firehose", "database"
    }  # fmt: skip
    assert fleet("status").returncode == 0, "the running environment is left as it was"


def test_chaos_loses_nothing(tmp_path: Path) -> None:
    """Devices that do everything wrong, while the database dies twice and a Lambda worker once."""
    redeliver_soon()
    oracle = tmp_path / "oracle.parquet"
    log = tmp_path / "simulate.log"
    with log.open("wb") as output:
        simulation = subprocess.Popen(
            [FLEET, "simulate", "--scenario", "chaos", "--oracle", str(oracle), "--quiet"],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for harm in (kill_the_database, kill_a_loader, kill_the_database):
            wait_for_more_rows(500, simulation)
            print(f"{harm.__name__} at {rows():,} rows; the run goes on: {simulation.poll() is None}")
            harm()
        simulation.wait(180)
    finally:
        simulation.kill()
        simulation.wait()
    assert simulation.returncode == 0, log.read_text()

    sheet = audited(oracle, tmp_path / "audit.json", 120)
    total = sheet["total"]
    assert total["missing"] == total["differing"] == sheet["unexpected_rows"] == 0
    assert sheet["unexpected_quarantined"] == []
    assert sheet["rejected_objects"] == 0
    # What the scenario breaks on purpose, payloads and a clock that is a day ahead: exactly that.
    broken, ahead = to_be_quarantined(oracle)
    assert broken > 20
    assert ahead > 0
    assert sum(sheet["quarantine_reasons"].values()) == total["quarantined"] == broken + ahead, sheet
    assert sheet["quarantine_reasons"]["timestamp_in_the_future"] == ahead
    assert total["expected"] == total["rows"] + total["duplicates"] + total["quarantined"]
    assert total["rows"] > 5_000
    assert total["duplicates"] > 0
