"""The simulator beside MQTT.js and beside what the broker can take: mosquitto with mutual TLS, QoS 1, everything in one run.

Each client is one process that connects once and is then told one pace after the other, evenly staggered over its devices, in
search of the highest of which it gets 95 % acknowledged; the most that it got acknowledged in any step of a second and a half
counts. Where they are compared they take turns three times, and the best of each counts, so that a moment in which the machine
had something else to do spoils none. What the broker can take is the best rate of any client; one of them sends ready packets
over bare sockets, unpaced, each connection's next message as soon as an earlier one is acknowledged.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.simulator_broker import Broker, broker, find_mosquitto, identities
from bench.simulator_steps import PAYLOAD_BYTES, Connected, Measured, Step, Task
from ops.errors import UserError
from ops.paths import LOCAL, ROOT

SIZES = (1, 100, 1_000, 10_000)
COMPARED_AT = 1_000
STEP_SECONDS = 1.5
SUSTAINED = 0.95
"""Share of the pace asked for that must be acknowledged."""
ROUNDS = 3
"""Turns that the clients take where they are compared."""
_ATTEMPTS = 6
_OWN_DESCRIPTORS = 128
_FULL_WINDOW = 256
"""Messages that the bare client keeps unanswered over all connections, where that is more than one for each."""

OURS, PEER, RAW = "fleetledger", "MQTT.js", "bare sockets"
_KINDS = {
    OURS: "fixed",
    f"{OURS}, own signals": "signals",
    f"{OURS}, 25 readings each": "envelopes",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one client did with so many devices."""

    client: str
    devices: int
    connected: int
    messages_per_second: float
    readings_per_second: float
    cpu_us_per_message: float
    connects_per_second: float
    memory_per_device_bytes: float
    broker_cores: float
    """How busy the broker was; it has one thread."""


