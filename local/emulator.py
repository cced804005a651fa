"""The AWS emulator (ministack): its own virtual environment, its process, and clients that talk to it."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import cast

from local import processes
from local.ports import choose
from local.state import Emulator
from ops.errors import UserError
from ops.paths import ROOT

ACCOUNT = "111122223333"
REGION = "us-east-1"
HOST = "127.0.0.1"
SECRET_KEY = "test"  # noqa: S105 - any will do: the emulator tells accounts apart by the access key
_LOCK = ROOT / "requirements" / "emulator.lock"
_READY_SECONDS = 60.0


def install(root: Path, progress: Callable[[str], None]) -> Path:
    """The emulator's Python, in a virtual environment under `root`; made again when the lock changed.

    Raises UserError when it cannot be installed.
    """
    venv = root / "venv"
    python = venv / "bin" / "python"
    stamp = venv / ".lock-sha256"
    digest = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    progress("installing the AWS emulator")
    shutil.rmtree(venv, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(venv)],
        [*pip, "--require-hashes", "--no-deps", "-r", str(_LOCK)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
            raise UserError(f"cannot install the AWS emulator: {lines[0]}")
    stamp.write_text(digest)
    return python


def start(
    root: Path,
    python: Path,
    *,
    port: int | None,
    mqtt_port: int | None,
    before: Emulator | None,
    enforce_policies: bool = False,
    retransmit_seconds: int = 30,
) -> Emulator:
    """Starts the emulator, where it was before if those ports are free, and waits until it answers.

    With `enforce_policies` it holds devices to their IoT policies and callers to their IAM policies, as AWS does; the
    `cdk` command line then cannot deploy to it, for want of what its roles are granted by conditions.

    A message that is not acknowledged it sends again after `retransmit_seconds`.
    Raises UserError when a given port is taken or it does not come up.
    """
    port = choose(port, what="the AWS emulator", preferred=before.port if before else None)
    mqtt_port = choose(mqtt_port, what="the MQTT listener", preferred=before.mqtt_port if before else None)
    temporary = root / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True, mode=0o700)
    log = root / "emulator.log"
    process = processes.start(
        [str(python), "-m", "ministack"],
        log=log,
        cwd=temporary,
        environment={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(temporary),
            "TMPDIR": str(temporary),
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "MINISTACK_HOST": HOST,
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(port),
            "IOT_MTLS_PORT": str(mqtt_port),
            "IOT_RETRANSMIT_SECONDS": str(retransmit_seconds),
            "SFTP_ENABLED": "0",
            "S3_DATA_DIR": str(temporary / "s3"),
            "STATE_DIR": str(temporary / "state"),
            # Lambda workers stay warm for as long as a demo or a test lasts.
            "LAMBDA_WARM_TTL_SECONDS": "900",
            "PYTHONUNBUFFERED": "1",
            "AUTH": "true" if enforce_policies else "false",
        },
    )
    emulator = Emulator(process, port, mqtt_port)
    if not processes.wait_until(process, lambda: answers(emulator) and _accepts(mqtt_port), _READY_SECONDS):
        raise UserError(f"the AWS emulator did not come up: {processes.last_lines(log)} (log: {log})")
    return emulator


def answers(emulator: Emulator) -> bool:
    """Whether the emulator's gateway answers."""
    try:
        with _open(emulator, "/_ministack/health") as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def authority(emulator: Emulator) -> str:
    """PEM of the authority that signed the certificate of the emulator's MQTT listener."""
    with _open(emulator, "/_ministack/iot/ca.pem") as response:
        pem: bytes = response.read()
        return pem.decode()


def environment(emulator: Emulator) -> dict[str, str]:
    """This process's environment with every AWS setting replaced by the emulator's, for the `cdk` command line."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return own | {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{emulator.port}",
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def _open(emulator: Emulator, path: str) -> HTTPResponse:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return cast(HTTPResponse, opener.open(f"http://{HOST}:{emulator.port}{path}", timeout=5))
