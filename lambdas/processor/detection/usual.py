"""What is usual for a device, learnt from its readings as they come, and what is not: pure, no clock, no I/O.

Of each metric it keeps a level (where the next value is expected), the mean distance from it above and below, and the
greatest distance above and below that was seen, which fades. A value is out of the ordinary beyond EDGE mean distances
and beyond 1.2 times the fading record, whichever is further: a device that often sends bursts is not reported for one more.
What is that far off teaches only a little, so that a spike moves neither level nor distances much.

Values may come one by one or many at once; many that are all ordinary cost as much as one.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

EDGE = 5.0
"""Score (distance in scales) from which a value is out of the ordinary."""
CRITICAL = 15.0
"""Score from which that is critical."""
WARM_UP_READINGS = 200
"""Values that are learnt before any is judged."""
JUMP_READINGS, JUMP_MILLISECONDS = 12, 15_000
"""How many values in a row, and for how long, must be beyond the same edge until that is the new level."""
QUIET_READINGS = 10
"""A value beyond an edge belongs to the spike before it when that one began no more readings ago."""

_LEVEL_SHARE = 0.5
"""Of the level that a value leaves as it was."""
_SCALE_SHARE = 0.005
_UNCLIPPED_READINGS = 20
"""Of the warm-up: until then nobody knows what is far."""
_TRIM = 8
"""Of so many values at once one on either side says nothing of the mean distance: it may be a spike of the warm-up."""
_CLIP = 4.0
"""Scales beyond which a value teaches no more than one there."""
_RECORD = 1.2 / EDGE
_WIDEST = 100.0 / EDGE
"""Floors beyond which no record puts the edge: what is so far off is reported as often as it comes."""
_RECORD_READINGS, _RECORD_MILLISECONDS = 1400, 2 * 86_400_000
"""A record has faded to half after so many readings, or after so long, whichever is later."""
_GROWTH = 4.0
"""How many times as far as the edge a record can be that one spike sets."""
_LEAST = 1e-4
"""Least scale, of the level's amount: below that are rounding errors."""
_GAP_MILLISECONDS, _GAP_TIMES = 3_600_000, 20
"""After such a silence, and as many times the usual one, the level is taken anew and nothing is judged by the old."""
_GREATEST_SCORE = 1e6
_GREATEST = (2 - 2**-23) * 2.0**127


class Run(msgspec.Struct, array_like=True, gc=False):
    """Values beyond one edge, in a row."""

    above: bool
    since: int
    readings: int = 0
    total: float = 0.0
    furthest: float = 0.0
    """Greatest distance from the level."""


class Usual(msgspec.Struct, array_like=True, gc=False):
    """What is usual for one metric."""

    readings: int = 0
    anew: bool = True
    """The level is that of the next values, whatever they are."""
    level: float = 0.0
    above: float = 0.0
    """Mean distance of the values above the level."""
    below: float = 0.0
    record_above: float = 0.0
    record_below: float = 0.0
    low: float = -math.inf
    """The edges: from `low` to `high` a value is ordinary."""
    high: float = math.inf
    quiet_until: int = 0
    """What is beyond an edge before that many readings belongs to the spike that was found last."""
    run: Run | None = None


class Device(msgspec.Struct, array_like=True, gc=False):
    """What is usual for one device: of each metric, and how often it is heard. Times in epoch milliseconds."""

    metrics: list[Usual]
    seen: int = 0
    """Time of the newest reading that was learnt."""
    gap: float = 0.0
    """Usual time from one observation to the next."""


class Found(NamedTuple):
    """A value out of the ordinary."""

    metric: int
    """Position in Device.metrics."""
    kind: Literal["spike", "jump"]
    at: int
    started: int
    readings: int
    value: float
    expected: float
    score: float
    fresh: bool
    """False when it belongs to a spike that was found before."""


