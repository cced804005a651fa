"""Reads a ground truth: batches of its columns, and what it says of the run."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ops.errors import UserError
from simulator.oracle.recorder import part_of


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a file says of its run."""

    seed: int
    topic: str
    simulator_version: str
    devices: int
    started_at: datetime
    ended_at: datetime | None
    """None: the run was killed, so this is not all of it."""
    messages: int
    rows: int
    complete: bool
    """Whether the file was ended with the run; else what the run had settled in its last moment is not in it."""


class Oracle:
    """An open ground truth."""

    def __init__(self, path: Path, file: Any, facts: Facts) -> None:
        self.path = path
        self.facts = facts
        self._file = file

    def batches(self, columns: Sequence[str] | None = None, *, rows: int = 65_536) -> Iterator[Any]:
        """`pyarrow.RecordBatch`es of at most so many rows, in the order in which messages were settled; all columns, or
        those named. `device` is dictionary encoded.

        Raises `UserError` for a file that is damaged.
        """
        import pyarrow as pa

        try:
            yield from self._file.iter_batches(
                batch_size=rows, columns=None if columns is None else list(columns), use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{self.path} is damaged: {_line(error)}") from None


@contextmanager
def read(path: Path) -> Iterator[Oracle]:
    """Open a ground truth, or what a killed run left of one (FILE.part).

    Raises `UserError`: there is none, it is none, it was never ended, or it is of another version.
    """
    import pyarrow as pa
    from pyarrow import parquet

    from simulator.oracle.columns import FORMAT, SCHEMA, VERSION

    try:
        # The dictionary of devices survives in the Arrow schema that pyarrow keeps in the file.
        file = parquet.ParquetFile(path, memory_map=True)
    except FileNotFoundError:
        part = part_of(path)
        hint = f"its run was killed; what it left is {part}" if part.exists() else "give the file of --oracle"
        raise UserError(f"{path}: no such file: {hint}") from None
    except (pa.ArrowException, OSError) as error:
        if is_being_written(path):
            raise UserError(f"{path} is still being written: wait until the run has ended") from None
        unended = path.suffix == ".part"
        what = "was never ended, so it cannot be read" if unended else "is no ground truth of fleet simulate --oracle"
        raise UserError(f"{path} {what}: {_line(error)}") from None
    with file:
        metadata = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
        found = metadata.get(FORMAT)
        if found is None:
            raise UserError(f"{path} is no ground truth: give a file that fleet simulate --oracle wrote")
        if found != VERSION or not file.schema_arrow.equals(SCHEMA):
            raise UserError(
                f"{path} is a ground truth of version {found}, this release reads {VERSION}: use the release that wrote it"
            )
        yield Oracle(path, file, _facts(metadata, file.metadata.num_rows))


def is_being_written(path: Path) -> bool:
    """Whether a process has the file locked, as the one that writes it does until its end."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _facts(metadata: dict[str, str], rows: int) -> Facts:
    def value(name: str) -> Any:
        return json.loads(metadata[name]) if name in metadata else None

    ended_at = value("ended_at")
    return Facts(
        seed=value("seed"),
        topic=value("topic"),
        simulator_version=value("simulator_version"),
        devices=value("devices"),
        started_at=datetime.fromisoformat(value("started_at")),
        ended_at=None if ended_at is None else datetime.fromisoformat(ended_at),
        messages=value("messages"),
        rows=rows,
        complete=value("complete"),
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
