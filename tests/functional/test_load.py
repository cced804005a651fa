"""The loader against a real TimescaleDB: each reading exactly once, whatever is delivered, in whatever way."""

import gzip
import io
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import IO, Any

import psycopg
import pytest
from psycopg import errors

from lambdas.processor.kept_stamps import KeptStamps
from lambdas.processor.limits import Limits
from lambdas.processor.load import Outcome, load_object
from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError
from lambdas.shared.stamp import Stamps
from tests.stamping import STAMP, STAMPS

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
MS = int(NOW.timestamp() * 1000)


def reading(seq: int, **members: Any) -> dict[str, Any]:
    return {"ts": MS + seq * 1000, "seq": seq, "temperature": 20.0 + seq / 10, "humidity": 50, **members}


def message(device: str, *readings: dict[str, Any]) -> bytes:
    members: dict[str, Any] = {"readings": list(readings), "device_id": device, "received_at": MS + 5, "stamp": STAMP}
    return json.dumps(members).encode()


def single(device: str, **members: Any) -> bytes:
    return json.dumps({**members, "device_id": device, "received_at": MS + 5, "stamp": STAMP}).encode()


def stamped(**members: Any) -> bytes:
    return json.dumps({**members, "stamp": STAMP}).encode()


def version(key: str = "year=2026/a.gz", version_id: str = "v1") -> ObjectVersion:
    return ObjectVersion("bucket", key, version_id, 123)


def load(
    connection: psycopg.Connection, lines: Sequence[bytes], key: str = "year=2026/a.gz", *, plain: bool = False
) -> Outcome:
    body = b"".join(line + b"\n" for line in lines)
    return load_object(connection, version(key), lambda: io.BytesIO(body if plain else gzip.compress(body)), LIMITS)


def count(connection: psycopg.Connection, what: str = "telemetry") -> int:
    row = connection.execute(f"SELECT count(*) FROM {what}").fetchone()
    assert row
    return int(row[0])


def ledger(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT status, reason, readings, rows, duplicates, quarantined FROM ingest.objects ORDER BY object_id"
    ).fetchall()


def quarantine(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT line, element, device_id, reason FROM ingest.quarantine ORDER BY line, element"
    ).fetchall()


def test_envelopes_and_single_readings_become_rows(connection: psycopg.Connection) -> None:
    outcome = load(
        connection,
        [
            message("device-00001", reading(1, battery=99.5, pressure=1013), reading(2)),
            single("device-00002", **reading(3)),
        ],
    )
    assert (outcome.status, outcome.rows, outcome.duplicates, outcome.quarantined) == ("loaded", 3, 0, 0)
    rows = connection.execute(
        "SELECT device_id, timestamp, seq, temperature, humidity, pressure, battery, extra, quality, received_at "
        "FROM telemetry ORDER BY seq"
    ).fetchall()
    at = datetime.fromtimestamp(MS / 1000 + 1, UTC)
    received = datetime.fromtimestamp(MS / 1000 + 0.005, UTC)
    assert rows[0] == ("device-00001", at, 1, 20.1, 50.0, 1013.0, 99.5, None, 0, received)
    assert [row[0] for row in rows] == ["device-00001", "device-00001", "device-00002"]


def test_every_reading_names_the_object_it_came_from(connection: psycopg.Connection) -> None:
    load(connection, [single("device-00001", **reading(1))], "year=2026/a.gz")
    load(connection, [single("device-00001", **reading(2))], "year=2026/b.gz")
    keys = connection.execute(
        "SELECT seq, key FROM telemetry JOIN ingest.objects USING (object_id) ORDER BY seq"
    ).fetchall()
    assert keys == [(1, "year=2026/a.gz"), (2, "year=2026/b.gz")]


def test_the_same_object_again_does_nothing(connection: psycopg.Connection) -> None:
    lines = [message("device-00001", reading(1), reading(2))]
    load(connection, lines)
    assert load(connection, lines).status == "already_loaded"
    assert count(connection) == 2
    assert ledger(connection) == [("loaded", None, 2, 2, 0, 0)]


