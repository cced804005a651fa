"""mosquitto with mutual TLS for `fleet bench simulator`, and an identity for each device."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from certs.files import PRIVATE, PUBLIC, write_file
from certs.names import thing_names
from certs.store import DeviceIdentity, IdentityStore
from local.debian.programs import install
from local.ports import any_free
from local.timescaledb.tls import make_identity
from ops.errors import UserError

HOST = "127.0.0.1"
PREFIX = "bench-"
_START_SECONDS = 10.0
# Delivery to subscribers, files and logs are not what is measured.
_CONFIGURATION = """\
listener {port} {host}
cafile {folder}/devices/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
require_certificate true
allow_anonymous true
max_connections -1
max_inflight_messages 1000
set_tcp_nodelay true
persistence false
log_dest none
user {user}
"""


@dataclass(frozen=True)
class Broker:
    """A broker that runs, and how busy it is."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def find_mosquitto(folder: Path, progress: Callable[[str], None]) -> Path:
    """mosquitto on the PATH, or from Debian's packages in `folder`. Raises `UserError`."""
    found = shutil.which("mosquitto")
    return Path(found) if found else install("mosquitto", "usr/sbin/mosquitto", folder / "mosquitto", progress)


def identities(folder: Path, devices: int, progress: Callable[[int, int], None]) -> list[DeviceIdentity]:
    """An EC certificate for each device; those issued earlier are taken again. Makes the server's on the first call."""
    store = IdentityStore(folder / "devices")
    names = thing_names(devices, PREFIX)
    store.ensure([name for name in names if not store.certificate_file(name).exists()] or names[:1], progress)
    if not (folder / "server.pem").exists():
        server = make_identity()
        store.write_root_ca(server.ca_certificate)
        write_file(folder / "server.key", server.server_key.encode(), mode=PRIVATE)
        write_file(folder / "server.pem", server.server_certificate.encode(), mode=PUBLIC)
    return [store.identity(name) for name in names]


@contextmanager
def broker(mosquitto: Path, folder: Path) -> Iterator[Broker]:
    """A broker of the devices in `folder`, for the time of the `with`. Raises `UserError`."""
    port = any_free()
    user = psutil.Process().username()
    (folder / "mosquitto.conf").write_text(
        _CONFIGURATION.format(port=port, host=HOST, folder=folder.absolute(), user=user)
    )
    command: Sequence[str | Path] = [mosquitto, "-c", folder / "mosquitto.conf"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _await(process, port)
        yield Broker(port, psutil.Process(process.pid))
    finally:
        process.kill()
        process.communicate()


def _await(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = process.communicate()[1].decode(errors="replace").split("\n")[0]
            raise UserError(f"mosquitto ended with exit status {process.returncode}: {said or 'it said nothing'}")
        if any(each.laddr.port == port for each in psutil.Process(process.pid).net_connections("tcp")):
            return
        time.sleep(0.05)
    raise UserError(
        f"mosquitto does not listen on port {port} after {_START_SECONDS:g} s: stop what slows this machine down, and try again"
    )
