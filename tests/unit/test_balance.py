"""Counting readings in raw objects, independently of the loader."""

import pytest

from ops.audit.lines import count_readings
from ops.balance import Balance


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


def balance(**figures: int) -> Balance:
    zeros = dict.fromkeys(Balance.__dataclass_fields__, 0)
    return Balance(**{**zeros, **figures})


def test_what_is_accounted_for() -> None:
    assert balance(acknowledged=5, in_s3=6, rows=4, duplicates=1, quarantined=1).accounted_for
    assert not balance(acknowledged=5, in_s3=5, rows=4, missing=1).accounted_for
    assert not balance(acknowledged=5, in_s3=6, rows=5).accounted_for, "one in S3 that nothing became of"
    assert not balance(acknowledged=5, in_s3=5, rows=5, rejected_objects=1).accounted_for
