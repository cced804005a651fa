"""One at a time: two `fleet up` of the same checkout wait for each other."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.errors import UserError


@contextmanager
def exclusive(lock_file: Path) -> Iterator[int]:
    """Hold an advisory lock on `lock_file`, made if absent, waiting for whoever holds it.

    The kernel drops the lock when its holder dies, so a killed run never blocks the next one. A program that is given
    the descriptor (`pass_fds`) holds the lock as well, for as long as it runs.
    Raises UserError when the folder cannot be written.
    """
    with os_errors_for_users(lock_file.parent):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def os_errors_for_users(folder: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and their like below `folder` into one line."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise UserError(
            f"The local TimescaleDB cannot work in {place}: {error.strerror or error}; make room or grant access there"
        ) from error
