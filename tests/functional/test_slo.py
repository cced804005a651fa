"""`fleet slo` on a real TimescaleDB of either edition, with the rights of those who only read."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import psycopg
import pytest
import typer
from botocore.exceptions import EndpointConnectionError
from psycopg.conninfo import make_conninfo

from dashboards.reading.macros import TimeRange
from dashboards.reading.model import read
from infra.names import Names
from infra.settings import load
from ops.errors import UserError
from ops.slo import cli, panels
from ops.slo.cloudwatch import offered
from ops.slo.levels import Level, Verdict, dashboards, ingestion
from ops.slo.measure import Subject, measure
from tests.functional.commands import Commands

NOW = datetime.now(UTC)
HOUR = TimeRange(NOW - timedelta(hours=1), NOW)
DEVICES = 10
EVERY = timedelta(seconds=10)
MET, MISSED, NOT_TESTED, NO_DATA = Verdict.MET, Verdict.MISSED, Verdict.NOT_TESTED, Verdict.NO_DATA
RATE, END_TO_END, FROM_ARRIVAL = "message ingestion rate", "end-to-end latency p95", "of it, from AWS IoT Core p95"
LOSS, CONNECTED, QUERIES = "data loss rate", "device connectivity", "query performance p95"
REFRESH, DETECTION, RECOVERY = (
    "dashboard refresh time",
    "anomaly detection latency p95",
    "recovery point of the database",
)


def as_reader(dsn: str) -> Callable[[], psycopg.Connection]:
    def connect(_environment: str = "") -> psycopg.Connection:
        connection = psycopg.connect(make_conninfo(dsn), autocommit=True)
        connection.execute("SET ROLE iot_reader")
        connection.execute("SET default_transaction_read_only = on")
        connection.execute("SET statement_timeout = '15s'")
        return connection

    return connect


def fleet(connection: psycopg.Connection) -> None:
    """Ten devices, a reading every ten seconds for 90 minutes: a second to AWS IoT Core, another to the table."""
    connection.execute(
        "INSERT INTO devices (device_id, name, registered_at) "
        "SELECT 'd' || n, 'd' || n, %s - interval '1 day' FROM generate_series(1, %s) n",
        (NOW, DEVICES),
    )
    connection.execute(
        "INSERT INTO ingest.objects (object_id, bucket, key, status, readings, rows, loaded_at) OVERRIDING SYSTEM VALUE "
        "SELECT n, 'b', n::text, 'loaded', %(devices)s, %(devices)s, %(now)s - n * %(every)s + interval '2 seconds' "
        "FROM generate_series(1, 540) n",
        {"devices": DEVICES, "now": NOW, "every": EVERY},
    )
    connection.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, temperature, received_at, object_id) "
        "SELECT 'd' || d, %(now)s - n * %(every)s, 1000 - n, 20, %(now)s - n * %(every)s + interval '1 second', n "
        "FROM generate_series(1, %(devices)s) d, generate_series(1, 540) n",
        {"devices": DEVICES, "now": NOW, "every": EVERY},
    )


@pytest.fixture(autouse=True)
def of_this_moment() -> None:
    """Collecting the suite may have been half an hour ago."""
    global NOW, HOUR  # noqa: PLW0603
    NOW = datetime.now(UTC)
    HOUR = TimeRange(NOW - timedelta(hours=1), NOW)


def levels(dsn: str, span: TimeRange | None = None) -> dict[str, Level]:
    subject = Subject(settings=load("local"), span=span or HOUR, now=NOW, connect=as_reader(dsn))
    return {level.name: level for level in measure(subject)}


def test_a_healthy_fleet_keeps_its_levels_and_each_fault_misses_its_own(
    connection: psycopg.Connection, database_dsn: str
) -> None:
    fleet(connection)
    found = levels(database_dsn)
    verdicts = {name: level.verdict for name, level in found.items()}
    assert verdicts == {
        RATE: NOT_TESTED, END_TO_END: MET, FROM_ARRIVAL: MET, LOSS: MET, CONNECTED: MET, QUERIES: MET, REFRESH: MET,
        DETECTION: NO_DATA, RECOVERY: NO_DATA,
    }  # fmt: skip
    figures = {name: level.value for name, level in found.items()}
    assert (figures[END_TO_END], figures[FROM_ARRIVAL], figures[LOSS], figures[CONNECTED]) == (2.0, 1.0, 0.0, 100.0)
    assert found[RATE].value == 1.0
    assert found[RATE].note.startswith("offered 1.0/s, and that was kept up with")
    assert found[LOSS].note == "0 of 3,000"

    def broken(*statements: str) -> dict[str, Level]:
        """The levels whose verdict these statements change, with the fleet as it was before them."""
        with psycopg.connect(database_dsn) as other:
            for statement in statements:
                other.execute(statement.encode())
        return {name: each for name, each in levels(database_dsn).items() if each.verdict != verdicts[name]}

    lost = broken("DELETE FROM telemetry WHERE device_id = 'd4' AND seq = 800")
    assert {name: (each.verdict, each.note) for name, each in lost.items()} == {
        LOSS: (MISSED, "1 of 3,000: fleet audit names them")
    }
    connection.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, received_at, object_id) "
        "SELECT 'd4', timestamp, seq, received_at, object_id FROM telemetry WHERE device_id = 'd5' AND seq = 800"
    )

    # What comes from a backlog, a quarter of an hour late, is no sign of a connection.
    kept = f"WHERE device_id = 'd3' AND timestamp > '{NOW - timedelta(minutes=20)}'"
    backlog = broken(f"UPDATE telemetry SET received_at = timestamp + interval '15 minutes' {kept}")
    assert {name: each.verdict for name, each in backlog.items()} == {CONNECTED: MISSED}
    assert not broken(f"UPDATE telemetry SET received_at = timestamp + interval '1 second' {kept}")

    # Of ten devices one sends nothing for the last 20 minutes, then is taken out of service.
    silent = broken(f"DELETE FROM telemetry WHERE device_id = 'd7' AND timestamp > '{NOW - timedelta(minutes=20)}'")
    assert {name: each.verdict for name, each in silent.items()} == {CONNECTED: MISSED}
    assert silent[CONNECTED].value == pytest.approx(100 * 117 / 120)
    assert "off on purpose" in silent[CONNECTED].note
    assert "on purpose" not in found[CONNECTED].note
    assert not broken("UPDATE devices SET active = false WHERE device_id = 'd7'")

    episode = (
        "INSERT INTO anomalies (device_id, metric, kind, severity, started_at, last_at, detected_at, readings, value, "
        "expected, score) SELECT device_id, 'temperature', 'spike', 'warning', timestamp, timestamp, "
        "received_at + interval '{} s', 1, 50, 20, 9 FROM telemetry WHERE device_id = 'd1' AND seq = {}"
    )
    assert {name: (e.verdict, e.value) for name, e in broken(episode.format(20, 900)).items()} == {
        DETECTION: (MET, 20.0)
    }
    over = "UPDATE anomalies SET resolved_at = last_at, resolved_by = 'recovered'"
    assert {name: e.verdict for name, e in broken(over, episode.format(40, 901)).items()} == {DETECTION: MISSED}
    before = levels(database_dsn, TimeRange(NOW - timedelta(minutes=80), NOW - timedelta(minutes=50)))
    assert before[DETECTION].verdict is NO_DATA, "an episode counts in a span in which it was not found"

    # Late, although there is little of it: then the rate is one that could not be kept up with.
    late = broken("UPDATE ingest.objects SET loaded_at = loaded_at + interval '19 s'")
    assert {name: late[name].verdict for name in (RATE, END_TO_END, FROM_ARRIVAL)} == dict.fromkeys(
        (RATE, END_TO_END, FROM_ARRIVAL), MISSED
    )
    assert late[END_TO_END].value == 21.0
    fast = broken("UPDATE ingest.objects SET readings = 70000, rows = 70000 WHERE object_id = 20")
    assert fast[RATE].verdict is MET
    assert fast[RATE].value == pytest.approx(70_050 / 60)


def test_the_balance_of_closed_hours_is_believed_where_there_is_one(
    connection: psycopg.Connection, database_dsn: str
) -> None:
    fleet(connection)
    hour = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    for source, missing in (("sequence", 3), ("oracle", 500)):
        connection.execute(
            "INSERT INTO ingest.balance (device_id, hour, source, expected, rows, missing) "
            "VALUES ('d1', %s, %s, 10000, 9997, %s)",
            (hour, source, missing),
        )
    three_hours = levels(database_dsn, TimeRange(hour, NOW))[LOSS]
    assert (three_hours.verdict, three_hours.value, three_hours.over) == (MISSED, 0.03, "1 closed hour")
    assert levels(database_dsn, TimeRange(hour + timedelta(minutes=1), NOW))[LOSS].value == 0.0


def test_without_data_nothing_is_a_pass_and_it_says_what_to_do(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "reader", as_reader(database_dsn))
    app = typer.Typer()
    app.command()(cli.slo)
    found = Commands(app).json()
    silent = {level["name"]: level for level in found["levels"] if level["verdict"] == "no data"}
    assert set(silent) == {RATE, END_TO_END, FROM_ARRIVAL, LOSS, CONNECTED, DETECTION, RECOVERY}
    empty = {level["name"]: level["verdict"] for level in found["levels"] if level["name"] not in silent}
    assert empty == {QUERIES: "not tested", REFRESH: "not tested"}, "quick answers that show nothing"
    assert "9 service levels: 2 not tested, 7 no data" in Commands(app).run().stdout
    assert all(level["value"] is None and level["note"] for level in silent.values())
    assert found["missed"] is False


def test_the_command_exits_with_1_when_a_level_is_missed(
    connection: psycopg.Connection, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet(connection)
    connection.execute("DELETE FROM telemetry WHERE seq = 800")
    monkeypatch.setattr(cli, "reader", as_reader(database_dsn))
    app = typer.Typer()
    app.command()(cli.slo)
    commands = Commands(app)
    done = commands.run("--from", "1h", "--json")
    assert done.exit_code == 1, done.output
    found = json.loads(done.stdout)
    assert found["missed"] is True
    assert [level["name"] for level in found["levels"] if level["verdict"] == "missed"] == [LOSS]
    assert "missed" in commands.run().stdout
    assert "less than a minute" in commands.refused("--from", "1h", "--to", "2h")


def slow_dashboard(panels_: int) -> dict[str, Any]:
    return {
        "uid": panels.OVERVIEW,
        "title": "Slow",
        "time": {"from": "now-1h", "to": "now"},
        "panels": [
            {
                "id": n,
                "title": f"p{n}",
                "type": "stat",
                "gridPos": {"x": 0, "y": 0, "w": 4, "h": 4},
                "targets": [{"refId": "A", "rawSql": f"SELECT pg_sleep({60 if n == 0 else 0})", "format": "table"}],
            }
            for n in range(panels_)
        ],
    }


def test_slow_panels_miss_their_levels_and_a_browser_asks_six_at_a_time(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "load_all", lambda: [read(slow_dashboard(7))])
    monkeypatch.setattr(panels, "REFRESHES", 1)
    connect = as_reader(database_dsn)

    def impatient() -> psycopg.Connection:
        connection = connect()
        connection.execute("SET statement_timeout = '300ms'")
        return connection

    with impatient() as connection:
        timed = panels.time_queries(connection, HOUR)
    assert len(timed.seconds) == timed.queries == 7
    assert timed.p95 is not None
    assert 0.3 <= timed.p95 < 60, "a query that the server gives up has taken that long"
    assert timed.slowest == "Slow: p0"

    # Each waits until five others are asked.
    together = Barrier(panels.AT_A_TIME)
    monkeypatch.setattr(panels, "load_all", lambda: [read(slow_dashboard(2 * panels.AT_A_TIME))])
    monkeypatch.setattr(panels, "fetch", lambda *_: together.wait(60))
    panels.time_refresh(connect, HOUR)
    monkeypatch.setattr(panels, "BUDGET_SECONDS", 0.0)
    with impatient() as connection:
        assert panels.time_queries(connection, HOUR).p95 is None


def test_quick_answers_are_a_pass_only_of_all_queries_and_with_something_to_read() -> None:
    assert dashboards(1.9, below=2, holds_readings=True) == (MET, "")
    assert dashboards(1.9, below=2, holds_readings=True, left_out=1)[0] is NOT_TESTED
    assert dashboards(1.9, below=2, holds_readings=False)[0] is NOT_TESTED
    assert dashboards(2.0, below=2, holds_readings=False, left_out=1) == (MISSED, "")
    assert dashboards(None, below=2, holds_readings=True, left_out=3) == (NO_DATA, "")


def test_a_low_rate_is_a_miss_only_where_readings_waited() -> None:
    assert ingestion(1200.0, wait_seconds=300, limit_seconds=12)[0] is MET
    assert ingestion(400.0, wait_seconds=3, limit_seconds=12)[0] is NOT_TESTED
    assert ingestion(400.0, wait_seconds=None, limit_seconds=12)[0] is NOT_TESTED
    assert ingestion(400.0, wait_seconds=13, limit_seconds=12)[0] is MISSED
    assert ingestion(None, wait_seconds=None, limit_seconds=12)[0] is NO_DATA


class _CloudWatch:
    """Answers as GetMetricData does, in two pages."""

    def get_paginator(self, operation: str) -> "_CloudWatch":
        assert operation == "get_metric_data"
        return self

    def paginate(self, **asked: Any) -> Any:
        (published, taken) = (query["MetricStat"] for query in asked["MetricDataQueries"])
        assert published["Metric"]["MetricName"] == "PublishIn.Success"
        assert taken["Metric"]["Dimensions"] == [{"Name": "DeliveryStreamName", "Value": "iot-telemetry-stream-dev"}]
        assert taken["Period"] == 60
        yield {"MetricDataResults": [{"Id": "published", "Values": [600.0, 60.0]}, {"Id": "taken", "Values": []}]}
        yield {"MetricDataResults": [{"Id": "published", "Values": [120.0]}, {"Id": "taken", "Values": [300.0]}]}


class _Unreachable(_CloudWatch):
    def paginate(self, **_: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="https://monitoring.example")


def test_what_aws_counted_is_said_beside_the_rate() -> None:
    assert offered(_CloudWatch(), Names.of("dev"), HOUR) == (
        "at most 10.0 messages/s published to AWS IoT, 5.0 records/s to Firehose"
    )
    assert offered(_Unreachable(), Names.of("dev"), HOUR) == "CloudWatch does not tell (EndpointConnectionError)"


def test_a_span_is_refused_that_says_nothing() -> None:
    assert cli.parse_span("2h", "now", NOW) == TimeRange(NOW - timedelta(hours=2), NOW)
    for start, end in (("now", "now"), ("1h", "2h"), ("30s", "now")):
        with pytest.raises(UserError, match="less than a minute"):
            cli.parse_span(start, end, NOW)
    assert asdict(Level(name="n", target="t", value=None, unit="s", verdict=MET, over="o", how="h"))["verdict"] == "met"
