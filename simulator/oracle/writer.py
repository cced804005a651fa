"""The process that writes a ground truth: frames from its standard input, what came of it as JSON to its standard output.

`python -m simulator.oracle.writer DESCRIPTOR`, of the file, which is open and locked. It ends when its input does, and closes
the file properly even then.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import compute

from simulator.oracle.columns import FORMAT, ROW_GROUP_ROWS, SCHEMA, VERSION, writer
from simulator.oracle.frames import MALFORMED, TEXT, Header, read_frames
from simulator.oracle.payloads import VALUES, Reading, Row, rows_of

_BATCH_ROWS = 16_384
_NICE = 10
"""So that the scheduler and the broker go first, and what waits in the pipe is still written in time."""


class Columns:
    """Rows of messages on their way to arrays: what a message says once is kept once."""

    def __init__(self, thing_names: list[str]) -> None:
        self._things = pa.array(thing_names, pa.string())
        self.messages = 0
        self._clear()

    def _clear(self) -> None:
        self._rows: list[Reading | Row] = []
        self._of: list[int] = []
        """Of each row, the place of its message in the following."""
        self._headers: list[Header] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, header: Header, payload: bytes) -> None:
        """The rows of a message."""
        rows = rows_of(payload, malformed=header[3] == MALFORMED)
        self._of += [len(self._headers)] * len(rows)
        self._rows += rows
        self._headers.append(header)

    def take(self) -> pa.RecordBatch:
        """What has been added since the last call."""
        rows, of = self._rows, pa.array(self._of, pa.int32())
        _, devices, attempts, kinds, sent, acknowledged = zip(*self._headers, strict=True)
        first, self.messages = self.messages, self.messages + len(devices)
        arrays = {
            "device": pa.DictionaryArray.from_arrays(pa.array(devices, pa.int32()).take(of), self._things),
            "kind": pa.array(kinds, pa.int8()).take(of),
            "message": pa.array(range(first, self.messages), pa.int64()).take(of),
            "attempts": pa.array(attempts, pa.int32()).take(of),
            "sent_at": _microseconds(sent).take(of),
            "acknowledged_at": _microseconds(acknowledged).take(of),
            "ts": pa.array([row.ts for row in rows], pa.int64()),
            "seq": pa.array([row.seq for row in rows], pa.int64()),
            "extra": pa.array([row.extra if type(row) is Row else None for row in rows], pa.string()),
            "raw": pa.array([row.raw if type(row) is Row else None for row in rows], pa.binary()),
            **{name: pa.array([getattr(row, name) for row in rows], pa.float64()) for name in VALUES},
        }
        self._clear()
        return pa.RecordBatch.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def _microseconds(epoch_seconds: Sequence[float]) -> pa.Array:
    """In whole microseconds; null for a time that never came, which is 0 or not a number."""
    seconds = pa.array(epoch_seconds, pa.float64())
    came = compute.if_else(compute.greater(seconds, 0.0), seconds, None)
    return compute.cast(compute.round(compute.multiply(came, 1e6)), pa.int64())


def write(pipe: BinaryIO, sink: BinaryIO) -> dict[str, Any]:
    """Writes a file of what comes through the pipe; returns how much that was, and whether the recorder ended it."""
    frames = read_frames(pipe)
    facts: dict[str, Any] = {}
    for _, text in frames:
        facts = json.loads(text)
        break
    else:
        return {"complete": False, "messages": 0, "rows": 0}
    columns = Columns(facts.pop("thing_names"))
    waiting: list[pa.RecordBatch] = []
    written, complete = 0, False
    parquet = writer(sink)

    def write_group() -> int:
        rows: int = sum(batch.num_rows for batch in waiting)
        if rows:
            parquet.write_table(pa.Table.from_batches(waiting, SCHEMA), row_group_size=rows)
        waiting.clear()
        return rows

    for header, payload in frames:
        if header[1] == TEXT:
            facts |= json.loads(payload)
            complete = True
            break
        columns.add(header, payload)
        if len(columns) >= _BATCH_ROWS:
            waiting.append(columns.take())
            if len(waiting) * _BATCH_ROWS >= ROW_GROUP_ROWS:
                written += write_group()
    if len(columns):
        waiting.append(columns.take())
    written += write_group()
    facts |= {"complete": complete, "messages": columns.messages}
    parquet.add_key_value_metadata({FORMAT: VERSION, **{name: json.dumps(value) for name, value in facts.items()}})
    parquet.close()
    return {"complete": complete, "messages": columns.messages, "rows": written}


def main() -> None:
    """Writes the file of the command line."""
    os.nice(_NICE)
    # A supervisor sends it to all processes of a run: the run ends the file.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with os.fdopen(int(sys.argv[1]), "wb", buffering=0) as sink, os.fdopen(0, "rb", buffering=0) as pipe:
            outcome = write(pipe, sink)
            os.fsync(sink.fileno())
            outcome["bytes"] = sink.seek(0, os.SEEK_END)
    except OSError as error:
        outcome = {"fault": error.strerror or str(error)}
    except Exception as error:  # whatever it is, the recorder says it in one line
        outcome = {"fault": f"{type(error).__name__}: {error}"}
    print(json.dumps(outcome), flush=True)
    # Not the usual way out: a Parquet writer that could not write would try again when it is collected.
    os._exit(1 if "fault" in outcome else 0)


if __name__ == "__main__":
    main()
