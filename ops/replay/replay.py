"""`fleet replay`: from a span of time to loaded objects."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from lambdas.shared.listing import Listed
from ops.replay.devices import holding, known_to_hold
from ops.replay.plan import Ledger, Plan, list_objects, read_ledger
from ops.replay.source import Source
from ops.replay.span import Span


@dataclass(frozen=True)
class Order:
    """What the operator asked for."""

    span: Span
    device_id: str | None = None
    force: bool = False
    all_versions: bool = False


@dataclass(frozen=True)
class Chosen:
    """Which of the objects that may be loaded hold the device, and how that was found."""

    objects: Sequence[Listed]
    by_table: int
    looked_into: int


def plan_replay(
    connection: psycopg.Connection,
    s3: Any,
    source: Source,
    order: Order,
    stop: threading.Event,
    *,
    listing: Callable[[int], None] = lambda _: None,
    looking: Callable[[int], Callable[[], None]] = lambda _: lambda: None,
) -> tuple[Plan, Chosen | None]:
    """What a replay would load. Without `force` that is what the ledger lacks, with it everything.

    `listing` is told the number of objects listed so far; `looking` the number of objects that must be read to find the
    device, and what it returns is called after each.
    """
    objects = list_objects(s3, source.bucket, order.span.prefixes, all_versions=order.all_versions, progress=listing)
    ledger = read_ledger(connection, source.bucket, objects)
    candidates = objects if order.force else [o for o in objects if (o.key, o.version_id) not in ledger]
    if order.device_id is None:
        return Plan(objects, ledger, candidates), None
    chosen = _with_device(connection, s3, source, order.device_id, candidates, ledger, stop, looking)
    return Plan(objects, ledger, chosen.objects), chosen


def _with_device(
    connection: psycopg.Connection,
    s3: Any,
    source: Source,
    device_id: str,
    candidates: Sequence[Listed],
    ledger: Ledger,
    stop: threading.Event,
    looking: Callable[[int], Callable[[], None]],
) -> Chosen:
    """The candidates that hold the device.

    The table tells of which loaded objects it has rows. That it has none proves nothing: all of them may be duplicates of
    another object's, or may have been deleted, which is what a forced replay is there to mend. So the others are read.
    """
    known = known_to_hold(connection, device_id, ledger) if ledger else set()
    sure: list[Listed] = []
    unsure: list[Listed] = []
    for listed in candidates:
        entry = ledger.get((listed.key, listed.version_id))
        (sure if entry is not None and entry.object_id in known else unsure).append(listed)
    found = holding(s3, source, device_id, unsure, stop, looking(len(unsure)))
    objects = sorted([*sure, *found], key=lambda listed: (listed.arrived_at, listed.key))
    return Chosen(objects, len(sure), len(unsure))
