"""What a refused line is by today's rules. Pure."""

from typing import NamedTuple

import msgspec

from lambdas.processor.limits import Limits
from lambdas.processor.parse import Row, parse_line
from lambdas.processor.raw_object import LongLine
from lambdas.shared.quarantine import Quarantined
from lambdas.shared.stamp import STAMP
from ops.quarantine.stamp import joined

NOT_JUDGED = frozenset({"object_does_not_exist", "object_archived", "line_not_found", "element_not_found"})
"""Reasons to stay that say nothing about the line: they do not replace its own."""


class Refused(NamedTuple):
    """A quarantined line, or one element of its envelope."""

    quarantine_id: int
    line: int
    element: int | None
    device_id: str | None
    reason: str
    raw: str
    raw_bytes: int


class Verdict(NamedTuple):
    """`stays` is today's reason. Else its readings: rows, and (of a line that was refused whole) elements refused."""

    refused: Refused
    stays: str | None
    rows: list[Row]
    elements: list[Quarantined]


def readings(number: int, line: bytes | LongLine, limits: Limits) -> list[Row | Quarantined]:
    """What a line holds by today's rules."""
    return list(parse_line(number, line, limits))


def judge(refused: Refused, items: list[Row | Quarantined]) -> Verdict:
    """What a refused line, or element of one, is, given what its line holds today."""
    if refused.element is not None and not _is_refused_whole(items):
        if refused.element >= len(items):
            return Verdict(refused, "element_not_found", [], [])
        items = [items[refused.element]]
    rows = [item for item in items if isinstance(item, Row)]
    elements = [item for item in items if isinstance(item, Quarantined)]
    if len(items) == 1 and elements and (refused.element is not None or _is_refused_whole(items)):
        return Verdict(refused, elements[0].reason, [], [])
    return Verdict(refused, None, rows, elements)


def _is_refused_whole(items: list[Row | Quarantined]) -> bool:
    return len(items) == 1 and isinstance(items[0], Quarantined) and items[0].element is None


def judge_kept(refused: Refused, whole: bytes, limits: Limits) -> Verdict:
    """The same when only the text kept in quarantine is left.

    Of an element that is its own JSON: received_at and what its envelope said for all of its readings are lost. The stamp
    is not kept, but that there was one is: else no device would be named.
    """
    stamp = limits.stamps.current
    if refused.element is None:
        line = joined(whole, msgspec.json.encode({STAMP: stamp})) if refused.device_id is not None else whole
        return judge(refused, readings(refused.line, line, limits))
    line = msgspec.json.encode({"readings": [msgspec.Raw(whole)], "device_id": refused.device_id, STAMP: stamp})
    return judge(refused._replace(element=0), readings(refused.line, line, limits))._replace(refused=refused)
