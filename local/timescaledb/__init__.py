"""A real TimescaleDB on this machine: from Debian's packages without root or Docker, or in Docker."""

from pathlib import Path
from typing import Literal, Protocol, cast, get_args

from local.timescaledb import docker, server
from local.timescaledb.connection import Provider, Server, State, Status
from local.timescaledb.locking import os_errors_for_users
from local.timescaledb.packages import PackagesUnavailable, Progress
from ops.errors import UserError

__all__ = [
    "Kind",
    "PackagesUnavailable",
    "Progress",
    "Provider",
    "Server",
    "State",
    "Status",
    "destroy",
    "provide",
    "status",
    "stop",
]

Kind = Literal["auto", "debian", "docker"]
_RECORD = "provider"


class _Module(Protocol):
    def start(self, root: Path, port: int | None = None, progress: Progress = ...) -> Server: ...
    def stop(self, root: Path) -> None: ...
    def status(self, root: Path) -> Status: ...


_MODULES: dict[Provider, _Module] = {"debian": server, "docker": docker}


def provide(kind: Kind, root: Path, port: int | None = None, progress: Progress = lambda _message: None) -> Server:
    """Make a TimescaleDB run under `root` and return it; a running one is returned as it is.

    `auto` takes what `root` already has, else Debian's packages, else Docker where those cannot be had. Asking for
    another kind than the one that runs stops that one; its data stay. Raises UserError, PackagesUnavailable among them.
    """
    recorded = _recorded(root)
    if kind != "auto":
        if recorded not in (None, kind):
            stop(root)
        return _start(kind, root, port, progress)
    if recorded is not None:
        return _start(recorded, root, port, progress)
    try:
        return _start("debian", root, port, progress)
    except PackagesUnavailable as error:
        if not docker.is_available():
            raise
        progress(f"{error.reason}: using Docker")
        return _start("docker", root, port, progress)


def stop(root: Path) -> None:
    """Shut the database of `root` down and wait until it is gone; its data stay."""
    if (recorded := _recorded(root)) is not None:
        _MODULES[recorded].stop(root)


def status(root: Path) -> Status:
    """What the database of `root` does now; changes nothing."""
    return _MODULES[_recorded(root) or "debian"].status(root)


def destroy(root: Path) -> None:
    """Stop every database that was provided under `root` and remove its data; downloaded packages stay."""
    server.destroy(root)
    docker.destroy(root)
    with os_errors_for_users(root):
        (root / _RECORD).unlink(missing_ok=True)


def _start(kind: Provider, root: Path, port: int | None, progress: Progress) -> Server:
    before = _recorded(root)
    _record(root, kind)  # first: whatever interrupts the start, `stop` knows where to look
    try:
        return _MODULES[kind].start(root, port, progress)
    except UserError:
        _record(root, before)  # nothing runs, so `auto` is free to choose again
        raise


def _record(root: Path, kind: Provider | None) -> None:
    with os_errors_for_users(root):
        if kind is None:
            (root / _RECORD).unlink(missing_ok=True)
        else:
            root.mkdir(parents=True, exist_ok=True)
            (root / _RECORD).write_text(f"{kind}\n")


def _recorded(root: Path) -> Provider | None:
    try:
        text = (root / _RECORD).read_text().strip()
    except OSError:
        return None
    return cast(Provider, text) if text in get_args(Provider) else None
