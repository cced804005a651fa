"""`fleet anomalies` and the SQL of the documents, against a real database."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rich.console import Console

from lambdas.shared.anomalies import record
from ops.anomalies import cli
from tests.functional import test_anomalies
from tests.functional.commands import Commands, commands_use
from tests.functional.test_anomalies import episodes, spike

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "anomalies.md"
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def now() -> datetime:
    """When a test begins."""
    test_anomalies.NOW = datetime.now(UTC).replace(microsecond=0)
    return test_anomalies.NOW


@pytest.fixture
def fleet(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands_use(monkeypatch, database_dsn)
    monkeypatch.setattr(cli, "_console", Console(width=120))
    return Commands(cli.app)


@pytest.fixture
def some(connection: psycopg.Connection) -> list[int]:
    """Anomalies of two devices, one of which stands at a site; the first is resolved."""
    connection.execute("INSERT INTO sites (site_id, name, customer) VALUES ('north', 'North hall', 'Acme')")
    connection.execute(
        "INSERT INTO devices (device_id, name, site_id) VALUES ('d-1', 'Boiler', 'north'), ('d-2', 'd-2', NULL)"
    )
    with connection.cursor() as cursor:
        record(cursor, [spike(ago=50 * MINUTE)])
        cursor.execute("UPDATE anomalies SET resolved_at = now(), resolved_by = 'recovered', detected_at = started_at")
        record(cursor, [spike(ago=20 * SECOND, lasting=15 * SECOND, readings=15, severity="critical", value=99.5)])
        record(cursor, [spike("d-2", kind="out_of_range", metric="humidity", expected=None)])
        record(cursor, [spike("d-2", kind="silence", metric=None, ago=30 * MINUTE, value=600.0, expected=300.0)])
    return [row["anomaly_id"] for row in episodes(connection)]


def ids(found: Any) -> list[int]:
    return [row["anomaly_id"] for row in found]


# List.


def test_the_newest_come_first_and_only_what_is_open(fleet: Commands, some: list[int]) -> None:
    first, *opened = some
    assert ids(fleet.json("list")) == opened[::-1]
    assert ids(fleet.json("list", "--all")) == [*opened[::-1], first]
    text = fleet.ok("list")
    assert "3 anomalies" in text
    assert re.search(r"critical +spike +d-1 +temperature +99\.5 +20 +15", text)
    assert re.search(r"30 min.* warning +silence +d-2 +10 min +5 min", text), text
    assert "recovered" in fleet.ok("list", "--all")


@pytest.mark.parametrize("width", [80, 120])
def test_an_episode_is_one_line_of_a_terminal(
    fleet: Commands, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Of a narrow one without some columns, which are named."""
    with connection.cursor() as cursor:
        record(cursor, [spike("device-00042", kind="out_of_range", severity="critical", value=-1234.5)])
    monkeypatch.setattr(cli, "_console", Console(width=width, force_terminal=True, no_color=True))
    heading, line, last = re.sub(r"\x1b\[[0-9;]*m", "", fleet.ok("list")).splitlines()
    assert len(line) <= width
    assert heading.split()[:3] == ["id", "began", "(UTC)"]
    assert re.search(r"\d\d-\d\d \d\d:\d\d .*critical +out_of_range +device-00042 +temperature +-1,234\.5", line)
    assert last == ("1 anomaly; no room for readings, expected, lasts" if width == 80 else "1 anomaly")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--device", "d-2"], [3, 2]),
        (["--kind", "spike"], [1]),
        (["--kind", "spike", "--kind", "silence"], [3, 1]),
        (["--metric", "humidity"], [2]),
        (["--severity", "critical"], [1]),
        (["--since", "10m"], [3, 2, 1]),
        (["--all", "--since", "10m"], [3, 2, 1]),
        (["--all", "--since", "2h"], [3, 2, 1, 0]),
        (["--all", "--kind", "spike", "--device", "d-1", "--severity", "warning"], [0]),
        (["--limit", "1"], [3]),
    ],
    ids=str,
)
def test_a_filter_chooses(fleet: Commands, some: list[int], options: list[str], found: list[int]) -> None:
    assert ids(fleet.json("list", *options)) == [some[n] for n in found]


def test_what_a_limit_leaves_out_is_said(fleet: Commands, some: list[int]) -> None:
    assert "2 of 3 shown; --limit shows more" in fleet.ok("list", "--limit", "2")
    assert "1 anomaly" in fleet.ok("list", "--kind", "spike")


