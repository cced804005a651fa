"""Exactly once, with a network that refuses, resets, hangs up and stalls between one warm loader and its database."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from lambdas.shared.connection import KeptConnection
from lambdas.shared.database import DatabaseSecret, connect
from local.session import AwsSession
from local.state import Emulator
from tests.functional.accounting import Span, assert_every_reading_once, assert_nothing_stored, raw_object
from tests.functional.conftest import Intake, Message, StartLoader
from tests.functional.loader_process import Boundary, LoaderProcess, Stopped
from tests.functional.tcp_proxy import HOST, End, TcpProxy

BEFORE = raw_object("before", Span("device-00001", range(600)))
AFRESH = raw_object("afresh", Span("device-00001", range(600, 2600)), Span("device-00002", range(1500)))
OTHER = raw_object("other", Span("device-00003", range(100)))
LARGE = raw_object("large", *[Span(f"device-{n:05}", range(4000)) for n in range(3, 8)])
OVERLAPPING = raw_object("overlapping", Span("device-00001", range(400, 2600)), Span("device-00002", range(1500)))

SHORT_SECONDS = 8.0
"""How long an invocation may last that meets a stall: the handler keeps five seconds of it."""


@pytest.fixture
def proxy(database_dsn: str) -> Iterator[TcpProxy]:
    """What lies between the loader and its database."""
    address = conninfo_to_dict(database_dsn)
    if address["host"] != HOST:
        pytest.skip(f"the certificate of the given database is not for {HOST}, where the proxy listens")
    with TcpProxy(HOST, int(str(address["port"]))) as running:
        yield running


@pytest.fixture
def loader(proxy: TcpProxy, intake: Intake, start_loader: StartLoader, database_dsn: str) -> LoaderProcess:
    """A warm loader, which has stored BEFORE, and is connected through the proxy."""
    started = start_loader(database_dsn, port=proxy.port)
    messages = intake.put(BEFORE)
    started.deliver(messages)
    assert not started.failed()
    intake.acknowledge(messages)
    return started


def assert_fails(intake: Intake, loader: LoaderProcess, messages: list[Message], within_seconds: float) -> None:
    """The handler, already under way, reports every message as failed, in time."""
    started = time.monotonic()
    failed = loader.failed()
    assert time.monotonic() - started < within_seconds
    assert failed == {message["messageId"] for message in messages}
    intake.acknowledge(messages, failed)


def assert_redelivery_succeeds(intake: Intake, loader: LoaderProcess, number: int = 1, deliveries: int = 2) -> None:
    """What failed is in the queue again, at once, and this time it works."""
    messages = intake.receive(number)
    assert {message["attributes"]["ApproximateReceiveCount"] for message in messages} == {str(deliveries)}
    loader.deliver(messages)
    assert not loader.failed()
    intake.acknowledge(messages)
    assert intake.is_empty()


def test_a_database_that_refuses(intake: Intake, loader: LoaderProcess, proxy: TcpProxy, database_dsn: str) -> None:
    proxy.refuse()
    messages = intake.put(AFRESH)
    loader.deliver(messages)
    assert_fails(intake, loader, messages, 10)
    messages = intake.receive(1)
    loader.deliver(messages)
    assert_fails(intake, loader, messages, 10)
    assert_nothing_stored(database_dsn, but=[BEFORE])
    proxy.forward()
    assert_redelivery_succeeds(intake, loader, deliveries=3)
    assert_every_reading_once(database_dsn, [BEFORE, AFRESH])


@pytest.mark.parametrize("fault", ["reset", "abandon"])
def test_a_connection_that_was_lost_between_invocations_costs_no_delivery(
    fault: str, intake: Intake, loader: LoaderProcess, proxy: TcpProxy, database_dsn: str
) -> None:
    """A restarted server, a NAT that forgot an idle connection: with or without telling."""
    proxy.reset() if fault == "reset" else proxy.abandon()
    messages = intake.put(AFRESH)
    loader.deliver(messages, function_seconds=SHORT_SECONDS)
    assert not loader.failed()
    intake.acknowledge(messages)
    assert_every_reading_once(database_dsn, [BEFORE, AFRESH])


@pytest.mark.parametrize(
    ("boundary", "how"),
    [
        ("claimed", "reset"),
        ("mid_copy", "reset"),
        ("mid_copy", "hang_up"),
        ("copied", "reset"),
        ("mid_staging", "reset"),
        ("staged", "reset"),
        ("counted", "reset"),
        ("recorded", "reset"),
        ("recorded", "hang_up"),
    ],
)
def test_a_connection_that_breaks(
    boundary: Boundary, how: End, intake: Intake, loader: LoaderProcess, proxy: TcpProxy, database_dsn: str
) -> None:
    """Where it stood, in place of its next request: at `recorded` that is COMMIT, which never arrives."""
    known = OVERLAPPING if boundary in ("mid_staging", "staged") else AFRESH
    messages = intake.put(known)
    loader.deliver(messages, stop_at=boundary)
    assert loader.outcome() == Stopped(boundary)
    proxy.break_at("request", how)
    loader.go_on()
    assert_fails(intake, loader, messages, 10)
    assert_nothing_stored(database_dsn, but=[BEFORE])
    proxy.forward()
    assert_redelivery_succeeds(intake, loader)
    assert_every_reading_once(database_dsn, [BEFORE, known])


@pytest.mark.parametrize("how", ["reset", "hang_up"])
def test_a_connection_that_breaks_when_the_commit_is_done_and_not_yet_confirmed(
    how: End, intake: Intake, loader: LoaderProcess, proxy: TcpProxy, database_dsn: str
) -> None:
    """The loader cannot know, so it says failed; the ledger knows."""
    messages = intake.put(AFRESH)
    loader.deliver(messages, stop_at="recorded")
    assert loader.outcome() == Stopped("recorded")
    proxy.break_at("reply", how)
    loader.go_on()
    assert_fails(intake, loader, messages, 10)
    assert_every_reading_once(database_dsn, [BEFORE, AFRESH])
    proxy.forward()
    assert_redelivery_succeeds(intake, loader)
    assert "object already_loaded" in loader.log()
    assert_every_reading_once(database_dsn, [BEFORE, AFRESH])


@pytest.mark.parametrize("boundary", ["claimed", "mid_copy", "recorded"])
def test_a_connection_that_stalls_ends_with_the_time_of_the_function(
    boundary: Boundary, intake: Intake, loader: LoaderProcess, proxy: TcpProxy, database_dsn: str
) -> None:
    """mid_copy: the loader writes until nobody takes it; the others: it waits for an answer."""
    messages = intake.put(LARGE, OTHER)
    started = time.monotonic()
    loader.deliver(messages, stop_at=boundary, function_seconds=SHORT_SECONDS)
    assert loader.outcome() == Stopped(boundary)
    proxy.stall()
    loader.go_on()
    assert_fails(intake, loader, messages, SHORT_SECONDS - (time.monotonic() - started))
    assert "the connection was cut" in loader.log()
    proxy.forward()
    assert_redelivery_succeeds(intake, loader, number=2)
    assert_every_reading_once(database_dsn, [BEFORE, LARGE, OTHER])


def test_a_database_that_accepts_and_says_nothing(
    intake: Intake, loader: LoaderProcess, proxy: TcpProxy, database_dsn: str
) -> None:
    proxy.reset()
    proxy.stall()
    messages = intake.put(AFRESH)
    for _ in range(2):
        loader.deliver(messages, function_seconds=SHORT_SECONDS)
        assert_fails(intake, loader, messages, SHORT_SECONDS)
        messages = intake.receive(1)
    intake.release(messages)
    proxy.forward()
    assert_redelivery_succeeds(intake, loader, deliveries=4)
    assert_every_reading_once(database_dsn, [BEFORE, AFRESH])


@pytest.mark.parametrize("boundary", ["claimed", "recorded"])
def test_a_loader_that_vanishes_without_a_word_holds_its_claim_not_for_long(
    boundary: Boundary,
    intake: Intake,
    start_loader: StartLoader,
    proxy: TcpProxy,
    database_dsn: str,
    connection: psycopg.Connection,
) -> None:
    """No FIN, no RST, as when a machine is lost: the server ends the session by its own timeouts."""
    victim = start_loader(database_dsn, port=proxy.port, statement_timeout_seconds=2)
    messages = intake.put(AFRESH)
    victim.deliver(messages, stop_at=boundary)
    assert victim.outcome() == Stopped(boundary)
    proxy.abandon()
    victim.kill()
    assert sessions(connection) == 1
    successor = start_loader(database_dsn, port=proxy.port, statement_timeout_seconds=20)
    intake.release(messages)
    assert_redelivery_succeeds(intake, successor)
    assert_every_reading_once(database_dsn, [AFRESH])


def secret_of(dsn: str) -> DatabaseSecret:
    address = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    return DatabaseSecret(
        host=address["host"],
        port=int(address["port"]),
        dbname=address["dbname"],
        username=address["user"],
        password=address["password"],
        ca=Path(address["sslrootcert"]).read_text(),
    )


def test_the_server_gives_up_a_client_that_vanished_in_the_midst_of_a_copy(database_dsn: str) -> None:
    """By TCP keepalives, which only a machine that is really gone leaves unanswered: so they are read, not tried."""
    with connect(secret_of(database_dsn), application_name="test", statement_timeout_seconds=90) as connection:
        settings = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp_keepalives_%' ORDER BY name"
        ).fetchall()
    assert settings == [("tcp_keepalives_count", "3"), ("tcp_keepalives_idle", "60"), ("tcp_keepalives_interval", "10")]


def sessions(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'iot-telemetry-processor'"
    ).fetchone()
    assert row
    return int(row[0])


def test_a_connection_left_in_a_transaction_is_not_used_again(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In it a load would seem committed, and be undone when the connection ends."""
    monkeypatch.setenv("DATABASE_SECRET_ARN", "any")
    monkeypatch.setattr("lambdas.shared.connection.read_secret", lambda _: secret_of(database_dsn))
    kept = KeptConnection(application_name="test", statement_timeout_seconds=30)
    kept.get().execute("BEGIN")
    with kept.within(30) as connection:
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert kept.get() is connection
    kept.discard()


@pytest.mark.parametrize("how", ["reset", "hang_up"])
def test_an_object_that_comes_only_in_part_is_neither_loaded_in_part_nor_rejected(
    how: End, intake: Intake, emulator: Emulator, aws: AwsSession, start_loader: StartLoader, database_dsn: str
) -> None:
    address = urlsplit(str(aws.endpoint_url))
    with TcpProxy(HOST, int(address.port or 0)) as s3:
        loader = start_loader(database_dsn, AWS_ENDPOINT_URL_S3=f"http://{HOST}:{s3.port}")
        messages = intake.put(AFRESH)
        s3.break_at("reply", how, after_reply_bytes=len(AFRESH.body) // 2)
        loader.deliver(messages)
        assert_fails(intake, loader, messages, 30)
        assert_nothing_stored(database_dsn)
        s3.forward()
        assert_redelivery_succeeds(intake, loader)
    assert_every_reading_once(database_dsn, [AFRESH])
