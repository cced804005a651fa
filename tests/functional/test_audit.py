"""The balance sheet, by a ground truth and by sequence numbers, against a real TimescaleDB of either edition."""

import gzip
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pyarrow as pa
import pytest
import typer
from moto import mock_aws
from pyarrow import parquet

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from ops.audit import cli
from ops.audit.sheet import Entry
from ops.audit.waiting import Sources
from simulator.oracle import columns
from tests.functional.commands import Commands, commands_use
from tests.functional.rollups import bring_up_to_date, stop_refreshing
from tests.stamping import STAMP, STAMPS

BUCKET = "raw"
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = NOW.replace(minute=0, second=0) - timedelta(hours=5)
"""Closed, whatever the time."""
SECOND = timedelta(seconds=1)
TELEMETRY, DUPLICATE, MALFORMED = 0, 1, 2


class Run:
    """Messages of a fleet: into a ground truth, and into objects."""

    def __init__(self, connection: psycopg.Connection, s3: Any, spool: Path) -> None:
        self.connection = connection
        self.s3 = s3
        self.spool = spool
        self.rows: list[dict[str, Any]] = []
        self.depth = 0
        self._objects = 0

    def reading(self, seq: int, *, at: datetime | None = None, **members: Any) -> dict[str, Any]:
        at = at or HOUR + seq * SECOND
        return {
            "ts": round(at.timestamp() * 1000),
            "seq": seq,
            "temperature": 20.1 + seq / 7,
            "humidity": 50.0,
        } | members

    def sent(
        self, device: str, *readings: dict[str, Any], kind: int = TELEMETRY, acked: bool = True, attempts: int = 1
    ) -> bytes:
        """A message in the ground truth; returns the line that the rule makes of it."""
        for each in readings:
            known = {name: each.get(name) for name in ("ts", "seq", "humidity", "pressure", "battery")}
            extra = {n: v for n, v in each.items() if n not in known and (n != "temperature" or isinstance(v, str))}
            value = each["temperature"]
            self._row(device, kind, acked, attempts, **known, temperature=None if isinstance(value, str) else value,
                      extra=json.dumps(extra) if extra else None)  # fmt: skip
        message = {"readings": list(readings), "device_id": device, "received_at": _us(NOW) // 1000, "stamp": STAMP}
        return json.dumps(message).encode()

    def broken(self, device: str, payload: bytes, *, acked: bool = True) -> None:
        self._row(device, MALFORMED, acked, 1, raw=payload)

    def _row(self, device: str, kind: int, acked: bool, attempts: int, **values: Any) -> None:
        sent_at = _us(HOUR + timedelta(minutes=30))
        row: dict[str, Any] = dict.fromkeys(columns.SCHEMA.names)
        row |= {"device": device, "kind": kind, "message": len(self.rows), "attempts": attempts, "sent_at": sent_at}
        self.rows.append(row | values | {"acknowledged_at": sent_at + 9000 if acked else None})

    def store(self, *lines: bytes) -> ObjectVersion:
        """An object that nobody has loaded."""
        body = gzip.compress(b"".join(line + b"\n" for line in lines))
        self._objects += 1
        key = f"{HOUR:year=%Y/month=%m/day=%d/hour=%H}/{self._objects}.gz"
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        return ObjectVersion(BUCKET, key, "", len(body))

    def load(self, *lines: bytes) -> None:
        version = self.store(*lines)
        body = self.s3.get_object(Bucket=BUCKET, Key=version.key)["Body"].read()
        limits = Limits.for_arrival(NOW, NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
        assert load_object(self.connection, version, lambda: io.BytesIO(body), limits).status == "loaded"

    def truth(self, path: Path) -> str:
        """The file."""
        with path.open("wb") as sink, columns.writer(sink) as writer:
            writer.write_table(pa.Table.from_pylist(self.rows, columns.SCHEMA))
            facts = {"seed": 1, "topic": "t", "simulator_version": "1", "devices": 2, "messages": 1, "complete": True}
            facts |= {"started_at": HOUR.isoformat(), "ended_at": NOW.isoformat()}
            writer.add_key_value_metadata(
                {columns.FORMAT: columns.VERSION} | {name: json.dumps(value) for name, value in facts.items()}
            )
        assert parquet.read_metadata(path).num_rows == len(self.rows)
        return str(path)


def _us(at: datetime) -> int:
    return round(at.timestamp()) * 1_000_000


@pytest.fixture
def run(
    connection: psycopg.Connection, database_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Run]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    stop_refreshing(connection)
    commands_use(monkeypatch, database_dsn, options="-c role=iot_operator")
    with mock_aws():
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket=BUCKET)
        made = Run(connection, s3, tmp_path / "spool")
        at = Sources(s3, BUCKET, made.spool, lambda: made.depth, timedelta(seconds=1))
        monkeypatch.setattr(cli, "sources", lambda _: at)
        monkeypatch.setattr(cli, "session_for", lambda _: boto3.Session(region_name="us-east-1"))
        yield made


def _app() -> Commands:
    app = typer.Typer()
    app.command()(cli.audit)
    return Commands(app)


def _audit(*arguments: str, exit_code: int) -> dict[str, Any]:
    done = _app().run(*arguments, "--json")
    assert done.exit_code == exit_code, f"{done.output} {done.exception!r}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _figures(found: dict[str, Any]) -> dict[str, int]:
    return {name: number for name, number in found["total"].items() if number and name != "residual_ppm"}


def test_every_reading_is_found_with_the_values_that_were_sent(run: Run, tmp_path: Path) -> None:
    r = run.reading
    plain = run.sent("a", *(r(n) for n in range(1, 101)))
    odd = run.sent("a", r(101, temperature="hot", fw={"v": [1, "x"]}), r(102, temperature=300.0), r(103, pressure=1e39))
    # JSON has no single precision: what is sent twice is the same, and what has too many digits is rounded once.
    tiny = run.sent(
        "b", r(1, temperature=16777217.0, battery=1 / 3), r(2, humidity=-0.0, at=HOUR + timedelta(milliseconds=1))
    )
    again = run.sent("a", *(r(n) for n in range(1, 11)), kind=DUPLICATE)
    retried = run.sent("a", *(r(n) for n in range(104, 106)), attempts=2)
    doubt = run.sent("b", r(3), acked=False)
    run.sent("b", r(4), acked=False, attempts=0)
    refused = run.sent("b", {"ts": _us(NOW + timedelta(days=2)) // 1000, "seq": 5, "temperature": 1.0})
    run.broken("b", b'{"temperature": 21.5, "token": "x1"}')
    run.broken("b", b'{"readings": ["x2"]}')
    run.broken("a", b"\xff not json x3")
    stamped = {"device_id": "b", "received_at": _us(NOW) // 1000, "stamp": STAMP}
    run.load(plain, odd, tiny, doubt, refused, retried)
    run.load(again, retried)
    run.load(
        json.dumps({"temperature": 21.5, "token": "x1", **stamped}).encode(),
        json.dumps({"readings": ["x2"], **stamped}).encode(),
        b"\xff not json x3",
    )
    path = run.truth(tmp_path / "run.parquet")
    found = _audit("--oracle", path, exit_code=0)
    assert _figures(found) == {"expected": 121, "rows": 107, "duplicates": 10, "quarantined": 4}
    assert (found["in_doubt_arrived"], found["in_doubt_absent"], found["unexplained_duplicates"]) == (1, 1, 0)
    assert found["ledger_duplicates"] == 12
    assert found["quarantine_reasons"].pop("timestamp_in_the_future") == 1
    assert sum(found["quarantine_reasons"].values()) == 3
    done = _app().run("--oracle", path, "--device", "a", "--from", HOUR.isoformat())
    assert "every one of 116 acknowledged readings is accounted for" in done.stdout, done.output
    assert "not available here" in done.stdout
    assert done.exit_code == 0
    stored = run.connection.execute(
        "SELECT device_id, sum(expected), sum(rows + duplicates + quarantined + in_flight + missing) FROM ingest.balance "
        "WHERE source = 'oracle' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert stored == [("a", 116, 116), ("b", 5, 5)], "the second audit wrote the same again"


def test_what_is_lost_changed_or_strange_is_named(run: Run, tmp_path: Path) -> None:
    r = run.reading
    good, lost = run.sent("a", *(r(n) for n in range(1, 31))), run.sent("a", r(31), r(32))
    spooled, waiting = run.sent("a", r(33)), run.sent("b", *(r(n) for n in range(1, 6)))
    run.broken("b", b"lost payload")
    run.broken("b", b"waiting payload")
    stamped = {"device_id": "b", "received_at": _us(NOW - SECOND) // 1000, "stamp": STAMP}
    run.load(good, json.dumps({"readings": [r(99, at=HOUR + 4.5 * SECOND)], **stamped}).encode())
    run.load(json.dumps({"foo": 1, **stamped}).encode())
    run.store(waiting, b"waiting payload")
    (run.spool / "stream").mkdir(parents=True)
    (run.spool / "stream" / "1.open").write_bytes(spooled + b"\n")
    run.connection.execute("UPDATE telemetry SET temperature = 0 WHERE seq = 3")
    run.connection.execute("UPDATE telemetry SET quality = 16 WHERE seq = 4")
    path = run.truth(tmp_path / "run.parquet")
    found = _audit("--oracle", path, exit_code=1)
    assert _figures(found) == {"expected": 40, "rows": 30, "in_flight": 7, "missing": 3, "differing": 2}
    assert [(each["device_id"], each["seq"]) for each in found["missing_readings"]] == [
        ("a", 31),
        ("a", 32),
        ("b", None),
    ]
    assert found["missing_readings"][0]["timestamp"] == (HOUR + 31 * SECOND).isoformat()
    assert [each["seq"] for each in found["differing_readings"]] == [3, 4]
    assert (found["differing_readings"][0]["found"]["temperature"], found["unexpected_rows"]) == (0, 1)
    assert [each["seq"] for each in found["unexpected"]] == [99]
    assert [each["reason"] for each in found["unexpected_quarantined"]] == ["no_timestamp"]
    shown = _app().run("--oracle", path)
    assert "3 of 40 acknowledged readings are missing; 2 rows differ" in shown.stdout
    run.depth = 1
    assert _figures(_audit("--oracle", path, "--device", "a", exit_code=1))["missing"] == 2, "they are not young"
    run.load(lost, spooled, waiting)
    assert _figures(_audit("--oracle", path, exit_code=1)) == {
        "expected": 40, "rows": 38, "in_flight": 1, "missing": 1, "differing": 2,
    }  # fmt: skip
    assert "no ground truth" in _app().refused("--oracle", __file__)
    assert "before" in _app().refused("--from", "1h", "--to", "2h")


def _balances(run: Run, device: str = "a") -> dict[int, tuple[int, ...]]:
    """Hours after HOUR: expected, rows, quarantined, missing."""
    rows = run.connection.execute(
        "SELECT extract(epoch FROM hour - %s)::bigint / 3600, expected, rows, quarantined, missing FROM ingest.balance "
        "WHERE device_id = %s AND source = 'sequence'",
        (HOUR, device),
    ).fetchall()
    return {row[0]: row[1:] for row in rows}


def _lines(run: Run, seqs: range, *, device: str = "a", begin: int = 1) -> bytes:
    """Every five minutes one, number `begin` at HOUR."""
    readings = [run.reading(n, at=HOUR + (n - begin) * timedelta(minutes=5)) for n in seqs]
    message = {"readings": readings, "device_id": device, "received_at": _us(NOW) // 1000, "stamp": STAMP}
    return json.dumps(message).encode()


def test_closed_hours_are_balanced_by_themselves_and_again_when_late_readings_come(run: Run) -> None:
    run.load(_lines(run, range(1, 10)), _lines(run, range(16, 37)), _lines(run, range(1, 37), device="b"))
    run.load(_lines(run, range(101, 105), device="restarts", begin=101))
    run.load(_lines(run, range(1, 9), device="restarts", begin=-3))
    # The newest hour first, and what follows a balanced hour again.
    assert bring_up_to_date(run.connection).balances_written == 2 + (2 + 2) + (3 + 2)
    # 10 to 15 are missing: 10 to 12 of hour 0, the rest of hour 1, where the sequence goes on.
    assert _balances(run) == {0: (9, 9, 0, 0), 1: (15, 9, 0, 6), 2: (12, 12, 0, 0)}
    assert _balances(run, "b") == dict.fromkeys(range(3), (12, 12, 0, 0))
    assert _balances(run, "restarts") == {0: (12, 12, 0, 0)}, "a counter that begins anew leaves no gap"
    again = bring_up_to_date(run.connection)
    assert (again.balances_written, again.balance_expected) == (0, 84)
    assert again.balance_missing_ppm == pytest.approx(6e6 / 84)
    # A reading of the hour before closes a part of the gap; one that was refused is no gap either.
    future = _us(NOW + timedelta(days=3)) // 1000
    refused = {"ts": future, "seq": 15, "device_id": "a", "received_at": _us(NOW) // 1000, "stamp": STAMP}
    run.load(_lines(run, range(10, 13)), json.dumps(refused).encode())
    run.connection.execute("UPDATE ingest.quarantine SET quarantined_at = %s", (HOUR + timedelta(minutes=70),))
    assert bring_up_to_date(run.connection).balances_written == 2
    assert _balances(run) == {0: (12, 12, 0, 0), 1: (12, 9, 1, 2), 2: (12, 12, 0, 0)}
    run.load(_lines(run, range(13, 15)))
    bring_up_to_date(run.connection)
    assert _balances(run)[1] == (12, 11, 1, 0)
    # By each reading the same: one rule.
    by_rollup, by_reading = (
        run.connection.execute(
            "SELECT * FROM generate_series(%s, %s, interval '1 hour') hour, ingest.sequence_balance(hour, NULL, %s) "
            "ORDER BY 1, 2",
            (HOUR, HOUR + timedelta(hours=2), each),
        ).fetchall()
        for each in (False, True)
    )
    assert by_rollup == by_reading
    assert len(by_rollup) == 7
    # What is older than readings are kept goes.
    run.connection.execute(
        "INSERT INTO ingest.balance (device_id, hour, source, expected) VALUES ('a', '2020-01-01Z', 'oracle', 1)"
    )
    bring_up_to_date(run.connection)
    kept = "SELECT count(*) FROM ingest.balance WHERE hour < '2021-01-01Z'"
    assert run.connection.execute(kept).fetchone() == (1,), "nobody has asked for a retention"
    run.connection.execute("SELECT ingest.apply_settings()")
    bring_up_to_date(run.connection)
    assert run.connection.execute(kept).fetchone() == (0,)


def test_any_fleet_is_audited_by_its_sequence_numbers(run: Run) -> None:
    run.load(_lines(run, range(1, 10)), _lines(run, range(16, 25)))
    bring_up_to_date(run.connection)
    run.store(_lines(run, range(13, 15)))
    begin = HOUR.isoformat()
    found = _audit("--from", begin, exit_code=1)
    assert _figures(found) == {"expected": 24, "rows": 18, "in_flight": 2, "missing": 4}
    assert "4 of 24 expected readings are missing" in _app().run("--from", begin).stdout
    assert _figures(_audit("--from", begin, "--device", "none", exit_code=0)) == {}
    run.load(_lines(run, range(10, 16)))
    bring_up_to_date(run.connection)
    assert _figures(_audit("--from", begin, exit_code=0))["rows"] == 24, "the object that waits holds what is there now"


def test_a_sheet_adds_up() -> None:
    assert Entry(1, 1) + Entry(3, 1, 0, 1, 0, 1) == Entry(4, 2, 0, 1, 0, 1)
    assert (Entry(4, missing=1).residual_ppm, Entry().residual_ppm) == (250_000, 0)