def test_nothing_is_said_with_what_to_try(fleet: Commands, some: list[int]) -> None:
    found = fleet.ok("list", "--kind", "stuck")
    assert "no open anomalies match: --all shows what is resolved, too; leave out an option" in found
    assert "no anomalies match: leave out an option" in fleet.ok("list", "--all", "--kind", "stuck")
    assert fleet.json("list", "--kind", "stuck") == []


def test_an_empty_database_has_none(fleet: Commands) -> None:
    assert "no open anomalies: --all shows" in fleet.ok("list")
    assert "no anomalies: none was ever found" in fleet.ok("list", "--all")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["list", "--kind", "odd"], "--kind odd: use one of out_of_range, spike, jump, stuck, silence"),
        (["list", "--metric", "speed"], "--metric speed: use one of temperature, humidity, pressure, battery"),
        (["list", "--severity", "high"], "--severity high: use one of info, warning, critical"),
        (["list", "--since", "soon"], "--since soon: not a time"),
        (["list", "--device", "d-9"], "--device d-9: there is no such device in local: fleet devices list"),
        (["show", "x"], "x is no id of an anomaly"),
        (["show", "999"], "there is no anomaly 999 in local: fleet anomalies list --all"),
        (["show", "9" * 30], "is no id of an anomaly"),
        (["resolve", "999", "--note", "x"], "there is no anomaly 999 in local: nothing was resolved"),
        (["resolve", "1", "--note", " "], "--note is empty"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    fleet: Commands, some: list[int], arguments: list[str], expected: str
) -> None:
    assert expected in fleet.refused(*arguments)


# Show.


def test_one_is_shown_with_its_site_and_the_readings_around_it(
    fleet: Commands, some: list[int], connection: psycopg.Connection, now: datetime
) -> None:
    connection.execute(
        "INSERT INTO telemetry (device_id, timestamp, seq, temperature, object_id) "
        "SELECT 'd-1', %s + n * interval '1 second', 100 + n, 20 + (n BETWEEN -20 AND -5)::int * 79.5, 1 "
        "FROM generate_series(-40, 40) n",
        (now,),
    )
    text = fleet.ok("show", str(some[1]))
    for line in ("open", "d-1 (Boiler)", "north (North hall)", "Acme", "99.5 degC", "-60 to 125 degC", "critical"):
        assert line in text
    shown = re.findall(r"^(\*?) +\d\d-\d\d [\d:.]+ +(\d+) +([\d.]+)", text, re.MULTILINE)
    assert [int(seq) for _, seq, _ in shown] == [*range(70, 90), *range(96, 106)]
    assert {(mark, value) for mark, seq, value in shown if 80 <= int(seq) < 90} == {("*", "99.5")}
    assert {(mark, value) for mark, seq, value in shown if not 80 <= int(seq) < 90} == {("", "20")}
    assert "..." in text
    found = fleet.json("show", str(some[1]))
    assert (found["site_name"], found["unit"], len(found["around"])) == ("North hall", "degC", 30)
    assert datetime.fromisoformat(found["started_at"]) == now - 20 * SECOND
    assert found["around"][0]["part"] == "before"


def test_one_without_readings_or_registry_is_shown_too(
    fleet: Commands, some: list[int], connection: psycopg.Connection
) -> None:
    text = fleet.ok("show", str(some[3]))
    assert "no readings of that time are left" in text
    assert "10 min" in text
    with connection.cursor() as cursor:
        record(cursor, [spike("\x1b[31mnobody", metadata={"window": 60})])
    text = fleet.ok("show", str(episodes(connection)[-1]["anomaly_id"]))
    assert "\x1b" not in text
    assert '{"window": 60}' in text


# Resolve.


def test_an_operator_resolves_and_may_repeat_it(
    fleet: Commands, some: list[int], connection: psycopg.Connection
) -> None:
    command = ["resolve", str(some[1]), str(some[2]), str(some[1]), "--note", "filter changed", "--by", "ann"]
    text = fleet.ok(*command)
    assert f"{some[1]} (spike of d-1 temperature): resolved" in text
    assert len(text.splitlines()) == 2
    _, one, two, untouched = before = episodes(connection)
    assert [(row["resolved_by"], row["metadata"]["note"]) for row in (one, two)] == [("ann", "filter changed")] * 2
    assert untouched["resolved_at"] is None
    again = fleet.ok(*command[:-1], "bob")
    assert "was resolved already" in again
    assert "by ann" in again
    assert episodes(connection) == before
    found = fleet.json("resolve", str(some[3]), "--note", "x")
    assert (found[0]["became"], bool(found[0]["resolved_by"])) == ("resolved", True)