def observe(
    device: Device, times: Sequence[int], columns: Sequence[Sequence[float | None]], floors: Sequence[float]
) -> Sequence[Found]:
    """Judges readings by what is usual, and learns from them; `columns` are the values of each metric, None where missing.

    `floors` is the least scale of each metric. Readings that are not newer than the newest one learnt are left out: they
    are late, and say nothing of now. No input raises, but columns of other lengths.
    """
    first, last, seen = min(times), max(times), device.seen
    if first <= seen:
        if last <= seen:
            return ()
        kept = [row for row, at in enumerate(times) if at > seen]
        times = [times[row] for row in kept]
        columns = [[column[row] for row in kept] for column in columns]
        first = min(times)
    count = len(times)
    decay = 1.0
    if seen:
        gap = first - seen
        if gap > _GAP_MILLISECONDS and gap > _GAP_TIMES * device.gap:
            _forget_levels(device)
        device.gap += (gap - device.gap) * 0.1 if device.gap else gap
        decay = 0.5 ** min(count / _RECORD_READINGS, (last - seen) / _RECORD_MILLISECONDS)
    device.seen = last
    found: list[Found] = []
    for metric, (usual, column, floor) in enumerate(zip(device.metrics, columns, floors, strict=True)):
        try:
            # Least, middle and greatest in one go: faster than min() and max(), and the median is hard to mislead.
            ordered: list[float] = sorted(column)  # type: ignore[arg-type]
            low, high = ordered[0], ordered[-1]
            ordinary = usual.low <= low <= high <= usual.high and usual.run is None
            # Beyond single precision, or no number at all, is nothing that the table has.
            if ordinary and low >= -_GREATEST and high <= _GREATEST:
                _learn(usual, ordered, count, decay, floor)
                continue
        except TypeError:  # a value is missing
            pass
        known = [(at, v) for at, v in zip(times, column, strict=True) if v is not None and abs(v) <= _GREATEST]
        found += _each(usual, metric, sorted(known), decay, floor)
    return found


def _forget_levels(device: Device) -> None:
    """Takes the levels anew; scales and records stay."""
    for usual in device.metrics:
        usual.low, usual.high, usual.run, usual.anew = -math.inf, math.inf, None, True


