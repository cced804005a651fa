"""Anomalies found while loading: from objects to episodes, each reading judged once, whatever happens to the object."""

import io
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from lambdas.processor.detection import detector as module
from lambdas.processor.detection.detector import Detector
from lambdas.processor.limits import Limits
from lambdas.processor.load import Outcome, load_object
from lambdas.processor.raw_object import ObjectVersion
from tests.stamping import STAMP, STAMPS

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
START = int(NOW.timestamp() * 1000) - 600_000

Message = tuple[str, list[dict[str, Any]]]


def readings(first: int, temperatures: Sequence[float]) -> list[dict[str, Any]]:
    """A reading a second, from the first second."""
    return [
        {"ts": START + (first + n) * 1000, "seq": first + n, "temperature": value, "humidity": 50.0}
        for n, value in enumerate(temperatures)
    ]


def ordinary(first: int, count: int, level: float = 20.0) -> list[dict[str, Any]]:
    dice = random.Random(first)  # noqa: S311
    return readings(first, [round(level + dice.gauss(0, 0.1), 2) for _ in range(count)])


def body(*messages: Message) -> bytes:
    return b"".join(
        json.dumps({"readings": each, "device_id": device, "received_at": START, "stamp": STAMP}).encode() + b"\n"
        for device, each in messages
    )


def load(connection: psycopg.Connection, key: str, detector: Detector | None, *messages: Message) -> Outcome:
    data = body(*messages)
    return load_object(connection, ObjectVersion("b", key, "", 1), lambda: io.BytesIO(data), LIMITS, detector)


def learn(connection: psycopg.Connection, detector: Detector, *devices: str) -> None:
    """250 ordinary readings each, in envelopes of 25."""
    messages = [(device, ordinary(first, 25)) for device in devices for first in range(0, 250, 25)]
    assert load(connection, f"learn-{devices}", detector, *messages).checked == 250 * len(devices)


def episodes(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT device_id, metric, kind, severity, readings, value FROM anomalies ORDER BY 1, 2, 3"
    ).fetchall()


@pytest.fixture
def detector(connection: psycopg.Connection) -> Detector:
    connection.execute("SET ROLE iot_loader")
    return Detector()


