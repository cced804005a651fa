"""The buffer of one stream: files, so that a record that was acknowledged survives the end of this process."""

import errno
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Batch:
    """A closed part of the buffer, to be delivered as one object."""

    file: Path

    @property
    def first_record_at(self) -> float:
        """Seconds since the epoch."""
        return int(self.file.name.split("_")[0]) / 1e6

    @property
    def unique(self) -> str:
        """Stays the same when a delivery is repeated, so that it overwrites rather than doubles."""
        return self.file.stem.split("_")[1]


class Spool:
    """Appends records to an open file; closes it into a batch when it is full or old enough. Thread-safe."""

    def __init__(self, folder: Path, *, size_bytes: int, interval_seconds: float) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.resize(size_bytes=size_bytes, interval_seconds=interval_seconds)
        self._file: BinaryIO | None = None
        self._opened = 0.0
        self._written = 0
        folder.mkdir(parents=True, exist_ok=True)
        for left_open in folder.glob("*.open"):
            left_open.rename(left_open.with_suffix(".batch"))

    def resize(self, *, size_bytes: int, interval_seconds: float) -> None:
        """Buffers by other hints from now on."""
        with self._lock:
            self._size_bytes = size_bytes
            # Firehose with an interval of 0 delivers within seconds, not at once; a quarter of one stands for that here.
            self._interval_seconds = interval_seconds or 0.25

    def append(self, record: bytes) -> None:
        """Adds a record (with its separator); when this returns it is out of this process's hands.

        Raises OSError when the disk does not take it.
        """
        with self._lock:
            if self._file is not None and self._written + len(record) > self._size_bytes:
                self._finish(self._file)
            if self._file is None:
                name = f"{time.time_ns() // 1000}_{uuid.uuid4()}.open"
                self._file = (self._folder / name).open("xb", buffering=0)
                self._opened = time.monotonic()
                self._written = 0
            # Unbuffered, hence one write: on a full disk it may take a part, which is not the record.
            if self._file.write(record) != len(record):
                self._file.truncate(self._written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._file.name))
            self._written += len(record)

    def due(self, *, everything: bool = False) -> Iterator[Batch]:
        """The batches to deliver now, oldest first."""
        with self._lock:
            if self._file is not None and (everything or time.monotonic() - self._opened >= self._interval_seconds):
                self._finish(self._file)
        for file in sorted(self._folder.glob("*.batch")):
            yield Batch(file)

    def close(self) -> None:
        """Lets go of the open file, without delivering it: the next process will."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _finish(self, file: BinaryIO) -> None:
        file.close()
        open_file = Path(str(file.name))
        open_file.rename(open_file.with_suffix(".batch"))
        self._file = None


def delivered(batch: Batch) -> None:
    """Forgets a batch once it is in S3."""
    batch.file.unlink()
