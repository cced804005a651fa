"""Builds what is uploaded for a Lambda function: its code, what the functions share, and the locked dependencies.

Dependencies are installed once per lock and platform into `build/`, so synthesis needs the network only the first
time. The same sources give the same files, hence the same asset hash: an unchanged checkout deploys nothing.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ops.errors import UserError

Platform = Literal["aws", "host"]

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build" / "lambda"
_LOCK = _ROOT / "requirements" / "lambda.lock"
# Lambda's python3.14 runtime on Graviton is Amazon Linux 2023 (glibc 2.34).
_AWS_WHEELS = (
    "--platform=manylinux_2_34_aarch64",
    "--platform=manylinux_2_28_aarch64",
    "--platform=manylinux_2_17_aarch64",
    "--platform=manylinux2014_aarch64",
    "--python-version=3.14",
    "--implementation=cp",
)
# Installed by pip beside the modules, of no use at run time, and different from one installer to the next.
_NOT_PACKAGED = (
    "bin",
    "*.dist-info/RECORD",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
)


def function_package(folder: str, platform: Platform) -> Path:
    """The folder to upload for `lambdas/<folder>`; built when its sources or the lock changed.

    Raises UserError when the dependencies cannot be installed.
    """
    dependencies = _dependencies(platform)
    sources = sorted(
        path
        for part in (folder, "shared")
        for path in (_ROOT / "lambdas" / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    sources.append(_ROOT / "lambdas" / "__init__.py")
    digest = hashlib.sha256(dependencies.name.encode())
    for path in sources:
        digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    package = _BUILD / f"{folder}-{platform}-{digest.hexdigest()[:16]}"
    with _locked(package.name):
        if not package.exists():
            _discard_older(f"{folder}-{platform}-*")
            staging = package.with_name(package.name + ".new")
            shutil.rmtree(staging, ignore_errors=True)
            shutil.copytree(dependencies, staging)
            for path in sources:
                target = staging / path.relative_to(_ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            staging.rename(package)
    return package


def _dependencies(platform: Platform) -> Path:
    """The locked dependencies as a folder of modules, installed when absent."""
    target = f"{sys.implementation.cache_tag}-{sys.platform}" if platform == "host" else " ".join(_AWS_WHEELS)
    digest = hashlib.sha256(_LOCK.read_bytes() + target.encode()).hexdigest()[:16]
    folder = _BUILD / f"dependencies-{platform}-{digest}"
    with _locked(folder.name):
        if folder.exists():
            return folder
        staging = folder.with_name(folder.name + ".new")
        shutil.rmtree(staging, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--require-hashes", "--only-binary=:all:", "--no-compile", "--target", str(staging)]
        command += [*(_AWS_WHEELS if platform == "aws" else ()), "--no-deps", "-r", str(_LOCK)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise UserError(f"cannot install the Lambdas' dependencies ({_LOCK.name}): {lines[0]}")
        for pattern in _NOT_PACKAGED:
            for path in staging.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        staging.rename(folder)
    return folder


def _discard_older(pattern: str) -> None:
    for path in _BUILD.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Holds a file lock: two syntheses at once build a package once."""
    _BUILD.mkdir(parents=True, exist_ok=True)
    with (_BUILD / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
