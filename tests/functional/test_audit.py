"""The balance sheet, by a ground truth and by sequence numbers, against a real TimescaleDB of either edition."""

import contextlib
import gzip
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pyarrow as pa
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws
from pyarrow import parquet

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from ops.audit import cli
from ops.audit.broken import Broken, match
from ops.audit.lines import Bare, Key
from ops.audit.sheet import Entry
from ops.audit.staging import EPOCH, milliseconds
from ops.audit.waiting import Sources
from simulator.devices.device import Device
from simulator.devices.envelope import Message, MessageKind
from simulator.oracle import columns
from simulator.oracle.payloads import VALUES, rows_of
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.loading import load_config
from simulator.scenario.ready_made import scenario_file
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
            self._row(device, kind, acked, attempts, timedelta(0), **known, temperature=None if isinstance(value, str) else value,
                      extra=json.dumps(extra) if extra else None)  # fmt: skip
        message = {"readings": list(readings), "device_id": device, "received_at": _us(NOW) // 1000, "stamp": STAMP}
        return json.dumps(message).encode()

    def broken(
        self, device: str, payload: bytes, *, acked: bool = True, attempts: int = 1, at: timedelta = timedelta(0)
    ) -> bytes:
        """A payload of no use, sent `at` after the half hour; returns what the emulator's rule makes of one that is no
        JSON object."""
        self._row(device, MALFORMED, acked, attempts, at, raw=payload)
        return self.bare(device, at=at)

    def bare(self, device: str, *, at: timedelta = timedelta(0)) -> bytes:
        received = _us(HOUR + timedelta(minutes=30) + at) // 1000 + 3
        return json.dumps({"device_id": device, "received_at": received, "stamp": STAMP}).encode()

    def _row(self, device: str, kind: int, acked: bool, attempts: int, later: timedelta, **values: Any) -> None:
        sent_at = _us(HOUR + timedelta(minutes=30) + later)
        row: dict[str, Any] = dict.fromkeys(columns.SCHEMA.names)
        row |= {"device": device, "kind": kind, "message": len(self.rows), "attempts": attempts, "sent_at": sent_at}
        self.rows.append(row | values | {"acknowledged_at": sent_at + 9000 if acked else None})

    def message(self, device: str, message: Message, *, acked: bool, attempts: int) -> list[Key]:
        """A message of the simulator's in the ground truth; returns the readings in it."""
        rows = rows_of(message.payload, malformed=message.kind is MessageKind.MALFORMED)
        for row in rows:
            values = {n: getattr(row, n, None) for n in ("ts", "seq", *VALUES, "extra", "raw")}
            self._row(device, message.kind, acked, attempts, timedelta(0), **values)
        return [Key(device, row.ts, row.seq or 0) for row in rows if row.ts is not None]

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


def test_payloads_of_which_the_rule_passes_on_nothing_are_matched_by_device_and_time(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, array, number = b"no JSON", b'["x"]', b"17"
    hour = timedelta(minutes=20)
    lines = [run.broken("a", text), run.broken("a", array, at=SECOND), run.broken("b", number, at=hour)]
    run.broken("a", b'{"x": 1}')
    lines.append(json.dumps({"x": 1, **json.loads(run.bare("a"))}).encode())
    run.broken("a", b"two\nlines \xff")
    run.load(*lines, b"two", b"lines \xff")  # of what AWS passes on as it is, a line feed ends a line
    run.load(run.sent("b", run.reading(1)), run.sent("b", run.reading(1), kind=DUPLICATE))
    run.sent("b", run.reading(2), acked=False, attempts=0)
    doubtful = run.broken("b", b"in doubt", acked=False, attempts=2, at=2 * hour)
    run.load(doubtful, doubtful)
    path = run.truth(tmp_path / "run.parquet")
    found = _audit("--oracle", path, exit_code=0)
    assert _figures(found) == {"expected": 7, "rows": 1, "duplicates": 1, "quarantined": 5}
    assert (found["broken_in_doubt"], found["unexplained_duplicates"]) == (1, 0)
    assert found["quarantine_reasons"].pop("no_timestamp") == 6
    # A part of the run: what was broken in the rest of it is no surprise, and a part of an hour is not written down.
    run.connection.execute("DELETE FROM ingest.balance")
    narrow = _audit("--oracle", path, "--from", (HOUR + timedelta(minutes=40)).isoformat(), exit_code=0)
    assert _figures(narrow) == {"expected": 1, "quarantined": 1}
    assert run.connection.execute("SELECT count(*) FROM ingest.balance").fetchone() == (0,)

    # What the same devices sent before this run is of no concern, even if it is the same to the byte, or if a clock
    # that is wrong makes the run's span as long.
    early = {"device_id": "a", "received_at": _us(HOUR - 60 * SECOND) // 1000, "stamp": STAMP}
    run.load(
        json.dumps({**run.reading(1), **early}).encode(),
        json.dumps(early).encode(),
        json.dumps({"x": 1, **early}).encode(),
    )
    run.sent("b", {"ts": _us(HOUR) // 1000, "seq": 9, "temperature": 1.0}, acked=False)
    path = run.truth(tmp_path / "run.parquet")
    assert _audit("--oracle", path, exit_code=0)["total"]["expected"] == 7

    # One on its way, one lost, and of another device or time one that nobody sent.
    run.broken("a", b"lost", at=2 * SECOND)
    run.store(run.broken("b", b"on its way", at=hour + SECOND), *lines)
    path = run.truth(tmp_path / "more.parquet")
    run.load(run.bare("b", at=-hour), run.sent("c", run.reading(1)), run.bare("c", at=hour))
    found = _audit("--oracle", path, exit_code=1)
    assert _figures(found) == {
        "expected": 9,
        "rows": 1,
        "duplicates": 1,
        "quarantined": 5,
        "in_flight": 1,
        "missing": 1,
    }
    assert [(each["device_id"], each["timestamp"]) for each in found["missing_readings"]] == [("a", None)]
    assert [(each["device_id"], each["reason"]) for each in found["unexpected_quarantined"]] == [("b", "no_timestamp")]
    # AWS's rule counts what is no JSON and lets it go: that is no loss, and one that was a JSON object still is.
    run.broken("a", b'{"lost": 1}')
    path = run.truth(tmp_path / "aws.parquet")
    aws = Sources(run.s3, BUCKET, None, lambda: 0, timedelta(seconds=1))
    monkeypatch.setattr(cli, "sources", lambda _: aws)
    found = _audit("--oracle", path, "--device", "a", exit_code=1)
    assert _figures(found) == {"expected": 5, "quarantined": 4, "missing": 1}
    assert found["refused_by_rule"] == 1
    assert "ParseError is not available here" in _app().run("--oracle", path).stdout


def _messages(config: SimulatorConfig, index: int, name: str) -> list[Message]:
    """All that a device of the fleet sends."""
    device = Device(config, index, name, fleet_size=config.device_count, first_seq=0)
    sent: list[Message] = []
    while device.due < inf:
        device.take(milliseconds(HOUR + timedelta(minutes=30)))
        sent += iter(device.next_message, None)
        device.drop_overflow()
    device.finish()
    return [*sent, *iter(device.next_message, None)]


def test_the_books_of_a_fleet_in_chaos_balance(run: Run, tmp_path: Path) -> None:
    config = replace(load_config(scenario_file("chaos")), duration_seconds=40)
    rng = random.Random(6)  # noqa: S311 - the same in each run
    lines: list[bytes] = []
    acknowledged: Counter[Key] = Counter()
    broken: Counter[bool] = Counter()
    for index, name in enumerate(config.thing_names()):
        for message in _messages(config, index, name):
            acked, attempts = rng.random() < 0.95, rng.choice([1, 1, 1, 2])
            keys = run.message(name, message, acked=acked, attempts=attempts)
            acknowledged.update({key: int(acked) for key in keys})
            if message.kind is MessageKind.MALFORMED:
                broken[acked] += 1
            members = json.loads(run.bare(name))
            with contextlib.suppress(ValueError):
                document = json.loads(message.payload)
                members = document | members if isinstance(document, dict) else members
            # Acknowledged is arrived; in doubt either; and sent twice is once or twice.
            lines += [json.dumps(members).encode()] * rng.randint(int(acked), attempts)
    rng.shuffle(lines)
    run.load(*lines[::2])
    run.load(*lines[1::2])
    path = run.truth(tmp_path / "run.parquet")
    ahead = {key for key in acknowledged if key.ts > milliseconds(NOW + timedelta(hours=1))}
    assert (len(acknowledged) > 5_000, len(ahead) > 5, broken[True] > 50, broken[False] > 0) == (True,) * 4
    books = Counter(
        expected=acknowledged.total() + broken[True],
        rows=sum(number > 0 for key, number in acknowledged.items() if key not in ahead),
        duplicates=sum(max(0, number - 1) for key, number in acknowledged.items() if key not in ahead),
        quarantined=sum(acknowledged[key] for key in ahead) + broken[True],
    )
    found = _audit("--oracle", path, exit_code=0)
    assert _figures(found) == books
    assert found["unexplained_duplicates"] == 0
    # Some are taken away.
    lost = rng.sample([key for key, number in acknowledged.items() if number and key not in ahead], 7)
    for key in lost:
        at = EPOCH + key.ts * timedelta(milliseconds=1)
        found_at = (key.device_id, at, key.seq)
        run.connection.execute("DELETE FROM telemetry WHERE device_id = %s AND timestamp = %s AND seq = %s", found_at)
    books.update(missing=sum(acknowledged[key] for key in lost))
    books.subtract({"rows": 7, "duplicates": sum(acknowledged[key] - 1 for key in lost)})
    assert _figures(_audit("--oracle", path, exit_code=1)) == books


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


_ATTEMPT = st.tuples(st.integers(0, 8), st.integers(0, 4) | st.none(), st.integers(0, 2))
"""Of an opaque payload: minutes until it was sent, minutes from there until its PUBACK, attempts."""


@settings(deadline=None)
@given(st.lists(_ATTEMPT, max_size=5), st.lists(st.integers(0, 15), max_size=5))
def test_as_many_as_possible_are_matched_and_those_first_that_must_have_arrived(
    sent: list[tuple[int, int | None, int]], received: list[int]
) -> None:
    minute = timedelta(minutes=1)
    broken = [
        Broken("a", HOUR + at * minute, None if took is None or not tries else HOUR + (at + took) * minute, tries, b"x")
        for at, took, tries in sent
    ]
    bares = [Bare("a", milliseconds(HOUR + at * minute)) for at in received]
    found = match(broken, [*bares, Bare("b", bares[0].received_at_ms)] if bares else [])
    assert found[len(bares) :] in ([None], []), "another device's"
    for bare, each in zip(bares, found, strict=False):
        assert each is None or each.received_ms[0] <= bare.received_at_ms <= each.received_ms[1]
    assert all(found.count(each) <= each.attempts for each in broken)
    acknowledged = [each for each in broken if each.acknowledged_at]
    assert sum(each in found for each in acknowledged) == _most(acknowledged, bares)
    assert len(bares) - found[: len(bares)].count(None) == _most(
        [each for each in broken for _ in range(each.attempts)], bares
    )
    assert match(broken, bares) == found[: len(bares)]


def _most(units: list[Broken], bares: list[Bare]) -> int:
    """By trying everything."""
    if not units:
        return 0
    since, until = units[0].received_ms
    taken = (
        1 + _most(units[1:], bares[:n] + bares[n + 1 :])
        for n, bare in enumerate(bares)
        if since <= bare.received_at_ms <= until
    )
    return max(_most(units[1:], bares), *taken, 0)


def test_a_sheet_adds_up() -> None:
    assert Entry(1, 1) + Entry(3, 1, 0, 1, 0, 1) == Entry(4, 2, 0, 1, 0, 1)
    assert (Entry(4, missing=1).residual_ppm, Entry().residual_ppm) == (250_000, 0)
