"""`fleet export`: the file is what the database holds of the span, value by value, and whole or not there."""

import csv
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from pyarrow import parquet
from typer import Typer
from typer.testing import CliRunner, Result

from lambdas.shared.contract import METRICS
from ops.errors import UserError
from ops.export import cli, writers
from ops.export.order import parse_order
from ops.export.query import _conditions
from ops.export.tables import TABLES
from tests.databases import migrated_database
from tests.functional.commands import commands_use
from tests.functional.consumer_database import HOUR, MINUTES, READINGS, fill

Export = Callable[..., Result]
_app = Typer()
_app.command()(cli.export)
NEXT = HOUR + timedelta(hours=1)
AWKWARD = 'a "quoted", text\nover two lines'


@pytest.fixture(scope="module")
def export_dsn(server_dsn: str) -> Iterator[str]:
    """A filled database, with values in it that a careless CSV would spoil."""
    with migrated_database(server_dsn, f"fleet_export_{os.getpid()}") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection)
            connection.execute(
                "INSERT INTO telemetry (device_id, timestamp, seq, temperature, humidity, extra, quality, object_id) "
                "VALUES (%s, %s, 1, 'Infinity', 1e-30, %s, 0, 1), ('', %s, 9223372036854775807, 0.1, 'NaN', NULL, -1, 1)",
                (AWKWARD, HOUR + timedelta(microseconds=1), json.dumps({"note": AWKWARD}), HOUR),
            )
        yield dsn