def run(
    devices: int | None, console: Console, *, step_seconds: float = STEP_SECONDS, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Measure; `devices` instead of the series of sizes. Raises `UserError`."""
    node = shutil.which("node")
    if node is None or not (ROOT / "node_modules" / "mqtt").is_dir():
        raise UserError("MQTT.js, which the simulator is compared with, is not there: run `make setup`")
    folder = LOCAL / "bench" / "simulator"
    folder.mkdir(parents=True, exist_ok=True)
    most = _raise_descriptors()
    sizes = sorted({min(size, most) for size in ((devices,) if devices else SIZES)})
    if (devices or SIZES[-1]) > most:
        console.print(
            f"at most {most} devices are possible with this limit of open files; root raises it (`ulimit -n`)"
        )
    mosquitto = find_mosquitto(LOCAL / "bench", lambda text: console.print(f"[dim]{text}"))
    with console.status("issuing certificates") as status:
        identities(folder, sizes[-1], lambda done, total: status.update(f"issuing certificates: {done} of {total}"))
    compared = COMPARED_AT if COMPARED_AT in sizes else sizes[-1]
    rows: list[Row] = []
    for size in sizes:
        for client in _turns(size == compared, rounds):
            with console.status(f"{client}: {size:,} devices"), broker(mosquitto, folder) as running:
                limit = max((row.messages_per_second for row in rows if row.devices == size), default=50_000.0)
                row = _measure(client, size, running, folder, node, limit, step_seconds)
            _tell(console, row)
            rows = _with_best(rows, row)
    figures = _figures(rows, compared)
    _print(console, rows, figures)
    return figures


def _turns(compared: bool, rounds: int) -> list[str]:
    """The clients in the order in which they are measured."""
    if not compared:
        return [RAW, PEER, OURS]
    return [RAW, PEER, OURS] * rounds + [each for each in _KINDS if each != OURS]


def _with_best(rows: Sequence[Row], row: Row) -> list[Row]:
    """The rows with this one, unless the same client was faster with as many devices."""
    earlier = next((each for each in rows if (each.client, each.devices) == (row.client, row.devices)), None)
    if earlier is None:
        return [*rows, row]
    best = max(earlier, row, key=lambda each: each.messages_per_second)
    return [best if each is earlier else each for each in rows]


def _raise_descriptors() -> int:
    """Take all file descriptors that we may have, for ourselves and what we start; returns how many devices that makes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return SIZES[-1] if hard == resource.RLIM_INFINITY else max(1, hard - _OWN_DESCRIPTORS)


def _measure(
    client: str, devices: int, running: Broker, folder: Path, node: str, limit: float, step_seconds: float
) -> Row:
    window = max(1, _FULL_WINDOW // devices)
    kind = _KINDS.get(client, "")
    task = Task(kind=kind, port=running.port, folder=str(folder), devices=devices, window=window)
    with _process(client, task, node) as talk:
        connected = talk.connected
        best, busy = _highest(talk, client, running, limit, step_seconds)
    return Row(
        client=client,
        devices=devices,
        connected=connected.connected,
        messages_per_second=best.acknowledged / best.seconds,
        readings_per_second=best.readings / best.seconds,
        cpu_us_per_message=best.cpu_seconds / max(1, best.acknowledged) * 1e6,
        connects_per_second=connected.connected / connected.seconds,
        memory_per_device_bytes=connected.memory_bytes / devices,
        broker_cores=busy,
    )


def _highest(talk: "_Talk", client: str, running: Broker, start: float, step_seconds: float) -> tuple[Measured, float]:
    """The step with the most acknowledgements, and how busy the broker was meanwhile.

    The pace is raised while 95 % of it is acknowledged, and halves its way to the edge from there.
    """
    offered, kept, failed = start, 0.0, 0.0
    best: tuple[float, Measured, float] | None = None
    for attempt in range(_ATTEMPTS):
        busy, begin = running.cpu_seconds(), time.monotonic()
        measured = talk.step(Step(messages_per_second=offered, seconds=step_seconds))
        rate = measured.acknowledged / measured.seconds
        if best is None or rate > best[0]:
            best = rate, measured, (running.cpu_seconds() - busy) / (time.monotonic() - begin)
        if client == RAW:
            if attempt:
                break
            continue
        if rate >= SUSTAINED * offered:
            kept = offered
        else:
            failed = offered
        if not failed:
            offered *= 1.15
        elif kept and failed < kept * 1.1:
            break
        elif kept:
            offered = (kept + failed) / 2
        else:
            offered = max(min(failed * 0.85, rate * 1.1), failed * 0.4)
    if best is None:
        raise UserError("nothing was measured")
    return best[1], best[2]


class _Talk:
    """What is said to a client, and what it answers."""

    def __init__(self, client: str, orders: IO[str], answers: IO[str]) -> None:
        self._client, self._orders, self._answers = client, orders, answers
        self.connected = msgspec.json.decode(self._line(), type=Connected)

    def step(self, step: Step) -> Measured:
        """Have a step done."""
        self._orders.write(msgspec.json.encode(step).decode() + "\n")
        self._orders.flush()
        return msgspec.json.decode(self._line(), type=Measured)

    def _line(self) -> str:
        line = self._answers.readline()
        if not line:
            raise UserError(f"the client {self._client} has ended before it was told to: see what it says above")
        return line


@contextmanager
def _process(client: str, task: Task, node: str) -> Iterator[_Talk]:
    described = json.dumps({**msgspec.to_builtins(task), "payload_bytes": PAYLOAD_BYTES})
    command: Sequence[str] = {
        PEER: [node, str(ROOT / "bench" / "mqttjs" / "publish.mjs"), described],
        RAW: [sys.executable, "-m", "bench.simulator_raw", described],
    }.get(client, [sys.executable, "-m", "bench.simulator_client", described])
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            if process.stdin and process.stdout:
                yield _Talk(client, process.stdin, process.stdout)
        finally:
            process.kill()


def _figures(rows: Sequence[Row], compared: int) -> dict[str, Any]:
    rates = {row.client: row.messages_per_second for row in rows if row.devices == compared}
    ours = rates[OURS]
    return {
        "devices": compared,
        "messages_per_second": ours,
        "peer_messages_per_second": rates[PEER],
        "broker_limit_messages_per_second": max(rates.values()),
        "ratio_vs_peer": ours / rates[PEER],
        "ratio_vs_broker_limit": ours / max(rates.values()),
        "payload_bytes": PAYLOAD_BYTES,
        "rows": [asdict(row) for row in rows],
    }


def _tell(console: Console, row: Row) -> None:
    console.print(
        f"{row.devices:>6,} devices  {row.client:<30} {row.messages_per_second:>9,.0f} messages/s"
        f"  {row.cpu_us_per_message:>5.1f} us CPU/message",
        highlight=False,
    )


def _print(console: Console, rows: Sequence[Row], figures: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("client")
    heads = (
        "devices",
        "messages/s",
        "readings/s",
        "CPU us/message",
        "connects/s",
        "KB/device",
        "broker's core",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            row.client,
            f"{row.connected:,}",
            f"{row.messages_per_second:,.0f}",
            f"{row.readings_per_second:,.0f}",
            f"{row.cpu_us_per_message:.1f}",
            f"{row.connects_per_second:,.0f}",
            f"{row.memory_per_device_bytes / 1000:,.0f}",
            f"{row.broker_cores:.0%}",
        )
    console.print(table, highlight=False)
    console.print(
        f"with {figures['devices']:,} devices: {figures['ratio_vs_peer']:.2f} times MQTT.js, "
        f"{figures['ratio_vs_broker_limit']:.2f} of what the broker can take",
        highlight=False,
    )
