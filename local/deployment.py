"""Deploys the CDK app to the emulator with the real `cdk` command line."""

import hashlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from local import emulator as emulators
from local.state import Emulator
from ops.errors import UserError
from ops.paths import ROOT

_SOURCES = ("app.py", "cdk.json", "infra", "lambdas", "iot_rules", "requirements/lambda.lock", "package-lock.json")
_CDK = ROOT / "node_modules" / ".bin" / "cdk"


def fingerprint() -> str:
    """Of everything that decides what would be deployed."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        path = ROOT / source
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def check_tools() -> None:
    """Raises UserError when what deploys is not there."""
    if shutil.which("node") is None:
        raise UserError("no Node.js on the PATH: the AWS CDK needs version 20 or newer")
    if not _CDK.exists():
        raise UserError(f"no {_CDK.relative_to(ROOT)}: run make setup")


def deploy(root: Path, emulator: Emulator, progress: Callable[[str], None]) -> None:
    """Synthesises `local`, bootstraps the emulator's account, deploys every stack.

    Raises UserError when a step fails, with the place of the log.
    """
    root.mkdir(parents=True, exist_ok=True)
    assembly = root / "cdk.out"
    account = f"aws://{emulators.ACCOUNT}/{emulators.REGION}"
    settings = ("-c", "env=local", "-c", f"account={emulators.ACCOUNT}", "-c", f"region={emulators.REGION}")
    progress("synthesising the CDK app")
    _cdk(root, emulator, "synth", "--quiet", *settings, "--output", str(assembly))
    progress("deploying it with the cdk command line")
    _cdk(root, emulator, "bootstrap", account, "--app", str(assembly))
    _cdk(root, emulator, "deploy", "--all", "--require-approval", "never", "--app", str(assembly))


def _cdk(root: Path, emulator: Emulator, *arguments: str) -> None:
    log = root / f"cdk-{arguments[0]}.log"
    command = [str(_CDK), *arguments]
    if arguments[0] == "synth":
        # The running interpreter, whatever the checkout's cdk.json names.
        command += ["--app", f"{shlex.quote(sys.executable)} app.py"]
    with log.open("wb") as output:
        done = subprocess.run(
            [*command, "--no-color", "--ci"],
            cwd=ROOT,
            env=emulators.environment(emulator),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        text = log.read_text(errors="replace")
        reasons = [line for line in text.splitlines() if line.startswith("fleetledger: ")]
        reasons += [line for line in text.splitlines() if "FAILED" in line or "rror:" in line]
        raise UserError(f"cdk {arguments[0]} failed: {(reasons or ['no reason given'])[0].strip()} (log: {log})")