def _learn(usual: Usual, ordered: Sequence[float], count: int, decay: float, floor: float) -> None:
    """Learns `count` ordinary values, in the order of their size, from few of them."""
    middle, cut = ordered[(count - 1) // 2], count // _TRIM
    readings = usual.readings = usual.readings + count
    level = usual.level
    if usual.anew:
        level, usual.anew = middle, False
    least = _LEAST * abs(level)
    least = floor if floor > least else least  # faster than max(), on the loader's hottest path
    above, below = ordered[-1] - level, level - ordered[0]
    record_above, record_below = usual.record_above * decay, usual.record_below * decay
    usual.record_above = record_above = above if above > record_above else record_above
    usual.record_below = record_below = below if below > record_below else record_below
    # Of many values a great distance is known, and from it, as if they were normal, the mean one.
    if cut:
        above, below = ordered[-1 - cut] - level, level - ordered[cut]
    typical, level_share = _SHARES[count] if count < len(_SHARES) else _shares(count)
    if readings <= WARM_UP_READINGS:
        share = count / readings
        clip = math.inf
        if readings - count >= _UNCLIPPED_READINGS:
            clip = _CLIP * max(usual.above, usual.below, least)
        if above > 0.0:
            usual.above += share * (min(above * typical, clip) - usual.above)
        if below > 0.0:
            usual.below += share * (min(below * typical, clip) - usual.below)
        usual.level = level + max(-clip, min((middle - level) * max(level_share, share), clip))
        if readings + count > WARM_UP_READINGS:
            _set_edges(usual, least, floor)
        return
    share = min(_SCALE_SHARE * count, 1.0)
    if above > 0.0:
        scale, distance = usual.above, above * typical
        clip = _CLIP * (scale if scale > least else least)
        usual.above = scale + share * ((clip if distance > clip > 0.0 else distance) - scale)
    if below > 0.0:
        scale, distance = usual.below, below * typical
        clip = _CLIP * (scale if scale > least else least)
        usual.below = scale + share * ((clip if distance > clip > 0.0 else distance) - scale)
    scale_above, scale_below = usual.above, usual.below
    scale = scale_above if scale_above > scale_below else scale_below
    clip = _CLIP * (scale if scale > least else least)
    step = (middle - level) * level_share
    usual.level = level = level + (step if -clip <= step <= clip or not clip else math.copysign(clip, step))
    # As _set_edges does.
    widest = floor * _WIDEST or math.inf
    record_above = record_above * _RECORD if record_above * _RECORD < widest else widest
    record_below = record_below * _RECORD if record_below * _RECORD < widest else widest
    scale_above = record_above if record_above > scale_above else scale_above
    scale_below = record_below if record_below > scale_below else scale_below
    usual.high = level + EDGE * (scale_above if scale_above > least else least)
    usual.low = level - EDGE * (scale_below if scale_below > least else least)


def _shares(count: int) -> tuple[float, float]:
    """What `count` values say of the mean distance when the greatest but `_TRIM`'s is known, and how far they take the level.

    The first as if they were normal: the expected order statistic by Blom's formula, with Tukey's lambda for the quantile,
    in mean distances (0.798 standard deviations).
    """
    quantile = (count - count // _TRIM - 0.375) / (count + 0.25)
    deviations = 4.91 * (quantile**0.14 - (1.0 - quantile) ** 0.14)
    return 1.0 / max(1.0, deviations / 0.798), 1.0 - _LEVEL_SHARE**count


_SHARES = [(1.0, 0.0), *map(_shares, range(1, 101))]


def _set_edges(usual: Usual, least: float, floor: float) -> None:
    level, widest = usual.level, floor * _WIDEST or math.inf
    usual.high = level + EDGE * max(usual.above, min(usual.record_above * _RECORD, widest), least)
    usual.low = level - EDGE * max(usual.below, min(usual.record_below * _RECORD, widest), least)


def _each(
    usual: Usual, metric: int, values: Sequence[tuple[int, float]], decay: float, floor: float
) -> Sequence[Found]:
    """Judges values one by one, in the order of their times."""
    found: list[Found] = []
    for at, value in values:
        if usual.low <= value <= usual.high:
            if usual.run is not None:
                _end_run(usual)
            _learn(usual, (value,), 1, decay, floor)
        else:
            new = _beyond(usual, metric, at, value, floor)
            if new.kind == "jump":  # what led to it in these same values was no spike
                found = [each for each in found if each.at < new.started]
            found.append(new)
        decay = 1.0
    return found


def _beyond(usual: Usual, metric: int, at: int, value: float, floor: float) -> Found:
    """Takes note of a value beyond an edge."""
    above = value > usual.high
    level, scale = usual.level, usual.above if above else usual.below
    least = max(floor, _LEAST * abs(level))
    edge, distance = (usual.high - level, value - level) if above else (level - usual.low, level - value)
    run = usual.run
    if run is not None and run.above is not above:
        _end_run(usual)
        run = None
    fresh = run is None and usual.readings >= usual.quiet_until
    if run is None:
        run = usual.run = Run(above, at)
    if fresh:
        usual.quiet_until = usual.readings + QUIET_READINGS
    run.readings += 1
    run.total += value
    run.furthest = max(run.furthest, distance)
    usual.readings += 1
    clip = _CLIP * max(scale, least) or distance
    learnt = scale + _SCALE_SHARE * (min(distance, clip) - scale)
    if above:
        usual.above = learnt
    else:
        usual.below = learnt
    # What never varied has edges as near as rounding: any change is as far off as can be.
    score = min(EDGE * distance / edge, _GREATEST_SCORE) if edge else _GREATEST_SCORE
    if run.readings < JUMP_READINGS or at - run.since < JUMP_MILLISECONDS:
        return Found(metric, "spike", at, at, 1, value, level, score, fresh)
    _end_run(usual)
    usual.level = run.total / run.readings
    _set_edges(usual, least, floor)
    return Found(metric, "jump", at, run.since, run.readings, value, level, score, fresh=True)


def _end_run(usual: Usual) -> None:
    """What went beyond an edge was as far as it gets for now: that counts as seen, within bounds."""
    run = usual.run
    assert run is not None  # noqa: S101 - for the type checker: whoever calls has looked
    edge = usual.high - usual.level if run.above else usual.level - usual.low
    furthest = min(run.furthest, _GROWTH * edge) if edge else run.furthest
    if run.above:
        usual.record_above = max(usual.record_above, furthest)
    else:
        usual.record_below = max(usual.record_below, furthest)
    usual.run = None
