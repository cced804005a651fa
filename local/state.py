"""What is known of the running local environment: one small file, replaced whole."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from local.processes import ProcessRef
from ops.errors import UserError


class Emulator(msgspec.Struct, frozen=True):
    """The AWS emulator."""

    process: ProcessRef
    port: int
    mqtt_port: int


class Database(msgspec.Struct, frozen=True):
    """TimescaleDB: where it is, never its password."""

    kind: Literal["debian", "docker", "given"]
    host: str
    port: int
    dbname: str


class State(msgspec.Struct, frozen=True):
    """The parts of the local environment; None is a part that was not started."""

    emulator: Emulator | None = None
    database: Database | None = None
    firehose: ProcessRef | None = None
    deployed: str | None = None
    """Fingerprint of the sources that were deployed to this very emulator."""


class StateFile:
    """`state.json` under the local environment's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = root / "state.json"

    def read(self) -> State:
        """The state, empty when there is none. Raises UserError when the file is not readable."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except (OSError, msgspec.MsgspecError) as error:
            raise UserError(f"{self._path} is not readable ({error}): remove {self.root} and run fleet up") from None

    def write(self, state: State) -> None:
        """Replaces the state."""
        staging = self._path.with_suffix(".new")
        staging.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        staging.replace(self._path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock that makes `up` and `down` take turns. Raises UserError when the folder is not writable."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(f"cannot write in {self.root} ({error.strerror}): make it writable") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