@pytest.fixture
def reading(export_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(export_dsn, autocommit=True, options="-c timezone=UTC") as connection:
        yield connection


@pytest.fixture
def export(export_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Runs the command on this database. Raises what the command line makes a line of."""
    commands_use(monkeypatch, export_dsn, options="-c timezone=Asia/Tokyo")

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(_app, list(map(str, arguments)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file that is RFC 4180."""
    text = path.read_bytes().decode()
    assert text.endswith("\r\n")
    assert "\n" not in text.replace("\r\n", "").replace(AWKWARD.replace('"', '""'), "")
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def as_csv(value: Any) -> str:
    """A value of the database as the file must have it."""
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def stored(
    connection: psycopg.Connection, relation: str, where: str = "true", *parameters: Any
) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        query = sql.SQL("SELECT * FROM {} WHERE ").format(sql.Identifier(relation)) + sql.SQL(where)
        return cursor.execute(query, parameters).fetchall()


def same_numbers(found: str, wanted: str) -> bool:
    """Texts of numbers differ between languages; what they say must be the very same."""
    if found == wanted:
        return True
    try:
        return float(found) == float(wanted)
    except ValueError:
        return False


@pytest.mark.parametrize("table", TABLES)
def test_both_formats_hold_what_the_database_holds(
    table: str, export: Export, reading: psycopg.Connection, tmp_path: Path
) -> None:
    of = TABLES[table]
    span = ["--from", "-60d", "--to", (HOUR + timedelta(days=1)).isoformat()]
    texts, binary = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    for path in (texts, binary):
        result = export(*span, "--table", table, "--output", path)
        assert result.exit_code == 0
    expected = stored(reading, of.relation, f"{of.time} < %s", HOUR + timedelta(days=1))
    assert len(expected) > 0 or table == "quality"
    assert f"{len(expected):,} rows, {binary.stat().st_size:,} bytes" in result.stderr

    key = [name for name in ("device_id", of.time, "seq", "anomaly_id") if expected and name in expected[0]]
    found = csv_rows(texts)
    assert len(found) == len(expected)
    wanted = [{name: as_csv(value) for name, value in row.items()} for row in expected]
    for one, other in zip(
        *(sorted(rows, key=lambda row: [row[k] for k in key]) for rows in (found, wanted)), strict=True
    ):
        assert one.keys() == other.keys()
        for name in one:
            assert same_numbers(one[name], other[name]) or "nan" in one[name].lower(), (name, one, other)

    arrow = parquet.read_table(binary)
    typed = sorted(map(repr, map(by_python, arrow.to_pylist())))
    assert typed == sorted(map(repr, map(by_python, expected)))


def by_python(row: dict[str, Any]) -> dict[str, Any]:
    """A row in which both sides use the same of Python's types for the same value."""
    return {
        name: json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict)
        else json.dumps(json.loads(value), ensure_ascii=False)
        if name in {"extra", "metadata"} and value is not None
        # Single precision, as psycopg and Arrow each make it a double.
        else float(f"{value:.6g}")
        if isinstance(value, float)
        else value.astimezone(UTC).isoformat()
        if isinstance(value, datetime)
        else value
        for name, value in row.items()
    }


def test_single_precision_comes_back_bit_by_bit(export: Export, reading: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    export("--from", HOUR.isoformat(), "--to", NEXT.isoformat(), "--output", path)
    columns = [metric.name for metric in METRICS]
    found = parquet.read_table(path, columns=["device_id", "seq", *columns]).to_pylist()
    sent = {
        (device, seq): values
        for device, seq, *values in reading.execute(
            sql.SQL("SELECT device_id, seq, {} FROM telemetry").format(
                sql.SQL(", ").join(sql.SQL("float4send({})").format(sql.Identifier(name)) for name in columns)
            )
        )
    }
    assert len(found) > 100
    for row in found:
        packed = [None if row[name] is None else struct.pack(">f", row[name]) for name in columns]
        assert packed == sent[row["device_id"], row["seq"]]


def test_parquet_is_typed_and_says_what_it_holds(
    export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers.ParquetWriter, "block_rows", 50)
    path = tmp_path / "rows.parquet"
    export("--from", HOUR.isoformat(), "--to", NEXT.isoformat(), "--device", "d-1", "--device", "d-2", "-o", path)
    file = parquet.ParquetFile(path)
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types["timestamp"] == "timestamp[us, tz=UTC]"
    assert types["temperature"] == "float"
    assert types["device_id"].startswith("dictionary<values=string, indices=int32")
    assert (types["seq"], types["quality"], types["extra"]) == ("int64", "int16", "string")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [50, 50, 20]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert json.loads(file.metadata.metadata[b"fleetledger"]) == {
        "table": "telemetry",
        "from": HOUR.isoformat(),
        "to": NEXT.isoformat(),
        "devices": "d-1,d-2",
        "site": "",
        "metrics": "",
        "rows": 120,
    }
    assert writers.ROW_GROUP_ROWS == 131_072


def test_the_span_has_its_beginning_and_not_its_end(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for start, end, expected in ((HOUR, NEXT, 60), (NEXT, NEXT + timedelta(microseconds=1), 1)):
        export("--from", start.isoformat(), "--to", end.isoformat(), "--device", "d-1", "-o", path, "--force")
        times = [datetime.fromisoformat(row["timestamp"]) for row in csv_rows(path)]
        assert len(times) == expected
        assert (min(times), max(times) < end) == (start, True)


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2026-01-01T00:00Z", "2026-01-02T00:00Z", ["2026-01-01"]),
        ("2026-01-01T00:00:01Z", "2026-01-03T00:00:01Z", ["2026-01-02", "2026-01-03"]),
        ("2026-01-01T02:00+02:00", "2026-01-01T12:00Z", ["2026-01-01"]),
    ],
)
def test_a_day_is_in_the_span_when_its_midnight_is(
    start: str, end: str, days: list[str], reading: psycopg.Connection
) -> None:
    order = parse_order(table="quality", start=start, end=end, now=datetime(2026, 6, 1, tzinfo=UTC))
    query = sql.SQL(
        "SELECT day FROM generate_series('2025-12-30', '2026-01-05', interval '1 day') g, date(g) AS day WHERE {}"
    )
    found = reading.execute(query.format(sql.SQL(" AND ").join(_conditions(order, None)))).fetchall()
    assert [day for (day,) in found] == list(map(date.fromisoformat, days))


def test_only_what_was_asked_for(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    span = ["--from", "-60d", "--force", "-o", path]
    export(*span, "--site", "plant", "--metric", "humidity", "--metric", "battery")
    found = csv_rows(path)
    assert {row["device_id"] for row in found} == {"d-1"}
    assert len(found) == MINUTES
    assert list(found[0]) == [
        "device_id", "timestamp", "seq", "humidity", "battery", "extra", "quality", "received_at", "object_id"
    ]  # fmt: skip
    export(*span, "--table", "hourly", "--metric", "temperature")
    assert [name for name in csv_rows(path)[0] if "_" in name and not name.endswith(("_id", "_seq"))] == [
        "reading_count", "avg_temp", "min_temp", "max_temp", "stddev_temp", "count_temp", "invalid_count",
        "out_of_range_count", "late_count",
    ]  # fmt: skip
    export(*span, "--table", "anomalies", "--metric", "temperature")
    assert csv_rows(path) == []
    export("--table", "latest", "-o", path, "--force")
    assert len(csv_rows(path)) == 3


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_no_rows_are_a_header_and_said(name: str, export: Export, tmp_path: Path) -> None:
    path = tmp_path / name
    result = export("--from", "2020-01-01", "--to", "2020-01-02", "-o", path)
    assert ": 0 rows," in result.stderr
    if path.suffix == ".parquet":
        assert parquet.read_table(path).num_rows == 0
        assert "temperature" in parquet.read_schema(path).names
    else:
        assert path.read_text().startswith("device_id,timestamp,seq,temperature")
        assert path.read_bytes().count(b"\r\n") == 1


def test_standard_output_is_the_rows_and_nothing_else(export: Export) -> None:
    result = export("--from", HOUR.isoformat(), "--to", NEXT.isoformat(), "--device", "d-1")
    assert len(result.stdout_bytes.splitlines()) == 61
    assert result.stdout_bytes.startswith(b"device_id,")
    assert "60 rows" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--table telemetry needs --from: ISO 8601"),
        (["--from", "yesterday"], "--from yesterday: not a time; use ISO 8601"),
        (["--from", "-1h", "--to", "-2h"], "--from -1h is not before --to -2h"),
        (["--from", "2026-01-01", "--to", "2026-01-01"], "--from 2026-01-01 is not before --to 2026-01-01"),
        (
            ["--from", "-1h", "--table", "readings"],
            "--table readings: there is no such table: use telemetry, 1m, hourly",
        ),
        (["--from", "-1h", "--metric", "wind"], "--metric wind: there is no such metric: use temperature, humidity"),
        (["--from", "-1h", "--table", "quality", "--metric", "humidity"], "--metric does not go with --table quality"),
        (["--from", "-1h", "--format", "xlsx"], "--format xlsx: there is no such format: use csv or parquet"),
        (["--from", "-1h", "--device", "d-1", "--device", "d-8"], "--device d-8: there is no such device in local"),
        (["--from", "-1h", "--site", "mars"], "--site mars: there is no such site in local"),
        (["--from", "-1h", "--site", "plant", "--device", "d-2"], "--device d-2 is not at --site plant"),
        (["--from", "-1h", "--output", "no/where.csv"], "--output no/where.csv: there is no folder no"),
        (["--from", "-1h", "--output", "/dev/null", "--force"], "--output /dev/null is no regular file"),
        (["--from", "-1h", "--output", "."], "--output . is a folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], line: str, export: Export) -> None:
    with pytest.raises(UserError) as raised:
        export(*arguments)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_there_is_overwritten_only_when_told(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("mine")
    with pytest.raises(UserError, match="is there already: add --force"):
        export("--from", "-60d", "-o", path)
    assert path.read_text() == "mine"
    export("--from", "-60d", "-o", path, "--force")
    assert len(csv_rows(path)) == READINGS + 2


@pytest.mark.parametrize("fault", ["interrupt", "server", "disk"])
def test_a_fault_leaves_the_file_as_it_was(
    fault: str, export: Export, reading: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("mine")
    write = writers.CsvWriter.write
    blocks = []

    def failing(self: writers.CsvWriter, rows: Any) -> None:
        write(self, rows)
        blocks.append(len(rows))
        assert [each.name for each in tmp_path.iterdir() if each != path] != []
        if len(blocks) == 3:
            if fault == "interrupt":
                raise KeyboardInterrupt
            if fault == "disk":
                raise OSError(28, "No space left on device")
            reading.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'fleet export'"
            )

    monkeypatch.setattr(writers.CsvWriter, "block_rows", 10)
    monkeypatch.setattr(writers.CsvWriter, "write", failing)
    # More than what fits between server and client.
    reading.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, extra, object_id) "
        "SELECT 'long', %s::timestamptz - interval '1 day', n, jsonb_build_object('x', repeat('x', 100000)), 1 "
        "FROM generate_series(1, 200) n",
        (HOUR,),
    )
    try:
        expected: type[BaseException] = KeyboardInterrupt if fault == "interrupt" else UserError
        with pytest.raises(expected) as raised:
            _raising(export, "--from", "-60d", "-o", path, "--force")
        assert len(blocks) >= 3
        if fault == "server":
            assert str(raised.value).startswith("the database gave up: ")
        if fault == "disk":
            assert str(raised.value) == f"--output {path}: cannot be written: No space left on device"
        assert path.read_text() == "mine"
        assert [each.name for each in tmp_path.iterdir()] == ["rows.csv"]
    finally:
        reading.execute("DELETE FROM telemetry WHERE device_id = 'long'")


def _raising(export: Export, *arguments: object) -> None:
    """The runner makes an exit code of an interruption, as typer does."""
    if export(*arguments).exit_code == 130:
        raise KeyboardInterrupt


def test_whoever_reads_may_stop(export_dsn: str) -> None:
    """As in `fleet export ... | head`: no traceback."""
    code = (
        "import sys, psycopg\nfrom ops import target\nfrom ops.export import cli\nfrom typer import Typer\n"
        "dsn = sys.argv.pop(1)\n"
        "target.database = lambda env, application_name: psycopg.connect(dsn, autocommit=True)\n"
        "app = Typer()\napp.command()(cli.export)\napp()"
    )
    command = [sys.executable, "-c", code, export_dsn, "--from", "-60d"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
