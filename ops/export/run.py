"""The export itself: one statement, hence one state of the database, streamed from the server to the file."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg

from ops.export.destination import Sink
from ops.export.order import Format, Order
from ops.export.query import build
from ops.export.writers import CsvWriter, ParquetWriter, Row, Writer

Progress = Callable[[int, int], None]
"""Rows and bytes so far."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    rows: int
    bytes_written: int
    seconds: float


def export(
    connection: psycopg.Connection, order: Order, form: Format, sink: Sink, environment: str, progress: Progress
) -> Exported:
    """Writes what the order asks for, in the order in which the server finds it.

    Raises UserError when a device or site is not there, psycopg.Error when the server gives up.
    """
    began = time.monotonic()
    rows = 0
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")
        # However long it takes; and texts of values from which they are read back without loss.
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute("SET LOCAL datestyle = 'ISO'")
        cursor.execute("SET LOCAL extra_float_digits = 1")
        query = build(connection, order, environment)
        writer: Writer = (
            ParquetWriter(sink, query.columns, order.facts()) if form == "parquet" else CsvWriter(sink, query.columns)
        )
        with cursor.copy(query.copy) as copy:
            for block in _blocks(copy, writer.block_rows):
                writer.write(block)
                rows += len(block)
                progress(rows, sink.bytes_written)
        writer.finish(rows)
    return Exported(rows, sink.bytes_written, time.monotonic() - began)


def _blocks(copy: psycopg.Copy, size: int) -> Iterator[list[Row]]:
    """Rows without their line ends. The server sends one at a time, whatever line ends are in it.

    https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY
    """
    block: list[Row] = []
    for row in copy:
        block.append(row[:-1])
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
