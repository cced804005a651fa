"""The columns of a ground truth, how Parquet packs them, and what stands in the file beside them."""

from typing import Any

import pyarrow as pa
from pyarrow import parquet

FORMAT = "fleetledger-oracle"
VERSION = "1"
"""Of the format; a reader refuses another."""
ROW_GROUP_ROWS = 131_072

SCHEMA = pa.schema(
    [
        pa.field("device", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("ts", pa.int64()),
        pa.field("seq", pa.int64()),
        pa.field("temperature", pa.float64()),
        pa.field("humidity", pa.float64()),
        pa.field("pressure", pa.float64()),
        pa.field("battery", pa.float64()),
        pa.field("extra", pa.string()),
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("message", pa.int64(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("sent_at", pa.int64()),
        pa.field("acknowledged_at", pa.int64()),
        pa.field("raw", pa.binary()),
    ]
)
_RISING = ("ts", "seq", "message", "sent_at", "acknowledged_at")
"""From row to row a little: the difference is kept. Everything else repeats itself, so a dictionary is."""


def writer(sink: Any, *, codec_level: int = 3) -> parquet.ParquetWriter:
    """Writes row groups to an open file, zstd."""
    return parquet.ParquetWriter(
        sink,
        SCHEMA,
        compression="zstd",
        compression_level=codec_level,
        use_dictionary=[name for name in SCHEMA.names if name not in _RISING],
        column_encoding=dict.fromkeys(_RISING, "DELTA_BINARY_PACKED"),
        write_statistics=["device", *_RISING],
        version="2.6",
    )
