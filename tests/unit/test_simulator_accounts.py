"""The small parts of the accounts: ranges of sequence numbers, latencies, the pace of connects."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.accounts.latency import LatencyHistogram
from simulator.devices.seq_ranges import SeqRanges
from simulator.run.pacing import TokenBucket


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20))))
def test_ranges_hold_what_a_set_would_in_the_fewest_pairs(added: list[tuple[int, int]]) -> None:
    ranges = SeqRanges()
    expected: set[int] = set()
    for first, length in added:
        ranges.add(first, first + length)
        expected.update(range(first, first + length + 1))
    assert list(ranges) == sorted(expected)
    pairs = ranges.as_tuple()
    assert all(before[1] + 1 < after[0] for before, after in pairwise(pairs))


def test_a_million_readings_in_order_are_one_range() -> None:
    ranges = SeqRanges()
    for first in range(0, 1_000_000, 25):
        ranges.add(first, first + 24)
    assert ranges.as_tuple() == ((0, 999_999),)


@given(st.lists(st.floats(0, 3000), min_size=1, max_size=200), st.sampled_from([50.0, 95.0, 99.0, 100.0]))
def test_percentiles_are_right_to_one_bucket(seconds: list[float], percent: float) -> None:
    histogram = LatencyHistogram()
    for value in seconds:
        histogram.add(value)
    rank = -(-len(seconds) * percent // 100)
    exact = sorted(seconds)[int(rank) - 1]
    found = histogram.percentile_ms(percent)
    assert found is not None
    if exact < 1200:
        assert min(exact, histogram.max_seconds) - 1e-9 <= found / 1000 <= max(exact * 1.08, 1e-4) + 1e-9
    assert histogram.max_seconds == max(seconds)


def test_there_is_no_percentile_of_nothing() -> None:
    assert LatencyHistogram().percentile_ms(95) is None


def test_a_token_bucket_lets_a_burst_through_and_then_keeps_the_pace() -> None:
    bucket = TokenBucket(rate_per_second=100, burst=10, now=0)
    assert sum(bucket.take(0) for _ in range(50)) == 10
    assert sum(bucket.take(tick / 1000) for tick in range(1, 1001)) == pytest.approx(100, abs=1)
    assert sum(bucket.take(60) for _ in range(50)) == 10
