"""From ids or a filter to the things meant, in the database and in the dead-letter queues."""

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ops.errors import UserError
from ops.quarantine import refusals
from ops.quarantine.dead_letters import DeadLetter, DeadLetters, read_event, read_rule_error
from ops.quarantine.items import KINDS_IN_DATABASE, Filter, ItemId
from ops.quarantine.pipeline import Pipeline
from ops.quarantine.work import Queues, Selection, state_of


@contextmanager
def open_queues(pipeline: Pipeline, *, hold_seconds: int) -> Iterator[Queues]:
    """Both dead-letter queues; what is received from them is hidden from others until the context ends."""
    read = partial(read_event, state_of=partial(state_of, pipeline.database))
    with (
        DeadLetters(pipeline.sqs, pipeline.object_dead_letters, read, hold_seconds=hold_seconds) as events,
        DeadLetters(
            pipeline.sqs, pipeline.rule_error_dead_letters, read_rule_error, hold_seconds=hold_seconds
        ) as rule_errors,
    ):
        yield Queues(events, rule_errors)


def by_ids(pipeline: Pipeline, queues: Queues, ids: Sequence[ItemId]) -> Selection:
    """The things with these ids, whatever was done with them. Raises UserError when one is not there."""
    wanted = set(ids)
    selection = Selection()
    for item in refusals.with_ids(pipeline.database, {one for one in wanted if one.kind in KINDS_IN_DATABASE}):
        selection.stored.add(item.id.kind, item.id.number, item.object_id)
        wanted.discard(item.id)
    selection.events = _with_ids(queues.events, {one for one in wanted if one.kind == "event"})
    selection.rule_errors = _with_ids(queues.rule_errors, {one for one in wanted if one.kind == "rule-error"})
    wanted -= {letter.item.id for letter in selection.events + selection.rule_errors}
    if wanted:
        first, others = min(wanted), len(wanted) - 1
        raise UserError(
            f"there is no {first}{f' (nor {others} others)' if others else ''}: see fleet quarantine list; "
            "a dead letter is gone once it is redriven, and hidden while somebody else works on it"
        )
    return selection


def _with_ids(letters: DeadLetters, wanted: Collection[ItemId]) -> list[DeadLetter]:
    missing = set(wanted)
    found: list[DeadLetter] = []
    if missing:
        for letter in letters:
            if letter.item.id in missing:
                missing.discard(letter.item.id)
                found.append(letter)
                if not missing:
                    break
    return found


def by_filter(pipeline: Pipeline, queues: Queues, chosen: Filter, limit: int | None) -> Selection:
    """Whatever the filter matches, at most `limit` things."""
    selection = Selection()
    if chosen.kinds & KINDS_IN_DATABASE:
        selection.stored = refusals.choose(pipeline.database, chosen, limit)
    if "rule-error" in chosen.kinds:
        selection.rule_errors = matching(queues.rule_errors, chosen, limit, len(selection))
    if "event" in chosen.kinds:
        selection.events = matching(queues.events, chosen, limit, len(selection))
    return selection


def matching(letters: DeadLetters, chosen: Filter, limit: int | None, already: int = 0) -> list[DeadLetter]:
    """The dead letters that the filter matches, until there are `limit` things with those there are already."""
    room = (sys.maxsize if limit is None else limit) - already
    found: list[DeadLetter] = []
    if room > 0:
        for letter in letters:
            if chosen.matches(letter.item):
                found.append(letter)
                if len(found) >= room:
                    break
    return found
