"""Files of an identity store: whole or not there, private from the first byte, written by one process at a time."""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.errors import UserError

PRIVATE_FOLDER = 0o700
PRIVATE = 0o600
PUBLIC = 0o644
_LOCK_POLL_SECONDS = 0.02


def private_folder(folder: Path) -> None:
    """Make `folder`, for this user only (0700). One that others may enter is taken only while it is empty.

    Raises:
        UserError: it cannot be made, or has contents and is open to others.
    """
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode & ~PRIVATE_FOLDER:
            if any(folder.iterdir()):
                raise UserError(
                    f"{folder} is open to others (mode {mode:04o}): chmod 700 it, or choose another --store"
                )
            folder.chmod(PRIVATE_FOLDER)
    except OSError as error:
        raise UserError(f"{folder} cannot be used ({error.strerror}): choose another --store") from error


def write_file(path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
    """Write `path` so that a reader sees the old content or all of the new one; the caller holds the lock.

    The file has its mode from the moment it exists. `durable` waits for the disk, which costs milliseconds: it is for
    what cannot be issued again. A power cut may leave anything else empty, which the store treats as not there.

    Raises:
        UserError: the file cannot be written (no permission, disk full).
    """
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)  # the rest of a process that was killed here
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        new.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): free it, or choose another --store") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(lock_file: Path, wait_seconds: float = 60.0) -> Iterator[None]:
    """Hold `lock_file` against other processes and threads; the kernel drops it if this process dies.

    Raises:
        UserError: it cannot be opened, or somebody else held it for all of `wait_seconds`.
    """
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, PRIVATE)
    except OSError as error:
        raise UserError(f"{lock_file} cannot be opened ({error.strerror}): choose another --store") from error
    try:
        deadline = time.monotonic() + wait_seconds
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise UserError(f"another process has held {lock_file} for {wait_seconds:g} s: wait for it or end it")
            time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
