"""The timing wheel against a heap, which says what is due when without any ticks."""

from heapq import heappop, heappush
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from simulator.run.wheel import TICK_SECONDS, TimingWheel

_SLACK = 1e-9


@given(
    st.lists(st.floats(0.0001, 0.05), min_size=1, max_size=20),
    st.lists(st.sampled_from([0.0, 0.0007, 0.002, 0.02, 0.5]), min_size=1, max_size=60),
)
def test_items_fire_as_from_a_heap_at_most_a_tick_late_and_never_early(
    intervals: list[float], pauses: list[float]
) -> None:
    wheel, heap = TimingWheel(), list[tuple[float, int]]()
    due = dict.fromkeys(range(len(intervals)), 0.0)
    for item in due:
        due[item] = intervals[item] * 0.3
        wheel.add(due[item], item)
        heappush(heap, (due[item], item))
    fired: dict[int, int] = dict.fromkeys(due, 0)
    expected: dict[int, int] = dict.fromkeys(due, 0)
    now = 0.0
    for pause in pauses:
        now += pause
        while items := wheel.take(now):
            for item in items:
                assert due[item] <= now + _SLACK
                fired[item] += 1
                due[item] += intervals[item]
                wheel.add(due[item], item)
        while heap and heap[0][0] <= now - TICK_SECONDS - _SLACK:
            at, item = heappop(heap)
            expected[item] += 1
            heappush(heap, (at + intervals[item], item))
        assert all(fired[item] >= expected[item] for item in due), "later than a tick"
        assert wheel.count == len(intervals)


def test_what_is_never_due_never_fires_and_nothing_waits() -> None:
    wheel = TimingWheel()
    wheel.add(inf, 1)
    assert (wheel.count, list(wheel.take(1e6))) == (0, [])


def test_one_who_is_behind_catches_up_in_the_order_of_time() -> None:
    wheel = TimingWheel()
    wheel.add(0.001, 1)
    wheel.add(0.005, 2)
    order: list[int] = []
    due = {1: 0.001, 2: 0.005}
    while items := wheel.take(0.02):
        order += items
        for item in items:
            due[item] += 0.004
            if due[item] < 0.012:
                wheel.add(due[item], item)
    assert order == [1, 2, 1, 2, 1]


def test_it_knows_for_how_long_nothing_fires() -> None:
    wheel = TimingWheel()
    wheel.add(0.0095, 7)
    assert 0.0079 <= wheel.quiet_seconds(0.002, 0.02) <= 0.0081
    assert wheel.quiet_seconds(0.002, 0.005) == 0.005
