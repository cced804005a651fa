"""Why a server did not start, from its log."""

import os
import re
from pathlib import Path

_TELLING = re.compile(r"\b(?:FATAL|PANIC|ERROR|initdb: error|could not|cannot)\b")
_LONGEST_READ_BYTES = 65536


def open_log(log_file: Path) -> int:
    """A descriptor to append with; the log is for the invoking user alone."""
    return os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def last_failure(log_file: Path, since_bytes: int = 0) -> str:
    """The last line written after `since_bytes` that tells of a failure, else the last line, else nothing."""
    with log_file.open("rb") as stream:
        stream.seek(max(since_bytes, log_file.stat().st_size - _LONGEST_READ_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    return (telling or lines or [""])[-1]