def test_a_spike_and_a_jump(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1", "d-2")
    spike = ordinary(250, 25)
    spike[7]["temperature"] = 60.0
    outcome = load(connection, "2", detector, ("d-1", spike), ("d-2", ordinary(250, 25, level=30)))
    assert (outcome.rows, outcome.checked, outcome.detection_faults) == (50, 50, 0)
    first, second = episodes(connection)
    assert first == ("d-1", "temperature", "spike", "critical", 1, 60.0)
    assert second[:3] == ("d-2", "temperature", "jump")
    started, expected = connection.execute(
        "SELECT started_at, expected FROM anomalies WHERE kind = 'spike'"
    ).fetchall()[0]
    assert started == datetime.fromtimestamp(START / 1000 + 257, UTC)
    assert abs(expected - 20) < 0.5
    # The new level is the level, and the spike is over: nothing more is found.
    load(connection, "3", detector, ("d-1", ordinary(275, 25)), ("d-2", ordinary(275, 25, level=30)))
    assert len(episodes(connection)) == 2


def test_out_of_range_needs_nothing_to_be_known(connection: psycopg.Connection) -> None:
    connection.execute("SET ROLE iot_loader")
    some, whole = ordinary(0, 25), ordinary(0, 25)
    some[3]["temperature"], some[4]["temperature"] = 300.0, 200.0
    for each in whole:
        each["humidity"] = -5.0
    load(connection, "1", None, ("d-1", some), ("d-2", whole))
    assert episodes(connection) == [
        ("d-1", "temperature", "out_of_range", "warning", 2, 300.0),
        ("d-2", "humidity", "out_of_range", "critical", 25, -5.0),
    ]


def test_values_out_of_range_are_no_part_of_what_is_usual(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1")
    load(connection, "2", detector, ("d-1", readings(250, [300.0] * 25)))
    assert [row[2] for row in episodes(connection)] == ["out_of_range"]
    load(connection, "3", detector, ("d-1", ordinary(275, 25)))
    assert [row[2] for row in episodes(connection)] == ["out_of_range"]


def test_messages_off_the_fast_path_are_judged_too(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1")
    spike = ordinary(250, 25)
    spike[7] |= {"temperature": 60.0, "door": "open"}
    assert load(connection, "2", detector, ("d-1", spike)).checked == 25
    assert [row[2:5] for row in episodes(connection)] == [("spike", "critical", 1)]


class Interrupted:
    """An object of which reading fails before its end."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def __enter__(self) -> "Interrupted":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, amount: int = -1, /) -> bytes:
        if data := self._data.read(amount):
            return data
        raise ConnectionResetError("S3 hung up")


def test_what_is_rolled_back_teaches_nothing(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1")
    jump = ("d-1", ordinary(250, 25, level=30))
    for _ in range(3):
        with pytest.raises(ConnectionResetError):
            load_object(connection, ObjectVersion("b", "2", "", 1), lambda: Interrupted(body(jump)), LIMITS, detector)
    assert episodes(connection) == []
    load(connection, "2", detector, jump)
    [(device, _, kind, _, count, _)] = episodes(connection)
    assert load(connection, "2", detector, jump).status == "already_loaded"
    other = Detector()
    learn_again = [("d-9", ordinary(first, 25)) for first in range(0, 250, 25)]
    load(connection, "9", other, *learn_again)
    load(connection, "10", other, ("d-9", jump[1]))
    assert (device, kind) == ("d-1", "jump")
    # As many readings as if nothing had gone wrong.
    assert [row[4] for row in episodes(connection)] == [count, count]


def test_duplicates_are_judged_once(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1")
    message = ordinary(250, 25)
    message[7]["temperature"], message[9]["temperature"] = 60.0, 300.0
    load(connection, "2", detector, ("d-1", message))
    before = episodes(connection)
    assert [row[2:5:2] for row in before] == [("out_of_range", 1), ("spike", 1)]
    more = ordinary(275, 25)
    more[0]["temperature"] = 400.0
    outcome = load(connection, "3", detector, ("d-1", message), ("d-1", more), ("d-1", more))
    assert (outcome.rows, outcome.duplicates) == (25, 50)
    assert [row[2:5:2] for row in episodes(connection)] == [("out_of_range", 2), ("spike", 1)]


def test_late_readings_disturb_nothing(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1")
    late = [{**each, "ts": each["ts"] - 1000_000} for each in readings(250, [90.0] * 25)]
    late[0]["temperature"] = 300.0
    load(connection, "2", detector, ("d-1", late))
    load(connection, "3", detector, ("d-1", ordinary(250, 25)))
    assert [row[2] for row in episodes(connection)] == ["out_of_range"]


def test_a_new_process_knows_what_the_old_one_knew(connection: psycopg.Connection, detector: Detector) -> None:
    learn(connection, detector, "d-1")
    spike = ordinary(250, 25)
    spike[7]["temperature"] = 60.0
    load(connection, "2", Detector(), ("d-1", spike))
    assert [row[2] for row in episodes(connection)] == ["spike"]


@pytest.mark.parametrize("state", [b"", b"\x01", b"\x01\xc1", b"\x63of a later release"])
def test_a_state_that_cannot_be_read_is_learnt_anew(connection: psycopg.Connection, state: bytes) -> None:
    connection.execute(
        "INSERT INTO ingest.detector (device_id, state, seen) VALUES ('d-1', %s, '2020-01-01Z')", (state,)
    )
    learn(connection, Detector(), "d-1")
    [(stored,)] = connection.execute("SELECT state FROM ingest.detector").fetchall()
    assert stored[:1] == b"\x01"
    assert len(stored) > 50


def test_states_are_written_once_a_minute(connection: psycopg.Connection) -> None:
    now = [0.0]
    detector = Detector(clock=lambda: now[0])
    load(connection, "1", detector, ("d-1", ordinary(0, 25)))

    def seen() -> int:
        [(at,)] = connection.execute("SELECT seen FROM ingest.detector").fetchall()
        return int(at.timestamp() - START / 1000 + 0.5)

    assert seen() == 24
    now[0] = 59.0
    load(connection, "2", detector, ("d-1", ordinary(25, 25)))
    assert seen() == 24
    now[0] = 61.0
    load(connection, "3", detector, ("d-1", ordinary(50, 25)))
    assert seen() == 74
    # A process that is behind overwrites nothing.
    load(connection, "4", Detector(), ("d-1", ordinary(0, 25)))
    assert seen() == 74


def test_memory_is_bounded(connection: psycopg.Connection) -> None:
    detector = Detector(most=10)
    load(connection, "1", detector, *[(f"d-{n}", ordinary(0, 2)) for n in range(50)])
    assert len(detector) == 10
    load(connection, "2", detector, *[(f"d-{n}", ordinary(2, 2)) for n in range(50)])
    assert len(detector) == 10
    assert connection.execute("SELECT count(*) FROM ingest.detector").fetchall() == [(50,)]


def test_many_devices_that_are_not_known_are_read_in_between(
    connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_DEFERRED_READINGS", 5000)
    detector = Detector()
    messages = [(f"d-{n}", ordinary(first, 25)) for first in range(0, 500, 25) for n in range(50)]
    messages[-1][1][3]["temperature"] = 60.0
    outcome = load(connection, "1", detector, *messages)
    assert (outcome.rows, outcome.checked) == (25_000, 25_000)
    assert [row[:3] for row in episodes(connection)] == [("d-49", "temperature", "spike")]


def test_a_fault_of_the_detector_costs_no_reading(
    connection: psycopg.Connection, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(connection, detector, "d-1", "d-2")

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of the detector")

    bad = ordinary(250, 25)
    bad[0]["temperature"] = 300.0
    with monkeypatch.context() as patch:
        patch.setattr(module, "observe", broken)
        outcome = load(connection, "2", detector, ("d-1", bad), ("d-2", ordinary(250, 25)))
    assert (outcome.rows, outcome.checked, outcome.detection_faults) == (50, 0, 2)
    assert outcome.detection_fault == "ZeroDivisionError('of the detector')"
    assert [row[2] for row in episodes(connection)] == ["out_of_range"]
    assert load(connection, "3", detector, ("d-1", ordinary(275, 25))).checked == 25
