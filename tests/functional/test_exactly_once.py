"""Exactly once, with loaders that are killed at every boundary and that get in each other's way."""

import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg
import pytest

from tests.functional.accounting import Span, assert_every_reading_once, assert_nothing_stored, raw_object
from tests.functional.conftest import Intake, Message, StartLoader, wait_until
from tests.functional.loader_process import BOUNDARIES, Boundary, LoaderProcess, Stopped

T = TypeVar("T")

BEFORE = raw_object("before", Span("device-00001", range(600)))
AFRESH = raw_object("afresh", Span("device-00001", range(600, 2600)), Span("device-00002", range(1500)))
OVERLAPPING = raw_object("overlapping", Span("device-00001", range(400, 2600)), Span("device-00002", range(1500)))

SEEN_BY_THE_SERVER: dict[Boundary, tuple[str, str]] = {
    "claimed": ("idle in transaction", "INSERT INTO ingest.objects"),
    "mid_copy": ("active", "COPY telemetry"),
    # After the COPY the loader reads what is usual for devices that it does not know.
    "copied": ("idle in transaction", "SELECT device_id, state FROM ingest.detector"),
    "mid_staging": ("active", "COPY incoming"),
    "staged": ("idle in transaction", "SELECT device_id, state FROM ingest.detector"),
    "counted": ("idle in transaction", "RELEASE"),
    "recorded": ("idle in transaction", "UPDATE ingest.objects"),
    "committed": ("idle", "COMMIT"),
}


def loaders_at(connection: psycopg.Connection, state: str, query: str) -> int:
    """How many loaders the server sees in a state, waiting for their client, with this as their last statement."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'ClientRead' "
        "AND application_name = 'iot-telemetry-processor' AND state = %s AND starts_with(query, %s)",
        (state, query),
    ).fetchone()
    assert row
    return int(row[0])


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_loader_that_is_killed_leaves_all_or_nothing_and_the_next_one_completes_it(
    boundary: Boundary, intake: Intake, start_loader: StartLoader, database_dsn: str, connection: psycopg.Connection
) -> None:
    victim = start_loader(database_dsn)
    messages = intake.put(BEFORE)
    victim.deliver(messages)
    assert not victim.failed()
    intake.acknowledge(messages)

    known = OVERLAPPING if boundary in ("mid_staging", "staged") else AFRESH
    messages = intake.put(known)
    victim.deliver(messages, stop_at=boundary)
    assert victim.outcome() == Stopped(boundary)
    wait_until(lambda: loaders_at(connection, *SEEN_BY_THE_SERVER[boundary]) == 1, boundary)
    victim.kill()
    if boundary == "committed":
        assert_every_reading_once(database_dsn, [BEFORE, known])
    else:
        assert_nothing_stored(database_dsn, but=[BEFORE])

    intake.release(messages)
    messages = intake.receive(1)
    assert messages[0]["attributes"]["ApproximateReceiveCount"] == "2"
    successor = start_loader(database_dsn)
    successor.deliver([*messages, *messages])
    assert not successor.failed()
    intake.acknowledge(messages)
    assert intake.is_empty()
    assert_every_reading_once(database_dsn, [BEFORE, known])


@pytest.mark.parametrize("boundary", ["claimed", "mid_copy", "recorded"])
@pytest.mark.parametrize("killed", [True, False], ids=["the other is killed", "the other completes"])
def test_a_loader_waits_for_another_with_the_same_object(
    boundary: Boundary,
    killed: bool,
    intake: Intake,
    start_loader: StartLoader,
    database_dsn: str,
    connection: psycopg.Connection,
) -> None:
    holder, waiting = start_loader(database_dsn), start_loader(database_dsn)
    messages = intake.put(AFRESH)
    holder.deliver(messages, stop_at=boundary)
    assert holder.outcome() == Stopped(boundary)
    waiting.deliver(messages)
    wait_until(
        lambda: bool(connection.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall()), "a wait for the claim"
    )
    assert_nothing_visible(connection)
    if killed:
        holder.kill()
    else:
        holder.go_on()
        assert not holder.failed()
    assert not waiting.failed()
    assert_every_reading_once(database_dsn, [AFRESH])
    loads = [process.log().count('"object loaded"') for process in (holder, waiting)]
    assert loads == ([0, 1] if killed else [1, 0])


def assert_nothing_visible(connection: psycopg.Connection) -> None:
    """Without a lock, as any reader sees it while a loader is in the midst of it."""
    for table in ("telemetry", "ingest.objects", "ingest.quarantine"):
        assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (0,)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_events_in_several_processes_shuffled_and_repeated_with_some_killed(
    seed: int, intake: Intake, start_loader: StartLoader, database_dsn: str
) -> None:
    rng = random.Random(seed)  # noqa: S311 - the same plan in each run
    # Each object shares readings with the one before and the one after it, and some with three others.
    objects = [
        raw_object(
            f"{number}",
            Span("device-00001", range(number * 300, number * 300 + 500)),
            Span(f"device-{2 + number % 3:05}", range(number * 100, number * 100 + 500)),
        )
        for number in range(10)
    ]
    messages = intake.put(*objects)
    batches: deque[list[Message]] = deque()
    plan = [message for message in messages for _ in range(rng.choice([1, 2, 3]))]
    rng.shuffle(plan)
    while plan:
        batches.append([plan.pop() for _ in range(min(len(plan), rng.choice([1, 2, 3])))])
    deaths = deque(rng.sample(BOUNDARIES, 5))
    killed: list[Boundary] = []

    def work(loader: LoaderProcess) -> None:
        """Takes batches until there are none."""
        failures = 0
        while batch := take(batches):
            stop_at = take(deaths)
            loader.deliver(batch, stop_at=stop_at)
            outcome = loader.outcome()
            if isinstance(outcome, Stopped):
                loader.kill()
                killed.append(outcome.boundary)
                loader = start_loader(database_dsn)
                batches.append(batch)
                continue
            if stop_at:
                deaths.append(stop_at)  # it was not on the way of this batch
            if again := [message for message in batch if message["messageId"] in outcome.failed]:
                failures += len(again)
                assert failures <= 5, f"loaders that overlap wait for each other; they do not fail: {loader.log()}"
                batches.append(again)

    loaders = [start_loader(database_dsn) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(work, loader) for loader in loaders]:
            future.result()
    assert len(killed) >= 3
    assert_every_reading_once(database_dsn, objects)


def take(queue: deque[T]) -> T | None:
    """The next one, if there is one; safe among threads."""
    try:
        return queue.popleft()
    except IndexError:
        return None
