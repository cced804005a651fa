"""The sweeper against real S3 and SQS and a real TimescaleDB: it finds what was never loaded, all of it and nothing else."""

import gzip
import io
import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion, objects_of
from lambdas.shared.connection import KeptConnection
from lambdas.shared.listing import EVERYTHING, Listed, pages
from lambdas.sweeper import handler as handlers
from lambdas.sweeper import progress
from lambdas.sweeper.sweep import Ages, Findings, Target, sweep
from local import emulator as emulators
from local.given_database import parse_dsn
from local.session import emulator_session
from local.state import Emulator
from tests.stamping import STAMP, STAMPS

NOW = datetime.now(UTC)
LIMITS = Limits.around(NOW, retention_days=30, max_future_seconds=3600, stamps=STAMPS)
_numbers = itertools.count(1)


class Bucket:
    """A versioned bucket and a queue of the test's own."""

    def __init__(self, emulator: Emulator) -> None:
        aws = emulator_session(emulator.port)
        self.s3, self.sqs = aws.client("s3"), aws.client("sqs")
        self.name = f"swept-{next(_numbers)}"
        self.s3.create_bucket(Bucket=self.name)
        self.s3.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})
        self.queue_url = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]

    @property
    def target(self) -> Target:
        return Target(self.name, self.queue_url)

    def put(self, key: str, seq: int = 1) -> ObjectVersion:
        line = {"ts": int(NOW.timestamp() * 1000), "seq": seq, "device_id": key[-20:], "stamp": STAMP}
        body = gzip.compress(json.dumps(line).encode())
        version_id = self.s3.put_object(Bucket=self.name, Key=key, Body=body)["VersionId"]
        return ObjectVersion(self.name, key, version_id, len(body))

    def load(self, connection: psycopg.Connection, version: ObjectVersion) -> str:
        body = self.s3.get_object(Bucket=self.name, Key=version.key, VersionId=version.version_id)["Body"].read()
        return load_object(connection, version, lambda: io.BytesIO(body), LIMITS).status

    def received(self) -> list[ObjectVersion]:
        """Takes every message off the queue."""
        found: list[ObjectVersion] = []
        while messages := self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                found += objects_of(message["Body"])
                self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return sorted(found, key=lambda version: (version.key, version.version_id))


def swept(bucket: Bucket, connection: psycopg.Connection, ages: Ages | None = None, **options: Any) -> Findings:
    return sweep(
        options.pop("s3", bucket.s3),
        options.pop("sqs", bucket.sqs),
        connection,
        bucket.target,
        ages or ages_of(),
        [EVERYTHING],
        **options,
    )


def ages_of(grace: timedelta = -timedelta(hours=1), resend: timedelta = timedelta(hours=6)) -> Ages:
    return Ages.at(datetime.now(UTC), retention=timedelta(days=30), grace=grace, resend=resend)


def by_name(versions: list[ObjectVersion]) -> list[ObjectVersion]:
    return sorted(versions, key=lambda version: (version.key, version.version_id))


@pytest.fixture
def bucket(emulator: Emulator) -> Bucket:
    return Bucket(emulator)


@pytest.fixture
def loader_connection(database_dsn: str) -> Iterator[psycopg.Connection]:
    """As the sweeper has it: with the loader's rights and no more."""
    with psycopg.connect(database_dsn, autocommit=True) as opened:
        opened.execute("SET ROLE iot_loader")
        yield opened


def test_it_finds_exactly_what_was_never_loaded_whatever_the_order_of_keys(
    bucket: Bucket, connection: psycopg.Connection, loader_connection: psycopg.Connection
) -> None:
    lost = [
        bucket.put("year=2026/month=01/day=01/hour=00/older than all.gz"),
        bucket.put("year=2026/month=11/day=21/hour=10/a+b ü&%41.gz"),
        bucket.put("year=2026/month=11/day=21/hour=10/twice.gz", 1),
    ]
    loaded = [bucket.put("year=2026/month=11/day=21/hour=10/twice.gz", 2)]
    loaded += [bucket.put(f"year=2026/month=11/day=2{n}/hour=10/loaded.gz") for n in range(3)]
    lost.append(bucket.put("year=2026/month=12/day=31/hour=00/newer than all.gz"))
    bucket.put("errors/year=2026/not ours")
    for version in loaded:
        assert bucket.load(connection, version) == "loaded"
    connection.execute("UPDATE ingest.objects SET status = 'rejected', reason = 'x' WHERE key LIKE '%day=22%'")
    found = swept(bucket, loader_connection)
    assert (found.listed, found.never_loaded, found.announced) == (8, 4, 4)
    assert found.oldest is not None
    assert abs(found.oldest - datetime.now(UTC)) < timedelta(minutes=5)
    received = bucket.received()
    assert received == by_name(lost)
    for version in received:
        assert bucket.load(connection, version) == "loaded"
    found = swept(bucket, loader_connection)
    assert (found.never_loaded, found.announced, found.oldest) == (0, 0, None)
    assert connection.execute("SELECT count(*) FROM ingest.announced_again").fetchone() == (0,)


