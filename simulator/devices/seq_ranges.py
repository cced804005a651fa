"""Sequence numbers of one device, kept as ranges: a run of a million readings without a gap is one pair."""

from bisect import bisect_left
from collections.abc import Iterator

SeqRange = tuple[int, int]
"""First and last sequence number, both included."""


class SeqRanges:
    """A set of sequence numbers that grows mostly at its end."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add `first` to `last`, both included. What is already there may be added again."""
        firsts, lasts = self._firsts, self._lasts
        if lasts and lasts[-1] + 1 == first:
            lasts[-1] = last
            return
        begin = bisect_left(lasts, first - 1)
        end = begin
        while end < len(firsts) and firsts[end] <= last + 1:
            first, last = min(first, firsts[end]), max(last, lasts[end])
            end += 1
        firsts[begin:end] = [first]
        lasts[begin:end] = [last]

    def as_tuple(self) -> tuple[SeqRange, ...]:
        """The ranges in rising order, none touching the next."""
        return tuple(zip(self._firsts, self._lasts, strict=True))

    def __iter__(self) -> Iterator[int]:
        for first, last in zip(self._firsts, self._lasts, strict=True):
            yield from range(first, last + 1)
