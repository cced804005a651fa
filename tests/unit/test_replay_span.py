"""Spans of time: as an operator writes them, and as prefixes of keys."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.names import RAW_PREFIX
from lambdas.shared.listing import EVERYTHING, hour_prefixes
from ops.errors import UserError
from ops.replay.span import parse_span

NOW = datetime(2026, 11, 21, 12, 34, 56, tzinfo=UTC)


def test_a_span_is_widened_to_whole_hours() -> None:
    span = parse_span("-2h", "now", NOW)
    assert (span.start.hour, span.end.hour) == (10, 13)
    assert [prefix[-3:-1] for prefix in span.prefixes] == ["10", "11", "12"]
    exact = parse_span("2026-11-21T10:00", "2026-11-21T11:00", NOW)
    assert exact.prefixes == ["year=2026/month=11/day=21/hour=10/"]


@pytest.mark.parametrize(("start", "end"), [("now", "now"), ("-1h", "-2h")])
def test_a_span_the_wrong_way_round_is_refused(start: str, end: str) -> None:
    with pytest.raises(UserError, match="is not before --to"):
        parse_span(start, end, NOW)


def test_whole_days_months_and_years_are_one_prefix() -> None:
    prefixes = hour_prefixes(datetime(2024, 12, 30, 23, tzinfo=UTC), datetime(2026, 3, 2, 1, tzinfo=UTC))
    assert prefixes == [
        "year=2024/month=12/day=30/hour=23/",
        "year=2024/month=12/day=31/",
        "year=2025/",
        "year=2026/month=01/",
        "year=2026/month=02/",
        "year=2026/month=03/day=01/",
        "year=2026/month=03/day=02/hour=00/",
    ]


moments = st.datetimes(datetime(2023, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))


@given(moments, st.integers(0, 24 * 500), moments)
def test_an_hour_has_one_of_the_prefixes_exactly_when_the_span_touches_it(
    start: datetime, hours: int, moment: datetime
) -> None:
    end = start + timedelta(hours=hours, minutes=1)
    key = f"year={moment:%Y}/month={moment:%m}/day={moment:%d}/hour={moment:%H}/x.gz"
    hour = moment.replace(minute=0, second=0, microsecond=0)
    touched = hour + timedelta(hours=1) > start and hour < end
    assert sum(key.startswith(prefix) for prefix in hour_prefixes(start, end)) == touched


def test_the_lambdas_and_the_stacks_mean_the_same_objects() -> None:
    assert EVERYTHING == RAW_PREFIX