def test_another_version_of_the_object_is_another_object(connection: psycopg.Connection) -> None:
    body = gzip.compress(single("device-00001", **reading(1)))
    for version_id in ("v1", "v2"):
        load_object(connection, version(version_id=version_id), lambda: io.BytesIO(body), LIMITS)
    assert ledger(connection) == [("loaded", None, 1, 1, 0, 0), ("loaded", None, 1, 0, 1, 0)]


def test_a_reading_that_is_there_already_is_a_counted_duplicate(connection: psycopg.Connection) -> None:
    load(connection, [message("device-00001", reading(1), reading(2), reading(3))], "year=2026/a.gz")
    outcome = load(connection, [message("device-00001", reading(3), reading(4))], "year=2026/b.gz")
    assert (outcome.readings, outcome.rows, outcome.duplicates) == (2, 1, 1)
    assert count(connection) == 4


def test_duplicates_within_one_object_are_counted(connection: psycopg.Connection) -> None:
    line = message("device-00001", reading(1), reading(2))
    outcome = load(connection, [line, line, single("device-00001", **reading(1))])
    assert (outcome.readings, outcome.rows, outcome.duplicates) == (5, 2, 3)


def test_the_first_of_two_differing_readings_with_one_key_is_kept(connection: psycopg.Connection) -> None:
    load(connection, [single("device-00001", **reading(1))], "year=2026/a.gz")
    load(connection, [single("device-00001", **{**reading(1), "temperature": 99.0})], "year=2026/b.gz")
    assert connection.execute("SELECT temperature FROM telemetry").fetchall() == [(20.1,)]


