"""`fleet bench storage`: how many bytes a reading takes in the database, before and after compression.

The readings are the simulator's, one a second and device, and come in through the loader. An envelope reaches AWS IoT
Core 40 to 200 ms after its last reading, which is what the column `received_at` has to hold.
"""

import gzip
import io
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
import psycopg
from psycopg import sql
from rich.console import Console
from rich.table import Table

from bench.data import BATCH, STAMP
from bench.server import benchmark_server
from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.stamp import Stamps
from local.timescaledb.edition import is_community
from ops.errors import UserError
from simulator.devices.signals import DeviceSignals
from simulator.scenario.config import SimulatorConfig

_SECONDS_PER_DAY = 86_400
_ENVELOPES_PER_OBJECT = 4_000


@dataclass(frozen=True)
class Size:
    """What the hypertable takes on disk."""

    table: int
    indexes: int
    toast: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.table + self.indexes + self.toast


def run(rows: int, console: Console) -> dict[str, float]:
    """Loads `rows` readings, compresses them where the server can, prints both sizes, and returns the figures."""
    with benchmark_server(console) as (dsn, _), psycopg.connect(dsn, autocommit=True) as connection:
        console.print(f"[dim]loading {rows:,} readings of the simulator")
        _load(connection, rows)
        connection.execute("VACUUM telemetry")
        before = _size(connection)
        figures = {"rows": float(rows), "bytes_per_reading_before": before.total / rows}
        table = Table("per reading", "bytes", "of these table", "indexes", "toast")
        _add(table, "as rows", before, rows)
        if is_community(connection):
            connection.execute("SELECT compress_chunk(chunk) FROM show_chunks('telemetry') chunk")
            after = _size(connection)
            _add(table, "compressed", after, rows)
            figures |= {"bytes_per_reading_after": after.total / rows, "ratio": before.total / after.total}
        console.print(table)
        if "ratio" in figures:
            columns = compressed_columns(connection)
            console.print(_column_table(columns, rows))
            figures |= {f"bytes_per_reading_of_{name}": size_bytes / rows for name, size_bytes in columns.items()}
        if "ratio" not in figures:
            console.print(
                "not compressed: this server has TimescaleDB's Apache edition, which has no columnstore; "
                "name a Community server in FLEET_DATABASE_URL"
            )
        return figures


def _add(table: Table, what: str, size: Size, rows: int) -> None:
    table.add_row(what, *(f"{part / rows:.2f}" for part in (size.total, size.table, size.indexes, size.toast)))


def compressed_columns(connection: psycopg.Connection) -> dict[str, int]:
    """Bytes of each column in the compressed chunks, the greatest first; `metadata` is what finds the batches."""
    chunks = connection.execute(
        "SELECT small.schema_name, small.table_name FROM _timescaledb_catalog.chunk whole "
        "JOIN _timescaledb_catalog.chunk small ON small.id = whole.compressed_chunk_id "
        "JOIN _timescaledb_catalog.hypertable h ON h.id = whole.hypertable_id "
        "WHERE h.schema_name = 'public' AND h.table_name = 'telemetry'"
    ).fetchall()
    sizes: Counter[str] = Counter()
    for schema, name in chunks:
        relation = sql.Identifier(schema, name)
        found = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(relation)).description or ()
        names = [column.name for column in found]
        total = sql.SQL("coalesce(sum(pg_column_size({})), 0)::bigint")
        parts = sql.SQL(", ").join(total.format(sql.Identifier(column)) for column in names)
        row = connection.execute(sql.SQL("SELECT {} FROM {}").format(parts, relation)).fetchone() or ()
        for column, size_bytes in zip(names, row, strict=True):
            sizes["metadata" if column.startswith("_ts_meta") else column] += size_bytes
    return dict(sizes.most_common())


def _column_table(columns: dict[str, int], rows: int) -> Table:
    table = Table("compressed column", "bytes per reading")
    for name, size_bytes in columns.items():
        table.add_row(name, f"{size_bytes / rows:.2f}")
    return table


def _load(connection: psycopg.Connection, rows: int) -> None:
    limits = Limits.around(datetime.now(UTC), retention_days=3650, max_future_seconds=3600, stamps=Stamps(STAMP))
    for number, body in enumerate(_objects(rows)):
        version = ObjectVersion("bench", f"{number}", "", len(body))
        outcome = load_object(connection, version, lambda body=body: io.BytesIO(body), limits)  # type: ignore[misc]
        if outcome.status != "loaded" or outcome.quarantined or outcome.duplicates:
            raise UserError(f"the readings could not be loaded: {outcome}")


def _objects(rows: int) -> Iterator[bytes]:
    lines: list[bytes] = []
    for line in _lines(rows):
        lines.append(line)
        if len(lines) == _ENVELOPES_PER_OBJECT:
            yield gzip.compress(b"".join(lines), 1)
            lines = []
    if lines:
        yield gzip.compress(b"".join(lines), 1)


def _lines(rows: int) -> Iterator[bytes]:
    """Envelopes in the order in which they arrive: of as many devices as fill up whole days."""
    devices = -(-rows // _SECONDS_PER_DAY)
    config = SimulatorConfig(device_count=devices, interval_seconds=1.0)
    fleet = [(name, DeviceSignals(config, name)) for name in config.thing_names()]
    dice = random.Random(config.seed)  # noqa: S311 - times of a benchmark
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    start = int(midnight.timestamp() * 1000)
    offsets = [dice.randrange(1000) for _ in fleet]
    made, seq = 0, 0
    while made < rows:
        for (name, signals), offset in zip(fleet, offsets, strict=True):
            count = min(BATCH, rows - made)
            readings = [signals.reading(start + n * 1000 + offset, n) for n in range(seq, seq + count)]
            made += count
            if readings:
                received_at = readings[-1]["ts"] + dice.randrange(40, 200)
                line = {"readings": readings, "device_id": name, "received_at": received_at, "stamp": STAMP}
                yield orjson.dumps(line) + b"\n"
        seq += BATCH


def _size(connection: psycopg.Connection) -> Size:
    row = connection.execute(
        "SELECT sum(table_bytes)::bigint, sum(index_bytes)::bigint, sum(toast_bytes)::bigint "
        "FROM hypertable_detailed_size('telemetry')"
    ).fetchone()
    assert row is not None  # noqa: S101 - for the type checker: an aggregate has one row
    return Size(*row)
