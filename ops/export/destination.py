"""Where an export goes: standard output, or a file that is there whole or not at all."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ops.errors import UserError


class Sink:
    """Takes bytes and counts them. To pyarrow it is a file that cannot be sought in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_written = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Writes all of it."""
        self._file.write(data)
        self.bytes_written += len(data)
        return len(data)

    def tell(self) -> int:
        """How much was written."""
        return self.bytes_written

    def flush(self) -> None:
        """Hands what is buffered to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """What lies beneath is closed by who opened it."""
        self.closed = True


@contextmanager
def opened(output: str, *, force: bool) -> Iterator[Sink]:
    """A sink for `output`, a path or `-`. A file appears under its name when all went well, and else is not there.

    Raises UserError when the file is there already and not to be overwritten, or cannot be written.
    """
    if output == "-":
        sink = Sink(sys.stdout.buffer)
        yield sink
        sink.flush()
        return
    path = Path(output)
    check(path, force=force)
    # Beside the target, so that the move at the end is one within a file system.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            yield Sink(file)
        check(path, force=force)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def check(path: Path, *, force: bool) -> None:
    """Raises UserError when nothing can be, or is to be, written there."""
    if path.is_dir():
        raise UserError(f"--output {path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise UserError(f"--output {path} is no regular file: name one, or use - for standard output")
    if path.exists() and not force:
        raise UserError(f"--output {path} is there already: add --force to overwrite it, or name another file")