BROKEN: list[tuple[bytes, str]] = [
    (b"not json", "invalid_json"),
    (b'{"device_id": "device-00009", "ts": 1', "invalid_json"),
    (b'{"device_id": "device-00009", "ts": 1}', "not_stamped"),
    (b'{"ts": %d, "device_id": "device-00009", "stamp": null}' % MS, "not_stamped"),
    (b'{"ts": %d, "device_id": "device-00009", "stamp": ["%s"]}' % (MS, STAMP.encode()), "not_stamped"),
    (b'{"readings": [{"ts": %d, "stamp": "%s"}], "device_id": "device-00009"}' % (MS, STAMP.encode()), "not_stamped"),
    (b"[1, 2, 3]", "not_a_json_object"),
    (b'"text"', "not_a_json_object"),
    (b"", "empty"),
    (b"\xff\xfe\x00", "invalid_json"),
    (single("device-00009", seq=1), "no_timestamp"),
    (single("device-00009", ts="yesterday", seq=1), "unreadable_timestamp"),
    (single("device-00009", ts="2026-11-21T12:00:00", seq=1), "timestamp_without_offset"),
    (single("device-00009", ts=10**30, seq=1), "unreadable_timestamp"),
    (single("device-00009", ts=True, seq=1), "unreadable_timestamp"),
    (single("device-00009", ts=MS // 1000, seq=1), "timestamp_older_than_retention"),
    (single("device-00009", ts=MS + 3_700_000, seq=1), "timestamp_in_the_future"),
    (single("device-00009", ts=MS, seq=1, pad="x" * 200_000), "too_large"),
    (stamped(ts=1), "no_device_id"),
    (stamped(device_id="", ts=1), "no_device_id"),
    (stamped(device_id="a\x00b", ts=1), "no_device_id"),
    (stamped(device_id="device-00009", readings=[]), "envelope_without_readings"),
    (stamped(device_id="device-00009", readings={"ts": 1}), "readings_not_an_array"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(BROKEN)])
def test_a_broken_line_is_quarantined_and_the_others_load(
    connection: psycopg.Connection, line: bytes, reason: str
) -> None:
    outcome = load(connection, [single("device-00001", **reading(1)), line, single("device-00001", **reading(2))])
    assert (outcome.status, outcome.rows, outcome.quarantined) == ("loaded", 2, 1)
    [(number, element, _, found)] = quarantine(connection)
    assert (number, element, found) == (2, None, reason)


def test_quarantine_keeps_what_was_sent(connection: psycopg.Connection) -> None:
    large = single("device-00009", ts=MS, pad="x" * 200_000)
    load(connection, [b"nul \x00 and \xff", large])
    rows = connection.execute("SELECT raw, raw_bytes FROM ingest.quarantine ORDER BY line").fetchall()
    assert rows[0] == ("nul \\x00 and \\xff", 11)
    assert large.decode().startswith(rows[1][0])
    assert rows[1][1] > 200_000


def test_a_message_that_is_not_json_as_a_whole_cannot_speak_for_another_device(connection: psycopg.Connection) -> None:
    """The rule adds nothing to such a payload, and Firehose puts it into the object as it is, newlines and all."""
    forged = json.dumps({**reading(1), "device_id": "device-00002", "received_at": MS}).encode()
    guessed = json.dumps({**reading(2), "device_id": "device-00002", "received_at": MS, "stamp": "x" * 32}).encode()
    payload = forged + b"\n" + guessed + b'\n{"readings":\n{'
    outcome = load(connection, [single("device-00001", **reading(3)), payload, single("device-00002", **reading(4))])
    assert (outcome.rows, outcome.quarantined) == (2, 4)
    assert connection.execute("SELECT device_id, seq FROM telemetry ORDER BY seq").fetchall() == [
        ("device-00001", 3),
        ("device-00002", 4),
    ]
    assert [entry[2:] for entry in quarantine(connection)] == [
        (None, "not_stamped"),
        (None, "not_stamped"),
        (None, "invalid_json"),
        (None, "invalid_json"),
    ]
    assert connection.execute("SELECT raw FROM ingest.quarantine WHERE line = 2").fetchall() == [(forged.decode(),)]


def test_while_the_stamps_cannot_be_read_nothing_is_loaded_and_nothing_refused(connection: psycopg.Connection) -> None:
    body = gzip.compress(single("device-00001", **reading(1)) + b"\n" + single("device-00001", **reading(2)))
    secret: list[Stamps] = []
    kept = KeptStamps(secret.pop)

    def attempt() -> Outcome:
        return load_object(
            connection, version(), lambda: io.BytesIO(body), lambda: replace(LIMITS, stamps=kept.ready())
        )

    with pytest.raises(IndexError):
        attempt()
    assert count(connection) == count(connection, "ingest.objects") == 0
    secret.append(STAMPS)
    assert attempt().rows == 2


def test_the_stamp_is_stored_nowhere(connection: psycopg.Connection) -> None:
    good = [message("device-00001", reading(1, note="kept"), reading(2)), single("device-00001", **reading(3, note=1))]
    broken = [line for line, _ in BROKEN] + [single("device-00001", ts=MS)[:-2], message("device-00001", {"seq": 1})]
    load(connection, [*good, *broken])
    for table in ("telemetry", "ingest.quarantine", "ingest.objects"):
        rows = connection.execute(f"SELECT t::text FROM {table} t").fetchall()
        assert rows
        assert not [row for (row,) in rows if STAMP in row]


def test_one_bad_element_of_an_envelope_leaves_the_others(connection: psycopg.Connection) -> None:
    line = message("device-00001", reading(1), {"seq": 2}, "three", reading(4))  # type: ignore[arg-type]
    outcome = load(connection, [line])
    assert (outcome.readings, outcome.rows, outcome.quarantined) == (4, 2, 2)
    assert quarantine(connection) == [
        (1, 1, "device-00001", "no_timestamp"),
        (1, 2, "device-00001", "reading_not_an_object"),
    ]


def test_bad_values_cost_the_value_and_not_the_reading(connection: psycopg.Connection) -> None:
    lines = [
        single("device-00001", **reading(1, temperature="hot")),
        single("device-00001", **reading(2, humidity=250)),
        stamped(device_id="device-00001", ts=MS, seq=3, temperature=float("nan"), pressure=1000),
        single("device-00001", **reading(4, temperature=True, battery=10**400, note="a\x00b")),
        single("device-00001", ts=MS, seq="five", temperature=1),
    ]
    assert load(connection, lines).rows == 5
    rows = connection.execute(
        "SELECT seq, temperature, humidity, quality, extra FROM telemetry ORDER BY seq"
    ).fetchall()
    assert rows[0] == (0, 1.0, None, 1 << 8, {"seq": "five"})
    assert rows[1] == (1, None, 50.0, 1, {"temperature": "hot"})
    assert rows[2] == (2, 20.2, 250.0, 1 << 5, None)
    assert rows[3] == (3, None, None, 1, {"temperature": "nan"})
    seq, temperature, _, quality, extra = rows[4]
    assert (seq, temperature, quality) == (4, None, 1 | 1 << 3)
    assert extra["temperature"] is True
    assert extra["note"] == "a\ufffdb"
    assert "battery" in extra


def test_other_members_are_kept_in_extra(connection: psycopg.Connection) -> None:
    load(
        connection,
        [stamped(readings=[reading(1, firmware="1.2", tags=["a", 1])], site="north", device_id="device-00001")],
    )
    [(extra, received_at)] = connection.execute("SELECT extra, received_at FROM telemetry").fetchall()
    assert extra == {"firmware": "1.2", "tags": ["a", 1], "site": "north"}
    assert received_at is None


def test_a_reading_cannot_claim_another_device(connection: psycopg.Connection) -> None:
    load(connection, [message("device-00001", reading(1, device_id="device-00002"))])
    assert connection.execute("SELECT device_id, extra FROM telemetry").fetchall() == [
        ("device-00001", {"device_id": "device-00002"})
    ]


def test_plain_and_multi_member_gzip_objects_load(connection: psycopg.Connection) -> None:
    assert load(connection, [single("device-00001", **reading(1))], "year=2026/plain", plain=True).rows == 1
    members = b"".join(gzip.compress(single("device-00001", **reading(seq)) + b"\n") for seq in (2, 3))
    outcome = load_object(connection, version("year=2026/two.gz"), lambda: io.BytesIO(members), LIMITS)
    assert outcome.rows == 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda body: body[: len(body) // 2], "gzip_truncated"),
        (lambda body: body[:20] + b"\x00\x00\xff\xff" * 20 + body[60:], "gzip_corrupt"),
    ],
)
def test_a_broken_object_is_rejected_whole_and_once(connection: psycopg.Connection, damage: Any, reason: str) -> None:
    lines = b"".join(single(f"device-{n:05}", **reading(n)) + b"\n" for n in range(2000))
    body = damage(gzip.compress(lines))
    for _ in range(2):
        load_object(connection, version(), lambda: io.BytesIO(body), LIMITS)
    assert ledger(connection) == [("rejected", reason, 0, 0, 0, 0)]
    assert count(connection) == 0


def test_an_object_that_does_not_exist_is_rejected(connection: psycopg.Connection) -> None:
    def gone() -> IO[bytes]:
        raise UnreadableObjectError("object_does_not_exist")

    assert load_object(connection, version(), gone, LIMITS).status == "rejected"
    assert ledger(connection) == [("rejected", "object_does_not_exist", 0, 0, 0, 0)]


def test_an_empty_object_is_loaded_with_nothing(connection: psycopg.Connection) -> None:
    assert load(connection, []).status == "loaded"
    assert load(connection, [], "year=2026/zero", plain=True).readings == 0


def test_a_connection_that_is_killed_mid_load_leaves_nothing_and_the_redelivery_loads_once(
    connection: psycopg.Connection, database_dsn: str
) -> None:
    body = gzip.compress(b"".join(message("device-00001", reading(n)) + b"\n" for n in range(500)))
    reached, killed = threading.Event(), threading.Event()

    class Stalling(io.BytesIO):
        """Stops after the claim, in the midst of the COPY, until the connection has been killed."""

        def read(self, size: int | None = -1, /) -> bytes:
            reached.set()
            assert killed.wait(20)
            return super().read(size)

    with psycopg.connect(database_dsn, autocommit=True) as victim, ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(load_object, victim, version(), lambda: Stalling(body), LIMITS)
        assert reached.wait(20)
        connection.execute("SELECT pg_terminate_backend(%s)", (victim.info.backend_pid,))
        killed.set()
        with pytest.raises(psycopg.OperationalError):
            attempt.result(30)
    assert count(connection) == count(connection, "ingest.objects") == 0
    assert load_object(connection, version(), lambda: io.BytesIO(body), LIMITS).rows == 500
    assert load_object(connection, version(), lambda: io.BytesIO(body), LIMITS).status == "already_loaded"
    assert count(connection) == 500


def test_two_at_once_load_the_object_once(database_dsn: str, connection: psycopg.Connection) -> None:
    body = gzip.compress(b"".join(message("device-00001", reading(n)) + b"\n" for n in range(300)))
    barrier = threading.Barrier(4)

    def attempt() -> str:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            barrier.wait(20)
            return load_object(own, version(), lambda: io.BytesIO(body), LIMITS).status

    with ThreadPoolExecutor(4) as pool:
        results = [attempt.result(60) for attempt in [pool.submit(attempt) for _ in range(4)]]
    assert sorted(results) == ["already_loaded"] * 3 + ["loaded"]
    assert count(connection) == 300


def test_overlapping_objects_at_once_do_not_deadlock(database_dsn: str, connection: psycopg.Connection) -> None:
    """The same readings in opposite orders, many times: sorted by key, one waits for the other."""
    load(connection, [single("device-00000", **reading(1))], "year=2026/first.gz")
    lines = [single(f"device-{n:05}", **reading(1)) for n in range(400)]

    def attempt(number: int) -> Outcome:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            return load(own, lines if number % 2 else lines[::-1], f"year=2026/{number}.gz")

    with ThreadPoolExecutor(4) as pool:
        outcomes = [future.result(60) for future in [pool.submit(attempt, number) for number in range(8)]]
    assert sum(outcome.rows for outcome in outcomes) == 399
    assert count(connection) == 400


def test_a_statement_timeout_is_transient(database_dsn: str, connection: psycopg.Connection) -> None:
    """A loader that waits for a claim held elsewhere gives up, raises, and succeeds when delivered again."""
    with connection.transaction():
        connection.execute(
            "INSERT INTO ingest.objects (bucket, key, version_id) VALUES ('bucket', 'year=2026/a.gz', 'v1')"
        )
        with psycopg.connect(database_dsn, autocommit=True, options="-c statement_timeout=200") as own:
            started = time.monotonic()
            with pytest.raises(errors.QueryCanceled):
                load(own, [single("device-00001", **reading(1))])
            assert time.monotonic() - started < 10
        raise psycopg.Rollback
    assert load(connection, [single("device-00001", **reading(1))]).rows == 1


def test_the_loader_role_can_load_and_nothing_else(database_dsn: str, connection: psycopg.Connection) -> None:
    with psycopg.connect(database_dsn, autocommit=True) as own:
        own.execute("SET ROLE iot_loader")
        load(own, [single("device-00001", **reading(1)), b"broken"], "year=2026/a.gz")
        assert load(own, [single("device-00001", **reading(1))], "year=2026/b.gz").duplicates == 1
        for forbidden in (
            "DELETE FROM telemetry",
            "UPDATE telemetry SET temperature = 0",
            "DELETE FROM ingest.objects",
            "DELETE FROM ingest.quarantine",
            "DROP TABLE telemetry",
            "SELECT * FROM ingest.migrations",
            "CREATE TABLE public.mine (i int)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                own.execute(forbidden.encode())
