"""A client with next to no cost per message, to find what the broker can take: packets made beforehand, sockets, no MQTT
library. It sends each message by itself, as devices do, and keeps `window` of them unanswered on each connection.

Run as `python -m bench.simulator_raw TASK`.
"""

import select
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from bench.simulator_broker import HOST, identities
from bench.simulator_steps import DRAIN_SECONDS, PAYLOAD_BYTES, SETTLE_SECONDS, Connected, Measured, Task, say, steps
from certs.store import DeviceIdentity

_PUBACK_BYTES = 4
_CONNACK_BYTES = 4
_PACKET_ID = b"\x00\x01"


@dataclass(slots=True)
class Line:
    """One device's connection."""

    tls: ssl.SSLSocket
    packet: bytes
    partial: int = 0
    """Bytes of a PUBACK that is not there as a whole."""
    unanswered: int = 0
    fileno: int = field(init=False)

    def __post_init__(self) -> None:
        self.fileno = self.tls.fileno()


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(2) + text


def _frame(kind: int, body: bytes) -> bytes:
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
    return bytes([kind]) + length + body


def open_line(identity: DeviceIdentity, port: int) -> Line:
    """Connect with MQTT 3.1.1: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html"""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(identity.root_ca_file)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    plain = socket.create_connection((HOST, port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = context.wrap_socket(plain, server_hostname=HOST)
    name = identity.thing_name.encode()
    tls.sendall(_frame(0x10, _string(b"MQTT") + b"\x04\x02" + (600).to_bytes(2) + _string(name)))
    if len(tls.recv(_CONNACK_BYTES)) != _CONNACK_BYTES:
        raise OSError(f"{identity.thing_name} was not let in")
    tls.setblocking(False)
    # One identifier for all: with answers in order, which this broker gives, they need not be told apart.
    packet = _frame(0x32, _string(b"bench/" + name) + _PACKET_ID + b"x" * PAYLOAD_BYTES)
    return Line(tls, packet)


class RawClient:
    """All lines in one thread."""

    def __init__(self, lines: list[Line], window: int) -> None:
        self.acknowledged = 0
        self._lines = {line.fileno: line for line in lines}
        self._window = window
        self._poll = select.epoll()
        for fileno in self._lines:
            self._poll.register(fileno, select.EPOLLIN)

    def run(self, seconds: float) -> None:
        """Keep every line's window full for so long."""
        for line in self._lines.values():
            self._fill(line)
        self._until(time.monotonic() + seconds, sending=True)

    def drain(self) -> None:
        """Wait for what is unanswered."""
        self._until(time.monotonic() + DRAIN_SECONDS, sending=False)

    def _fill(self, line: Line) -> None:
        while line.unanswered < self._window:
            line.tls.send(line.packet)
            line.unanswered += 1

    def _until(self, deadline: float, *, sending: bool) -> None:
        lines, poll = self._lines, self._poll.poll
        while time.monotonic() < deadline:
            for fileno, _ in poll(0.05, 256):
                line = lines[fileno]
                try:
                    answer = len(line.tls.recv(4096)) + line.partial
                except ssl.SSLWantReadError:
                    continue
                count, line.partial = divmod(answer, _PUBACK_BYTES)
                self.acknowledged += count
                line.unanswered -= count
                if sending:
                    self._fill(line)
            if not sending and not any(line.unanswered for line in lines.values()):
                return


def main(task: Task) -> None:
    """Connect, then do one step after the other: each as fast as the broker answers, whatever the pace asked for."""
    devices = identities(Path(task.folder), task.devices, lambda _done, _total: None)
    process = psutil.Process()
    before, begin = process.memory_info().rss, time.monotonic()
    lines = [open_line(device, task.port) for device in devices]
    took = time.monotonic() - begin
    say(Connected(connected=len(lines), seconds=took, memory_bytes=process.memory_info().rss - before))
    client = RawClient(lines, task.window)
    for step in steps():
        client.run(SETTLE_SECONDS)
        acknowledged, cpu, begin = client.acknowledged, time.process_time(), time.monotonic()
        client.run(step.seconds)
        count = client.acknowledged - acknowledged
        say(
            Measured(
                acknowledged=count,
                readings=count,
                seconds=time.monotonic() - begin,
                cpu_seconds=time.process_time() - cpu,
            )
        )
        client.drain()


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Task))
