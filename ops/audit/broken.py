"""Payloads that were broken on purpose: which of them is in quarantine, on its way, refused by the rule, or missing. Pure.

Of a payload that is no JSON object the rule passes on nothing, or only what it adds itself: the device and its own time
(https://docs.aws.amazon.com/iot/latest/developerguide/binary-payloads.html). So such a one cannot be known again by its
text, but by its device and the time at which it was sent: one to one, of each device as many as were sent.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from math import inf
from typing import Literal

from ops.audit.lines import Bare, is_object, prints

SLACK = timedelta(minutes=1)
"""By which the clock of whoever sent may differ from the rule's, and the rule may be late."""

Fate = Literal["quarantined", "in_flight", "refused_by_rule", "missing", "never"]


@dataclass(eq=False)
class Broken:
    """A payload that was broken on purpose: it must end in quarantine, once."""

    device_id: str
    sent_at: datetime
    acknowledged_at: datetime | None
    attempts: int
    payload: bytes
    counted: bool = True
    """Whether it is within what was asked for; the others are only matched, so that they are nobody's surprise."""
    quarantined: int = 0
    in_flight: bool = False

    @cached_property
    def opaque(self) -> bool:
        """Whether it is no JSON object, so that the rule cannot pass it on."""
        return not is_object(self.payload)

    @cached_property
    def lines(self) -> tuple[bytes, ...]:
        """What it becomes should the rule pass its bytes on as they are: a line feed in it ends a line."""
        return tuple(line for line in self.payload.split(b"\n") if line) if self.opaque else (self.payload,)

    @property
    def most(self) -> int:
        """How many items in quarantine it may be at most."""
        return max(1, self.attempts) * max(1, len(self.lines))

    def prints(self) -> frozenset[str]:
        """By which it is known again where its text arrives."""
        return prints(self.payload).union(*map(prints, self.lines))

    @property
    def received_ms(self) -> tuple[float, float]:
        """Within which the rule must have received it, epoch milliseconds."""
        since = (self.sent_at - SLACK).timestamp() * 1000
        until = inf if self.acknowledged_at is None else (self.acknowledged_at + SLACK).timestamp() * 1000
        return since, until

    def fate(self, young_since: datetime | None, *, rule_refuses: bool) -> Fate:
        """What became of it. `rule_refuses`: the rule may have counted it (ParseError) and let it go."""
        if self.quarantined:
            return "quarantined"
        if self.acknowledged_at is None:
            return "never"
        if self.in_flight or (young_since is not None and self.acknowledged_at > young_since):
            return "in_flight"
        return "refused_by_rule" if rule_refuses and self.opaque else "missing"


def match(broken: Iterable[Broken], bares: Sequence[Bare]) -> list[Broken | None]:
    """Which payload each of the items is, or None; never more of one than it was sent, and as many as possible.

    Acknowledged payloads come first, then those in doubt, then second sendings. What is chosen among equals follows from
    the order in time alone, so that two audits say the same.
    """
    found: list[Broken | None] = [None] * len(bares)
    opaque: defaultdict[str, list[Broken]] = defaultdict(list)
    for each in broken:
        if each.opaque:
            opaque[each.device_id].append(each)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place in sorted(range(len(bares)), key=lambda place: bares[place].received_at_ms):
        places[bares[place].device_id].append(place)
    for device_id, of_device in places.items():
        units = _units(opaque[device_id])
        for number, place in _paired(units, [bares[place].received_at_ms for place in of_device], of_device):
            found[place] = units[number]
    return found


def _units(broken: list[Broken]) -> list[Broken]:
    """Each as often as it may still be found, the most certain first. One whose text was found is not looked for."""
    left = sorted((each for each in broken if not each.quarantined and each.attempts), key=lambda each: each.sent_at)
    first = sorted(left, key=lambda each: each.acknowledged_at is None)
    return first + [each for each in left for _ in range(each.attempts - 1)]


def _paired(units: list[Broken], times: list[int], places: list[int]) -> list[tuple[int, int]]:
    """(unit, place): a greatest matching; a unit that was matched stays so while later ones find room (Kuhn).

    `times` rise; of a unit those within its span may be its own.
    """
    spans = [
        range(bisect_left(times, since), bisect_right(times, until))
        for since, until in (each.received_ms for each in units)
    ]
    holder: dict[int, int] = {}
    held: dict[int, int] = {}
    for start in range(len(units)):
        came_by: dict[int, int] = {}
        waiting = deque([start])
        free: int | None = None
        while waiting and free is None:
            unit = waiting.popleft()
            for item in spans[unit]:
                if item in came_by:
                    continue
                came_by[item] = unit
                if item not in holder:
                    free = item
                    break
                waiting.append(holder[item])
        while free is not None:
            unit = came_by[free]
            before = held.get(unit)
            holder[free], held[unit] = unit, free
            free = before
    return [(unit, places[item]) for item, unit in holder.items()]


def note_waiting(broken: Iterable[Broken], waiting: Iterable[Bare], quarantined: Iterable[Bare]) -> None:
    """Marks what is on its way; what was seen there and has come to quarantine meanwhile is on its way no more."""
    left = Counter(waiting) - Counter(quarantined)
    for each in match(broken, sorted(left.elements())):
        if each is not None:
            each.in_flight = True
