"""Starting the Firehose process: its own identity on the emulator, and the wait until it delivers."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from local import emulator as emulators
from local import processes
from local.firehose import CLIENT_ID, READY
from local.processes import ProcessRef
from local.state import Emulator
from ops.errors import UserError
from ops.paths import ROOT

if TYPE_CHECKING:
    from mypy_boto3_iot.client import IoTClient

_READY_SECONDS = 40.0
_POLICY = "LocalFirehose"


def start(folder: Path, emulator: Emulator, iot: "IoTClient") -> ProcessRef:
    """Starts the process and waits until it is subscribed. Raises UserError when it does not come up."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / READY
    ready.unlink(missing_ok=True)
    _identity(folder, emulator, iot)
    log = folder / "firehose.log"
    process = processes.start(
        [sys.executable, "-m", "local.firehose", str(folder), str(emulator.mqtt_port)],
        log=log,
        environment=emulators.environment(emulator),
        cwd=ROOT,
    )
    if not processes.wait_until(process, ready.exists, _READY_SECONDS):
        raise UserError(f"the Firehose process did not come up: {processes.last_lines(log)} (log: {log})")
    return process


def _identity(folder: Path, emulator: Emulator, iot: "IoTClient") -> None:
    """A certificate that may read what taps and twins write, and publish where the rules that have twins may."""
    arn = f"arn:aws:iot:{emulators.REGION}:{emulators.ACCOUNT}"
    document = (
        '{"Version": "2012-10-17", "Statement": ['
        f'{{"Effect": "Allow", "Action": "iot:Connect", "Resource": "{arn}:client/{CLIENT_ID}"}},'
        f'{{"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "{arn}:topicfilter/local/*"}},'
        f'{{"Effect": "Allow", "Action": "iot:Receive", "Resource": "{arn}:topic/local/*"}},'
        f'{{"Effect": "Allow", "Action": "iot:Publish", "Resource": "{arn}:topic/*"}}]}}'
    )
    with contextlib.suppress(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_policy(policyName=_POLICY, policyDocument=document)
    pair = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_policy(policyName=_POLICY, target=pair["certificateArn"])
    (folder / "root-ca.pem").write_text(emulators.authority(emulator))
    (folder / "firehose.pem").write_text(pair["certificatePem"])
    key = folder / "firehose.key"
    key.unlink(missing_ok=True)
    descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(pair["keyPair"]["PrivateKey"])