def test_a_false_positive_is_marked_also_after_it_has_recovered(
    fleet: Commands, some: list[int], connection: psycopg.Connection
) -> None:
    command = ["resolve", str(some[0]), str(some[1]), "--false-positive", "--note", "maintenance", "--by", "ann"]
    text = fleet.ok(*command)
    assert "marked as a false positive; it was resolved" in text
    assert "it recovered" in text
    assert f"{some[1]} (spike of d-1 temperature): resolved as a false positive" in text
    first, second = episodes(connection)[:2]
    assert (first["resolved_by"], second["resolved_by"]) == ("recovered", "ann")
    assert first["metadata"]["resolution"] == second["metadata"]["resolution"] == "False positive - maintenance"
    assert fleet.ok(*command).count("was resolved, as a false positive already") == 2
    assert re.search(r"recovered,.*ann, false|ann, false.*recovered,", fleet.ok("list", "--all"), re.DOTALL)


def test_nothing_is_resolved_when_one_of_them_is_not_there(
    fleet: Commands, some: list[int], connection: psycopg.Connection
) -> None:
    before = episodes(connection)
    assert "no anomaly 998, 999" in fleet.refused("resolve", "998", str(some[1]), "999", "--note", "x")
    assert episodes(connection) == before


def test_an_older_schema_is_one_clear_line(fleet: Commands, connection: psycopg.Connection) -> None:
    connection.execute("DROP TABLE anomalies CASCADE")
    for command in (["list"], ["show", "1"], ["resolve", "1", "--note", "x"]):
        assert "has an older schema: deploy this release first" in fleet.refused(*command)


# SQL of the documents.


def statements() -> list[str]:
    return re.findall(r"^```sql\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("statement", statements(), ids=lambda text: " ".join(text.split())[:60])
def test_the_documents_sql_runs(connection: psycopg.Connection, some: list[int], statement: str) -> None:
    with connection.transaction(force_rollback=True):
        done = connection.execute(statement.replace("12345", str(some[1])).encode())
        assert done.rowcount >= 0


def test_the_users_own_queries_run_as_they_are(connection: psycopg.Connection, some: list[int]) -> None:
    [newest, by_device, by_severity] = [
        """SELECT * FROM anomalies
   WHERE detected_at > NOW() - INTERVAL '24 hours'
   ORDER BY detected_at DESC
   LIMIT 20;""",
        """SELECT device_id, COUNT(*) as anomaly_count
   FROM anomalies
   WHERE detected_at > NOW() - INTERVAL '7 days'
   GROUP BY device_id
   ORDER BY anomaly_count DESC;""",
        """SELECT COUNT(*), severity
   FROM anomalies
   WHERE resolved_at IS NULL
   GROUP BY severity;""",
    ]
    assert [row[0] for row in connection.execute(newest.encode())] == [*some[:0:-1], some[0]]
    assert dict(connection.execute(by_device.encode()).fetchall()) == {"d-1": 2, "d-2": 2}
    assert sorted(connection.execute(by_severity.encode()).fetchall()) == [(1, "critical"), (2, "warning")]
    connection.execute(
        """UPDATE anomalies
SET resolved_at = CURRENT_TIMESTAMP,
    metadata = jsonb_set(metadata, '{resolution}', '"False positive - maintenance"')
WHERE anomaly_id = %s;""",
        (some[1],),
    )
    [judged] = [text for text in statements() if "AS false_positives" in text]
    assert connection.execute(judged.encode()).fetchall() == [("spike", "temperature", 1, 1)]


def test_the_dashboards_questions_are_answered_by_an_index(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO anomalies (device_id, metric, kind, severity, started_at, last_at, detected_at, readings, resolved_at) "
        "SELECT 'd-' || n %% 500, 'humidity', 'spike', 'info', at, at, at, 1, CASE WHEN n > 100 THEN at END "
        "FROM generate_series(1, 50000) n, LATERAL (SELECT now() - n * interval '1 minute' AS at) times"
        .replace("%%", "%")
        .encode()
    )  # fmt: skip
    connection.execute("ANALYZE anomalies")
    for query, index in {
        "SELECT * FROM anomalies WHERE device_id = 'd-7' AND started_at > now() - interval '7 days'": "device_id_started_at",
        "SELECT * FROM anomalies ORDER BY detected_at DESC LIMIT 50": "detected_at",
        "SELECT * FROM anomalies WHERE resolved_at IS NULL": "open",
        "SELECT * FROM anomalies WHERE started_at BETWEEN now() - interval '1 hour' AND now()": "started_at",
    }.items():
        plan = json.dumps(connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode()).fetchall())
        assert f"anomalies_{index}_idx" in plan, query