def test_an_object_is_announced_again_only_after_a_while(
    bucket: Bucket, connection: psycopg.Connection, loader_connection: psycopg.Connection
) -> None:
    version = bucket.put("year=2026/lost.gz")
    assert [swept(bucket, loader_connection).announced for _ in range(3)] == [1, 0, 0]
    assert bucket.received() == [version]
    assert swept(bucket, loader_connection, ages_of(resend=timedelta(0))).announced == 1
    assert bucket.received() == [version]
    assert connection.execute("SELECT times FROM ingest.announced_again").fetchone() == (2,)


def test_the_young_the_old_and_the_deleted_are_left_alone(
    bucket: Bucket, loader_connection: psycopg.Connection
) -> None:
    bucket.put("year=2026/young.gz")
    bucket.put("year=2026/deleted.gz")
    bucket.put("year=2026/deleted.gz")
    bucket.s3.delete_object(Bucket=bucket.name, Key="year=2026/deleted.gz")
    assert swept(bucket, loader_connection, ages_of(grace=timedelta(minutes=15))).never_loaded == 0
    later = datetime.now(UTC) + timedelta(days=31)
    old = Ages.at(later, retention=timedelta(days=30), grace=timedelta(0), resend=timedelta(0))
    assert swept(bucket, loader_connection, old).never_loaded == 0
    assert swept(bucket, loader_connection).never_loaded == 1
    assert [version.key for version in bucket.received()] == ["year=2026/young.gz"]


class SmallPages:
    """S3 that lists two versions at a time."""

    def __init__(self, s3: Any) -> None:
        self._s3 = s3
        self.calls = 0

    def list_object_versions(self, **request: Any) -> Any:
        self.calls += 1
        return self._s3.list_object_versions(**request, MaxKeys=2)


def test_a_sweep_goes_through_all_pages_and_may_be_done_in_parts(
    bucket: Bucket, loader_connection: psycopg.Connection
) -> None:
    versions = [bucket.put(f"year=2026/{n // 3}.gz", n) for n in range(12)]
    bucket.s3.delete_object(Bucket=bucket.name, Key="year=2026/1.gz")
    there = by_name([version for version in versions if version.key != "year=2026/1.gz"])
    small = SmallPages(bucket.s3)
    found = swept(bucket, loader_connection, s3=small, enough=lambda: small.calls >= 3)
    assert found.unfinished is not None
    parts = [found]
    while parts[-1].unfinished is not None:
        parts.append(swept(bucket, loader_connection, s3=small, after=parts[-1].unfinished, enough=lambda: True))
    assert len(parts) > 2
    assert sum(part.announced for part in parts) == sum(part.never_loaded for part in parts) == 9
    assert bucket.received() == there
    whole = [listed for page, _ in pages(SmallPages(bucket.s3), bucket.name, EVERYTHING) for listed in page]
    assert sorted((listed.key, listed.version_id) for listed in whole) == [(v.key, v.version_id) for v in there]


def test_two_sweeps_at_once_announce_an_object_once(
    bucket: Bucket, database_dsn: str, connection: psycopg.Connection
) -> None:
    versions = [bucket.put(f"year=2026/{n:02}.gz") for n in range(25)]

    def run() -> int:
        with psycopg.connect(database_dsn, autocommit=True) as own:
            return swept(bucket, own).announced

    with ThreadPoolExecutor(3) as pool:
        assert sum(attempt.result(60) for attempt in [pool.submit(run) for _ in range(3)]) == 25
    assert bucket.received() == versions


def test_what_sqs_did_not_take_is_announced_by_the_next_sweep(
    bucket: Bucket, loader_connection: psycopg.Connection
) -> None:
    version = bucket.put("year=2026/lost.gz")

    class Refusing:
        def send_message_batch(self, **_: Any) -> Any:
            return {"Failed": [{"Code": "InternalError"}]}

    with pytest.raises(RuntimeError, match="InternalError"):
        swept(bucket, loader_connection, sqs=Refusing())
    assert swept(bucket, loader_connection).announced == 1
    assert bucket.received() == [version]


