"""How a replayed object is judged, and what the ledger is asked."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest

from lambdas.processor import handler
from lambdas.processor.kept_stamps import KeptStamps
from lambdas.processor.limits import Limits
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.database import DatabaseSecret
from lambdas.shared.listing import Listed
from ops.replay.console import bytes_text, duration_text
from ops.replay.plan import read_ledger
from ops.replay.source import Source
from ops.replay.worker import Job
from tests.stamping import STAMP, STAMPS

ARRIVED = datetime(2026, 3, 1, 12, 0, 0, 900_000, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def test_the_future_begins_at_the_arrival_and_the_retention_ends_now() -> None:
    listed = Listed("year=2026/a.gz", "v1", 1, ARRIVED, True, False)
    secret = DatabaseSecret(host="h", username="u", password="p")
    limits = Job(Source("bucket"), secret, NOW, retention_days=365, max_future_seconds=3600, stamps=STAMPS).limits(
        listed
    )
    assert limits.newest == datetime(2026, 3, 1, 13, 0, 0, tzinfo=UTC)  # LastModified has whole seconds
    assert limits.oldest == NOW - timedelta(days=365)


def test_a_first_load_and_one_months_later_judge_the_future_alike() -> None:
    rules: Any = {"retention_days": 365, "max_future_seconds": 3600, "stamps": STAMPS}
    first = Limits.for_arrival(ARRIVED, ARRIVED + timedelta(seconds=2), **rules)
    later = Limits.for_arrival(ARRIVED, NOW, **rules)
    assert first.newest == later.newest
    assert first.newest_milliseconds == later.newest_milliseconds


def test_the_loader_judges_by_the_arrival_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BUCKET_NAME": "b", "RETENTION_DAYS": "30", "MAX_FUTURE_SECONDS": "3600"}.items():
        monkeypatch.setenv(name, value)

    class S3:
        def get_object(self, **_: Any) -> dict[str, Any]:
            return {"Body": io.BytesIO(b""), "LastModified": ARRIVED}

    monkeypatch.setattr(handler, "_s3", S3)
    monkeypatch.setattr(handler, "_stamps", KeptStamps(lambda: STAMPS))
    arrival = handler._Arrival()
    assert arrival.limits().newest > ARRIVED + timedelta(days=1)
    with handler._open(ObjectVersion("b", "year=2026/a.gz", "", None), arrival):
        assert arrival.limits().newest == datetime(2026, 3, 1, 13, 0, 0, tzinfo=UTC)


class Counting:
    """A connection that knows no objects, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def execute(self, _: str, parameters: tuple[list[str], list[str], str]) -> list[Any]:
        self.asked.append(len(parameters[0]))
        return []


def test_the_ledger_is_asked_once_per_thousand_objects() -> None:
    connection = Counting()
    objects = [Listed(f"year=2026/{n}", "", 1, ARRIVED, True, False) for n in range(2500)]
    assert read_ledger(cast(psycopg.Connection, connection), "bucket", objects) == {}
    assert connection.asked == [1000, 1000, 500]


def test_a_secret_does_not_show_in_a_job() -> None:
    job = Job(Source("bucket"), DatabaseSecret(host="h", username="u", password="hidden"), NOW, 1, 1, STAMPS)
    assert "hidden" not in repr(job)
    assert STAMP not in repr(job)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (25e6, "25.0 MB"), (3e15, "3,000.0 TB")]
)
def test_sizes_for_people(size: float, text: str) -> None:
    assert bytes_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "under a minute"), (90, "about 2 minutes"), (20_000, "about 5.6 hours")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
