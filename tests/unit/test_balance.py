"""What a demonstration proves: the audit's sheet beside what the devices counted and what lies in S3, and the waiting."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from ops import balance as balances
from ops.audit.lines import count_readings
from ops.audit.sheet import Entry, HourOf, Sheet
from ops.balance import Arrived, Balance, Sending, wait_until_drained
from ops.errors import UserError

HOUR = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lines", "readings"),
    [
        (b"", 0),
        (b'{"ts": 1}\n', 1),
        (b'{"readings": [{}, {}, 3]}\n{"ts": 1}\n', 4),
        (b'{"readings": []}\n', 1),
        (b"broken\n[1]\n", 2),
        (b'{"ts": NaN}', 1),
    ],
)
def test_readings_in_ndjson(lines: bytes, readings: int) -> None:
    assert count_readings(lines) == readings


def drawn_up(
    in_s3: int, duplicates: int = 0, acknowledged: int = 5, sheet: Sheet | None = None, **entry: int
) -> Balance:
    found = sheet or Sheet(source="oracle")
    found.add(HourOf("a", HOUR), Entry(**{"expected": 5, **entry}))
    arrived = Arrived(in_s3, 1, duplicates, None, None, None)
    return balances.balance(found, arrived, published=5, acknowledged=acknowledged)


def test_what_is_accounted_for() -> None:
    assert drawn_up(6, rows=4, duplicates=1, quarantined=1).accounted_for
    assert drawn_up(4, rows=4, in_flight=1).accounted_for
    assert drawn_up(6, rows=5, sheet=Sheet(source="oracle", in_doubt_arrived=1)).accounted_for
    assert not drawn_up(5, rows=4, missing=1).accounted_for
    assert not drawn_up(5, rows=5, differing=1).accounted_for
    assert not drawn_up(6, rows=5).accounted_for, "one in S3 that nothing became of"
    assert not drawn_up(5, rows=5, acknowledged=6).accounted_for, "one that the ground truth does not know of"
    assert not drawn_up(5, rows=5, sheet=Sheet(source="oracle", unexpected_rows=1)).accounted_for
    assert not drawn_up(5, rows=5, sheet=Sheet(source="oracle", rejected_objects=1)).accounted_for
    strange: list[dict[str, Any]] = [{"device_id": "a", "reason": "strange"}]
    assert not drawn_up(5, rows=5, sheet=Sheet(source="oracle", unexpected_quarantined=strange)).accounted_for


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Connection:
    """What is opened once and closed once."""

    opened = 0

    def __init__(self) -> None:
        Connection.opened += 1

    def close(self) -> None:
        Connection.opened -= 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    told = Clock()
    monkeypatch.setattr(balances, "time", told)
    yield told
    assert Connection.opened == 0


Look = Callable[[float], tuple[int, int, int, int]]


def wait(monkeypatch: pytest.MonkeyPatch, clock: Clock, look: Look, **changed: Any) -> bool:
    monkeypatch.setattr(balances, "_look", lambda *_: look(clock.now))
    sending = Sending(frozenset({"a"}), HOUR, 10, frozenset())
    settings = {"stalled_seconds": 60, "quiet_seconds": 10, **changed}
    nowhere: Any = None
    connect: Any = changed.pop("connect", Connection)
    settings.pop("connect", None)
    return wait_until_drained(nowhere, connect, sending, **settings)


def test_a_moment_in_which_nothing_is_seen_on_its_way_is_not_the_end(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    # Between the emulator and Firehose nobody can look: five seconds with nothing anywhere, and then the rest comes.
    assert wait(monkeypatch, clock, lambda now: (10, 0, 0, 0) if now > 5 else (4, 0, 0, 0))
    assert 5 < clock.now < 6


@pytest.mark.parametrize(
    ("look", "seconds"),
    [
        (lambda now: (9, 0, 0, 0), 10),
        (lambda now: (4, 0, 1, 0), 60),
        (lambda now: (0, 20 - int(now), 0, 0) if now < 20 else (0, 0, 0, 0), 30),
    ],
    ids=["one never comes", "an object is never loaded", "Firehose delivers, nothing is stored"],
)
def test_waiting_ends(monkeypatch: pytest.MonkeyPatch, clock: Clock, look: Look, seconds: float) -> None:
    assert not wait(monkeypatch, clock, look)
    assert seconds <= clock.now < seconds + 1


def test_whoever_has_enough_waits_no_longer(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    assert not wait(monkeypatch, clock, lambda now: (4, 0, 1, 0), enough=lambda: clock.now > 3)
    assert 3 <= clock.now < 4


def test_a_database_that_comes_back_is_waited_for_and_one_that_does_not_is_a_clear_line(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def restarted(now: float) -> tuple[int, int, int, int]:
        if 1 < now < 31:
            raise psycopg.OperationalError("terminating connection")
        return (10, 0, 0, 0) if now > 31 else (0, 0, 1, 0)

    assert wait(monkeypatch, clock, restarted)

    def gone() -> Connection:
        raise UserError("cannot connect to the database")

    with pytest.raises(UserError, match=r"has not answered for 60 s \(cannot connect to the database\)"):
        wait(monkeypatch, clock, lambda now: (0, 0, 0, 0), connect=gone)
