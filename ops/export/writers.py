"""What is made of rows of CSV, as PostgreSQL writes them: CSV as RFC 4180 has it, or Parquet.

Both take blocks of rows without their line ends, so that what is in memory is one block, whatever is exported.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ops.export.destination import Sink
from ops.export.query import Column

CSV_BLOCK_ROWS = 4_096
ROW_GROUP_ROWS = 131_072
_END = b"\r\n"
Row = bytes | bytearray | memoryview
"""Of CSV, without its line end."""


class Writer(Protocol):
    """Writes blocks of rows."""

    block_rows: int
    """How many rows a block has, but for the last."""

    def write(self, rows: Sequence[Row]) -> None:
        """Writes a block."""
        ...

    def finish(self, rows: int) -> None:
        """Writes what comes at the end, when there were so many rows."""
        ...


class CsvWriter:
    """RFC 4180 with a header: https://www.rfc-editor.org/rfc/rfc4180. A NULL is empty, an empty text is `""`."""

    block_rows = CSV_BLOCK_ROWS

    def __init__(self, sink: Sink, columns: Sequence[Column]) -> None:
        self._sink = sink
        sink.write(",".join(column.name for column in columns).encode() + _END)

    def write(self, rows: Sequence[Row]) -> None:
        """PostgreSQL ends lines as its own system does; the standard knows CRLF only."""
        self._sink.write(_END.join(rows) + _END)

    def finish(self, rows: int) -> None:
        """Nothing."""


class ParquetWriter:
    """A row group per block, zstd, times in UTC to the microsecond, devices by dictionary."""

    block_rows = ROW_GROUP_ROWS

    def __init__(self, sink: Sink, columns: Sequence[Column], facts: Mapping[str, str]) -> None:
        import pyarrow as pa
        from pyarrow import csv, parquet

        self._pa, self._csv = pa, csv
        self._facts = facts
        self._schema = pa.schema([(column.name, self._type(column)) for column in columns])
        self._read = csv.ReadOptions(column_names=self._schema.names, block_size=16 << 20)
        self._parse = csv.ParseOptions(newlines_in_values=True)
        self._convert = csv.ConvertOptions(
            column_types=self._schema,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["true"],
            false_values=["false"],
        )
        self._file = parquet.ParquetWriter(pa.PythonFile(sink, mode="w"), self._schema, compression="zstd")

    def _type(self, column: Column) -> Any:
        """The Arrow type of a column: https://www.postgresql.org/docs/current/datatype.html"""
        pa = self._pa
        if column.name == "device_id":
            return pa.dictionary(pa.int32(), pa.string())
        by_oid = {
            16: pa.bool_(),
            20: pa.int64(),
            21: pa.int16(),
            23: pa.int32(),
            700: pa.float32(),
            701: pa.float64(),
            1082: pa.date32(),
            1184: pa.timestamp("us", tz="UTC"),
        }
        return by_oid.get(column.type_oid, pa.string())

    def write(self, rows: Sequence[Row]) -> None:
        """Arrow reads the block, typed, and writes it as one row group."""
        block = self._pa.BufferReader(b"\n".join(rows) + b"\n")
        table = self._csv.read_csv(block, self._read, self._parse, self._convert)
        self._file.write_table(table, row_group_size=self.block_rows)

    def finish(self, rows: int) -> None:
        """The footer, with what was asked for and how many rows that was."""
        self._file.add_key_value_metadata({"fleetledger": json.dumps({**self._facts, "rows": rows})})
        self._file.close()
