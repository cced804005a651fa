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
from simulator.oracle.frames import MALFORMED, Block, Text, read_frames
from simulator.oracle.payloads import MESSAGE, any_columns, plain_columns

_BATCH_ROWS = 16_384
_PIPE_BYTES = 1024 * 1024
_NICE = 10
"""So that the scheduler and the broker go first, and what waits in the pipe is still written in time."""


class Columns:
    """Blocks of messages on their way to batches of rows."""

    def __init__(self, thing_names: list[str]) -> None:
        self._things = pa.array(thing_names, pa.string())
        self.messages = 0

    def of(self, block: Block) -> pa.RecordBatch:
        """The rows of its messages. What a message says once is made once, and then taken for each of its rows."""
        _, devices, attempts, kinds, sent, acknowledged = zip(*block.headers, strict=True)
        first, self.messages = self.messages, self.messages + len(devices)
        arrays = (None if MALFORMED in kinds else plain_columns(block)) or any_columns(block)
        of = arrays.pop(MESSAGE)
        arrays |= {
            "device": pa.DictionaryArray.from_arrays(pa.array(devices, pa.int32()).take(of), self._things),
            "kind": pa.array(kinds, pa.int8()).take(of),
            "message": compute.add(compute.cast(of, pa.int64()), first),
            "attempts": pa.array(attempts, pa.int32()).take(of),
            "sent_at": _microseconds(sent).take(of),
            "acknowledged_at": _microseconds(acknowledged).take(of),
        }
        return pa.RecordBatch.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA)


def _microseconds(epoch_seconds: Sequence[float]) -> pa.Array:
    """In whole microseconds; null for a time that never came, which is 0 or not a number."""
    seconds = pa.array(epoch_seconds, pa.float64())
    came = compute.if_else(compute.greater(seconds, 0.0), seconds, None)
    return compute.cast(compute.round(compute.multiply(came, 1e6)), pa.int64())


def write(pipe: BinaryIO, sink: BinaryIO) -> dict[str, Any]:
    """Writes a file of what comes through the pipe; returns how much that was, and whether the recorder ended it."""
    frames = read_frames(pipe)
    hello = next(frames, None)
    if not isinstance(hello, Text):
        return {"complete": False, "messages": 0, "rows": 0}
    facts: dict[str, Any] = json.loads(hello.body)
    columns = Columns(facts.pop("thing_names"))
    groups = Groups(sink)
    complete = False
    for frame in frames:
        if isinstance(frame, Text):
            facts |= json.loads(frame.body)
            complete = True
            break
        groups.add(columns.of(frame))
    facts |= {"complete": complete, "messages": columns.messages}
    rows = groups.close({FORMAT: VERSION, **{name: json.dumps(value) for name, value in facts.items()}})
    return {"complete": complete, "messages": columns.messages, "rows": rows}


class Groups:
    """Batches on their way to row groups of a file."""

    def __init__(self, sink: BinaryIO) -> None:
        self._parquet = writer(sink)
        self._small: list[pa.RecordBatch] = []
        """As they come, the blocks of a slow fleet."""
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._small_rows = self._written = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep a batch until there is a row group of them, or more."""
        self._small.append(batch)
        self._small_rows += batch.num_rows
        if self._small_rows >= _BATCH_ROWS:
            self._join()
        if self._rows >= ROW_GROUP_ROWS:
            self._write()

    def close(self, metadata: dict[str, str]) -> int:
        """Write what is left, and the end of the file; returns the number of rows in it."""
        self._join()
        self._write()
        self._parquet.add_key_value_metadata(metadata)
        self._parquet.close()
        return self._written

    def _join(self) -> None:
        if self._small:
            self._batches += pa.Table.from_batches(self._small, SCHEMA).combine_chunks().to_batches()
            self._rows += self._small_rows
        self._small.clear()
        self._small_rows = 0

    def _write(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_batches(self._batches, SCHEMA), row_group_size=self._rows)
        self._written += self._rows
        self._batches.clear()
        self._rows = 0


def main() -> None:
    """Writes the file of the command line."""
    os.nice(_NICE)
    # A supervisor sends it to all processes of a run: the run ends the file.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with os.fdopen(int(sys.argv[1]), "wb", buffering=0) as sink, os.fdopen(0, "rb", buffering=_PIPE_BYTES) as pipe:
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