def test_an_archived_object_is_counted_and_not_announced(bucket: Bucket, loader_connection: psycopg.Connection) -> None:
    bucket.s3.put_object(Bucket=bucket.name, Key="year=2026/cold.gz", Body=b"", StorageClass="GLACIER")
    found = swept(bucket, loader_connection)
    assert (found.never_loaded, found.archived, found.announced) == (1, 1, 0)


class Context:
    """Lambda's, with as much time as it is given."""

    def __init__(self, milliseconds: int = 900_000) -> None:
        self._milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds


@pytest.fixture
def deployed(
    bucket: Bucket, emulator: Emulator, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """The handler's environment."""
    secrets = emulator_session(emulator.port).client("secretsmanager")
    secret = secrets.create_secret(Name=bucket.name, SecretString=msgspec.json.encode(parse_dsn(database_dsn)).decode())
    aws = {name: value for name, value in emulators.environment(emulator).items() if name.startswith("AWS_")}
    for name, value in {
        **aws,
        "BUCKET": bucket.name,
        "OBJECT_QUEUE_URL": bucket.queue_url,
        "DATABASE_SECRET_ARN": secret["ARN"],
        "LOOKBACK_HOURS": "2",
        "GRACE_MINUTES": "0",
        "RESEND_HOURS": "6",
        "RETENTION_DAYS": "30",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(handlers.metrics.provider, "service", "iot-telemetry-sweeper")
    handlers._client.cache_clear()
    yield bucket
    handlers._database.discard()


def emf(output: str) -> dict[str, Any]:
    [found] = [json.loads(line) for line in output.splitlines() if '"_aws"' in line]
    return dict(found)


def test_the_handler_looks_at_the_last_hours_or_at_everything_and_emits_what_it_found(
    deployed: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    hour = time.strftime("year=%Y/month=%m/day=%d/hour=%H/", time.gmtime())
    deployed.put(hour + "recent.gz")
    deployed.put("year=2025/month=01/day=01/hour=00/late.gz")
    time.sleep(0.05)
    assert handlers.handler({}, Context())["recent"]["never_loaded"] == 1
    metrics = emf(capsys.readouterr().out)
    assert metrics["ObjectsNeverLoaded"] == [1.0]
    assert 0 < metrics["OldestNeverLoadedSeconds"][0] < 300
    assert metrics["service"] == "iot-telemetry-sweeper"
    [declared] = metrics["_aws"]["CloudWatchMetrics"]
    assert (declared["Namespace"], declared["Dimensions"]) == ("Fleetledger", [["service"]])
    answer = handlers.handler({"whole": True}, Context())["whole"]
    assert (answer["never_loaded"], answer["announced"]) == (2, 1)
    assert emf(capsys.readouterr().out)["ObjectsNeverLoaded"] == [2.0]
    assert len(deployed.received()) == 2


def test_nothing_found_is_emitted_as_zero(deployed: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    handlers.handler({"id": "from EventBridge", "whole": False}, Context())
    metrics = emf(capsys.readouterr().out)
    assert (metrics["ObjectsNeverLoaded"], metrics["OldestNeverLoadedSeconds"]) == ([0.0], [0.0])


@pytest.fixture
def in_small_pages(deployed: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Five objects of which none is loaded, in S3 that lists two at a time."""
    for n in range(5):
        deployed.put(f"year=2026/{n}.gz")
    time.sleep(0.05)
    clients = {"s3": SmallPages(deployed.s3), "sqs": deployed.sqs}
    monkeypatch.setattr(handlers, "_client", clients.__getitem__)
    return deployed


LITTLE_MILLISECONDS = 30_000
"""Enough to work in, and less than a whole sweep keeps back: it stops after each page."""


def test_a_whole_sweep_that_runs_out_of_time_goes_on_in_the_next_run_and_emits_the_sum(
    in_small_pages: Bucket, connection: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    first = handlers.handler({"whole": True}, Context(LITTLE_MILLISECONDS))["whole"]
    assert (first["listed"], first["after"]["key"]) == (2, "year=2026/1.gz")
    assert '"_aws"' not in capsys.readouterr().out, "what is found by then is not all"
    handlers._database.discard()  # a run in another environment
    second = handlers.handler({"whole": False}, Context(LITTLE_MILLISECONDS))
    assert (second["recent"]["listed"], second["whole"]["listed"]) == (0, 4)
    assert emf(capsys.readouterr().out)["ObjectsNeverLoaded"] == [0.0], "of the last hours"
    third = handlers.handler({"whole": True}, Context(LITTLE_MILLISECONDS))["whole"]
    assert (third["listed"], third["never_loaded"], third["announced"], third["after"]) == (5, 5, 5, None)
    metrics = emf(capsys.readouterr().out)
    assert metrics["ObjectsNeverLoaded"] == [5.0]
    assert 0 < metrics["OldestNeverLoadedSeconds"][0] < 300
    assert len(in_small_pages.received()) == 5
    assert connection.execute("SELECT count(*) FROM ingest.whole_sweep").fetchone() == (0,)
    assert "whole" not in handlers.handler({}, Context()), "none is under way any more"


def test_while_a_run_is_at_the_whole_sweep_no_other_touches_it(
    in_small_pages: Bucket, database_dsn: str, connection: psycopg.Connection
) -> None:
    handlers.handler({"whole": True}, Context(LITTLE_MILLISECONDS))
    before = connection.execute("SELECT * FROM ingest.whole_sweep").fetchall()
    with psycopg.connect(database_dsn, autocommit=True) as another:
        with progress.only_one(another) as ours:
            assert ours
            assert handlers.handler({"whole": True}, Context()) == {}
            assert set(handlers.handler({}, Context())) == {"recent"}
            assert connection.execute("SELECT * FROM ingest.whole_sweep").fetchall() == before
        assert handlers.handler({}, Context())["whole"]["listed"] == 5


def test_a_run_that_dies_leaves_the_whole_sweep_to_the_next(
    in_small_pages: Bucket, database_dsn: str, connection: psycopg.Connection
) -> None:
    handlers.handler({"whole": True}, Context(LITTLE_MILLISECONDS))
    with psycopg.connect(database_dsn, autocommit=True) as another, progress.only_one(another) as ours:
        assert ours
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (another.info.backend_pid,))
        assert handlers.handler({}, Context())["whole"]["listed"] == 5
        another.close()


def test_sweeps_at_once_announce_each_object_once_and_end_with_one_sum(
    in_small_pages: Bucket, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread is an environment of Lambda's, with a connection of its own."""

    ended_once = threading.Event()

    def run(_: int) -> list[dict[str, Any]]:
        """Again and again until the sweep has ended: a run that finds another at it adds nothing."""
        answers, deadline = [], time.monotonic() + 60
        while not ended_once.is_set() and time.monotonic() < deadline:
            answer = handlers.handler({"whole": True}, Context(LITTLE_MILLISECONDS))
            answers.append(answer)
            if "whole" in answer and answer["whole"]["after"] is None:
                ended_once.set()
        return answers

    class PerThread:
        """A KeptConnection for each thread."""

        def __init__(self) -> None:
            self._kept = threading.local()

        def within(self, seconds: float) -> Any:
            if not hasattr(self._kept, "database"):
                self._kept.database = KeptConnection(application_name="sweeper", statement_timeout_seconds=60)
                opened.append(self._kept.database)
            return self._kept.database.within(seconds)

    opened: list[KeptConnection] = []
    original = handlers._database
    monkeypatch.setattr(handlers, "_database", PerThread())
    try:
        with ThreadPoolExecutor(3) as pool:
            answers = [answer for part in pool.map(run, range(3)) for answer in part]
    finally:
        monkeypatch.setattr(handlers, "_database", original)
        for database in opened:
            database.discard()
    assert len(in_small_pages.received()) == 5
    ended = [answer["whole"] for answer in answers if "whole" in answer and answer["whole"]["after"] is None]
    assert ended, answers
    assert ended[0]["listed"] == 5
    # What follows is another sweep, of which all parts again list five.
    left = connection.execute("SELECT listed FROM ingest.whole_sweep").fetchall()
    assert all(sweep["listed"] == 5 for sweep in ended)
    assert left in ([], [(2,)], [(4,)])


def test_a_listing_without_versions_has_the_ledgers_empty_version(emulator: Emulator) -> None:
    s3 = emulator_session(emulator.port).client("s3")
    s3.create_bucket(Bucket="never-versioned")
    s3.put_object(Bucket="never-versioned", Key="year=2026/a", Body=b"x")
    [([listed], marker)] = pages(s3, "never-versioned", EVERYTHING)
    assert marker is None
    assert isinstance(listed, Listed)
    assert (listed.version_id, listed.latest, listed.archived) == ("", True, False)
