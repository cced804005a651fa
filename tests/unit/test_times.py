"""Times as an operator writes them."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.errors import UserError
from ops.times import parse_time

NOW = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("now", NOW),
        ("-2h", NOW - timedelta(hours=2)),
        ("6h", NOW - timedelta(hours=6)),
        ("-90m", NOW - timedelta(minutes=90)),
        ("-1.5d", NOW - timedelta(hours=36)),
        ("-1w", NOW - timedelta(days=7)),
        ("2026-11-21T10:00Z", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21T10:00:00+02:00", datetime(2026, 11, 21, 8, tzinfo=UTC)),
        ("2026-11-21T10:00", datetime(2026, 11, 21, 10, tzinfo=UTC)),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
    ],
)
def test_times_are_absolute_or_relative(written: str, meant: datetime) -> None:
    time = parse_time(written, "--from", NOW)
    assert time == meant
    assert time.utcoffset() == timedelta()


@pytest.mark.parametrize(
    "written",
    ["", "6 h", "--2h", "-2", "-2y", "yesterday", "2026-13-01", "999999d", "-99999999w", "0001-01-01T00:00+14:00"],
)
def test_what_is_no_time_is_one_line(written: str) -> None:
    with pytest.raises(UserError, match=r"^--from .*; use ISO 8601") as raised:
        parse_time(written, "--from", NOW)
    assert "\n" not in str(raised.value)
