"""The loader's metrics, as CloudWatch would read them from its log."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lambdas.processor import metrics
from lambdas.processor.load import Outcome

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def written(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The metric values of the one line that a flush writes, after checking that it declares them."""
    metrics.flush()
    [line] = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    [directive] = document["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Fleetledger"
    assert directive["Dimensions"] == [["service"]]
    return {metric["Name"]: document[metric["Name"]] for metric in directive["Metrics"]}


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics._metrics, "service", "iot-telemetry-processor")


def test_what_became_of_objects_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = Outcome("loaded", 1, None, 10, 7, 2, 1, 40, NOW - timedelta(seconds=3), NOW - timedelta(seconds=1))
    loaded.out_of_range = 4
    loaded.checked, loaded.detection_faults = 8, 1
    metrics.count(loaded, NOW)
    metrics.count(Outcome("rejected", 2, "gzip_corrupt", milliseconds=5), NOW)
    metrics.count(Outcome("already_loaded"), NOW)
    metrics.count_batch(failed=2, unreachable=1)
    assert written(capsys) == {
        "ObjectsLoaded": [1, 0],
        "ObjectsRejected": [0, 1],
        "ObjectsAlreadyLoaded": [1],
        "MessagesFailed": [2],
        "DatabaseUnreachable": [1],
        "Rows": [7, 0],
        "Duplicates": [2, 0],
        "Quarantined": [1, 0],
        "ReadingsChecked": [8, 0],
        "DetectionFaults": [1, 0],
        "ReadingsOutOfRange": [4, 0],
        "LoadMilliseconds": [40, 5],
        "EndToEndSeconds": [3.0],
    }


def test_a_batch_says_that_the_database_was_there_even_if_nothing_was_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics.count_batch(failed=0, unreachable=0)
    assert written(capsys) == {"DatabaseUnreachable": [0]}


def test_nothing_counted_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    metrics.flush()
    assert capsys.readouterr().out == ""
