"""`fleet bench loader`: the loader against psql's \\copy, executemany and COPY through a temporary table."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.table import Table

from bench.data import Readings, recent_start, write_csv, write_objects
from bench.server import benchmark_server
from infra.packaging import function_package
from lambdas.processor.binary_copy import COLUMNS
from ops.errors import UserError
from ops.paths import ROOT

_ROUNDS = 3
_EXECUTEMANY_ROWS = 50_000
_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
_INSERT = (
    f"INSERT INTO telemetry ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (device_id, timestamp, seq) DO NOTHING"
)


@dataclass
class Result:
    """Figures of one benchmark: name -> value, in the order in which they are printed."""

    figures: dict[str, float] = field(default_factory=dict)
    table: Table = field(default_factory=lambda: Table("what", "rows/s", "ratio to psql \\copy", "note"))

    def add(self, what: str, rate: float, reference: float | None, note: str = "") -> None:
        """One line of the table."""
        self.table.add_row(what, f"{rate:,.0f}", f"{rate / reference:.2f}x" if reference else "", note)


class Bench:
    """A server, its migrated database, and the readings in both forms."""

    def __init__(self, dsn: str, psql: str, folder: Path, rows: int) -> None:
        self.dsn = dsn
        self.psql = psql
        self.folder = folder
        self.rows = rows
        self.readings = Readings(rows, 1000, recent_start(rows, 1000))
        self.one = write_objects(self.readings, folder / "one", 1)
        self.forty = write_objects(self.readings, folder / "forty", 40)
        self.csv = folder / "readings.csv"
        write_csv(self.readings, self.csv)

    def empty(self) -> None:
        """An empty table, and no write of an earlier measurement still to be done."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(
                "TRUNCATE telemetry, device_latest, anomalies, ingest.detector, ingest.duplicates, ingest.touched, "
                "ingest.objects, ingest.quarantine RESTART IDENTITY CASCADE"
            )
            connection.execute("CHECKPOINT")

    def count(self) -> int:
        """Rows in the table."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute("SELECT count(*) FROM telemetry").fetchone()
        return int(row[0]) if row else 0

    def _environment(self) -> dict[str, str]:
        """This process's, with the password where libpq looks for it rather than on a command line."""
        return {**os.environ, "PGPASSWORD": str(conninfo_to_dict(self.dsn).get("password", ""))}

    def load(self, files: list[Path], *, detection: bool = True) -> dict[str, float]:
        """The loader's own figures for these objects."""
        options = [] if detection else ["--without-detection"]
        done = subprocess.run(
            [sys.executable, "-m", "bench.loader_process", *options, _without_password(self.dsn), *map(str, files)],
            cwd=ROOT,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise UserError(f"the loader failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        figures: dict[str, float] = json.loads(done.stdout)
        return figures

    def psql_copy(self) -> float:
        """Seconds that psql takes to \\copy the CSV."""
        command = f"\\copy telemetry ({', '.join(COLUMNS)}) FROM '{self.csv}' WITH (FORMAT csv)"
        started = time.perf_counter()
        done = subprocess.run(
            [self.psql, _without_password(self.dsn), "-q", "-v", "ON_ERROR_STOP=1", "-c", command],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise UserError(f"psql failed: {done.stderr.strip()}")
        return time.perf_counter() - started

    def executemany(self) -> float:
        """Rows/s of psycopg's executemany with ON CONFLICT, 1,000 rows a transaction, on the first rows."""
        rows = list(self._tuples(min(self.rows, _EXECUTEMANY_ROWS)))
        with psycopg.connect(self.dsn) as connection:
            started = time.perf_counter()
            for at in range(0, len(rows), 1000):
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.executemany(_INSERT, rows[at : at + 1000])
            return len(rows) / (time.perf_counter() - started)

    def temporary_table(self) -> float:
        """Rows/s of psycopg's COPY to a temporary table, then INSERT ... ON CONFLICT, always."""
        rows = list(self._tuples(self.rows))
        columns = ", ".join(COLUMNS)
        with psycopg.connect(self.dsn) as connection, connection.cursor() as cursor:
            started = time.perf_counter()
            with connection.transaction():
                cursor.execute("CREATE TEMPORARY TABLE incoming (LIKE telemetry) ON COMMIT DROP")
                with cursor.copy(f"COPY incoming ({columns}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
                    copy.set_types(
                        ["text", "timestamptz", "int8", *["float4"] * 4, "jsonb", "int2", "timestamptz", "int8"]
                    )
                    for row in rows:
                        copy.write_row(row)
                cursor.execute(
                    f"INSERT INTO telemetry ({columns}) SELECT {columns} FROM incoming ON CONFLICT DO NOTHING".encode()  # noqa: S608
                )
            return len(rows) / (time.perf_counter() - started)

    def _tuples(self, limit: int) -> Any:
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        made = 0
        for device, received_at, batch in self.readings.envelopes():
            received = epoch + timedelta(milliseconds=received_at)
            for r in batch:
                if made == limit:
                    return
                at = epoch + timedelta(milliseconds=r["ts"])
                metrics = (r["temperature"], r["humidity"], r["pressure"], r["battery"])
                yield (device, at, r["seq"], *metrics, None, 0, received, 1)
                made += 1


def run(rows: int, largest: int, console: Console) -> dict[str, float]:
    """Runs the whole benchmark, prints its table, and returns the figures."""
    folder = Path(tempfile.mkdtemp(prefix="fleet-bench-"))
    # psql runs as this user, the server's folders do not lie here: nobody else needs to read these files.
    try:
        with benchmark_server(console) as (dsn, psql):
            console.print(f"[dim]writing {rows:,} readings in three forms")
            return _measure(Bench(dsn, psql, folder, rows), largest, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure(bench: Bench, largest: int, console: Console) -> dict[str, float]:
    result = Result()
    psql, one, forty, peak = [], [], [], 0.0
    without: dict[str, list[float]] = {"one": [], "forty": []}
    for number in range(_ROUNDS):
        console.print(
            f"[dim]round {number + 1} of {_ROUNDS}: psql, one object, forty objects, with and without detection"
        )
        bench.empty()
        psql.append(bench.rows / bench.psql_copy())
        bench.empty()
        figures = bench.load(bench.one)
        one.append(bench.rows / figures["seconds"])
        peak = max(peak, figures["peak_rss_mb"])
        cpu = figures["cpu_seconds"] / figures["seconds"]
        bench.empty()
        without["one"].append(bench.rows / bench.load(bench.one, detection=False)["seconds"])
        bench.empty()
        forty.append(bench.rows / bench.load(bench.forty)["seconds"])
        bench.empty()
        without["forty"].append(bench.rows / bench.load(bench.forty, detection=False)["seconds"])
    reference = statistics.median(psql)
    ours = statistics.median(one)
    ratios = [a / b for a, b in zip(one, psql, strict=True)]
    result.add("psql \\copy of CSV", reference, reference)
    result.add("loader, one object", ours, reference, f"median of {_ROUNDS} pairs; Python busy {cpu:.0%} of the time")
    result.add("loader, forty objects", statistics.median(forty), reference, "a transaction each")
    costs = {"one": _cost(one, without["one"]), "forty": _cost(forty, without["forty"])}
    for objects, cost in costs.items():
        plural = "object" if objects == "one" else "objects"
        note = f"detection costs {cost:.1%}"
        result.add(
            f"the same without detection, {objects} {plural}", statistics.median(without[objects]), reference, note
        )
    bench.empty()
    many = bench.executemany()
    result.add("executemany, ON CONFLICT", many, reference, f"first {min(bench.rows, _EXECUTEMANY_ROWS):,} rows")
    bench.empty()
    result.add("temporary table always", bench.temporary_table(), reference, "psycopg write_row")
    duplicates = {share: _duplicates(bench, share) for share in (1, 50, 100)}
    for share, rate in duplicates.items():
        result.add(f"loader, {share} % duplicates", rate, reference, "one object")
    for size in (size for size in _SIZES if size <= largest):
        rate, memory = _size(bench, size, console)
        peak = max(peak, memory)
        result.add(f"loader, {size:,} rows", rate, None, f"one object; peak memory {memory:.0f} MB")
    console.print(result.table)
    package = _package(bench)
    console.print(
        f"package {package['zip_mb']:.1f} MB zipped, {package['unzipped_mb']:.1f} MB unzipped; import "
        f"{package['import_ms']:.0f} ms; import to first answer of the database {package['first_query_ms']:.0f} ms"
    )
    return {
        "rows": bench.rows,
        "psql_copy_rows_per_second": reference,
        "loader_rows_per_second": ours,
        "ratio_vs_psql_copy": statistics.median(ratios),
        "ratio_vs_psql_copy_forty_objects": statistics.median(a / b for a, b in zip(forty, psql, strict=True)),
        "ratio_vs_executemany": ours / many,
        "detection_cost": max(costs.values()),
        "detection_cost_one_object": costs["one"],
        "detection_cost_forty_objects": costs["forty"],
        "ratio_all_duplicates": duplicates[100] / reference,
        "peak_rss_mb": peak,
        **package,
    }


def _cost(rates: list[float], without: list[float]) -> float:
    """The share of the rate that something costs, measured in pairs so that noise hits both."""
    return 1 - statistics.median(a / b for a, b in zip(rates, without, strict=True))


def _duplicates(bench: Bench, share: int) -> float:
    """Rows/s when a share of the readings (percent) is there already, spread over the whole object."""
    bench.empty()
    bench.load(bench.one)
    with psycopg.connect(bench.dsn, autocommit=True) as connection:
        # Every device keeps the same share of its readings.
        connection.execute("DELETE FROM telemetry WHERE seq %% 100 >= %s", (share,))
        connection.execute("TRUNCATE ingest.objects, ingest.quarantine CASCADE")
        connection.execute("VACUUM telemetry")
        connection.execute("CHECKPOINT")
    figures = bench.load(bench.one)
    if figures["rows"] + figures["duplicates"] != bench.rows or bench.count() != bench.rows:
        raise UserError(f"{share} % duplicates: {figures} do not add up to {bench.rows} rows")
    return bench.rows / figures["seconds"]


def _size(bench: Bench, size: int, console: Console) -> tuple[float, float]:
    console.print(f"[dim]one object of {size:,} readings")
    readings = Readings(size, 1000, recent_start(size, 1000))
    files = write_objects(readings, bench.folder / f"{size}", 1)
    bench.empty()
    figures = bench.load(files)
    shutil.rmtree(bench.folder / f"{size}")
    return size / figures["seconds"], figures["peak_rss_mb"]


def _package(bench: Bench) -> dict[str, float]:
    """Size of the Lambda package, and how long its import takes in a fresh process of this machine's Python."""
    aws = function_package("processor", "aws")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(shutil.make_archive(f"{folder}/package", "zip", aws))
        zip_mb = archive.stat().st_size / 1e6
    unzipped_mb = sum(path.stat().st_size for path in aws.rglob("*") if path.is_file()) / 1e6
    host = function_package("processor", "host")
    password = str(conninfo_to_dict(bench.dsn).get("password", ""))
    query = f"import lambdas.processor.handler, psycopg; psycopg.connect({_without_password(bench.dsn)!r}).execute('SELECT 1')"
    imports = [_seconds(host, "import lambdas.processor.handler", password) for _ in range(5)]
    queries = [_seconds(host, query, password) for _ in range(5)]
    bare = [_seconds(host, "pass", password) for _ in range(5)]
    return {
        "zip_mb": zip_mb,
        "unzipped_mb": unzipped_mb,
        "import_ms": (statistics.median(imports) - statistics.median(bare)) * 1000,
        "first_query_ms": (statistics.median(queries) - statistics.median(bare)) * 1000,
    }


def _seconds(package: Path, statement: str, password: str) -> float:
    # boto3 is the runtime's, here this checkout's; the package comes first, as in Lambda.
    environment = {**os.environ, "PYTHONPATH": str(package), "AWS_DEFAULT_REGION": "us-east-1", "PGPASSWORD": password}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=environment, cwd=package, check=True)
    return time.perf_counter() - started


def _without_password(dsn: str) -> str:
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    parts.pop("password", None)
    return make_conninfo("", **parts)
