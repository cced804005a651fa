"""Redriving and discarding what was chosen, step by step: between two steps it can be stopped, and nothing is half done."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from threading import Event
from typing import NamedTuple

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.processor.raw_object import ObjectVersion, UnreadableObjectError
from ops.errors import UserError
from ops.quarantine import refusals
from ops.quarantine.dead_letters import DeadLetter, DeadLetters
from ops.quarantine.items import Kind
from ops.quarantine.lines import redrive_lines
from ops.quarantine.messages import AT_ONCE, keep, redrive_messages
from ops.quarantine.objects import redrive_object
from ops.quarantine.outcome import Outcome, Tally
from ops.quarantine.pipeline import Pipeline
from ops.quarantine.refusals import Chosen

_DISCARDED_AT_ONCE = 5_000
Advance = Callable[[int], None]


@dataclass
class Selection:
    """What was chosen: in the database by id, in the queues as held messages."""

    stored: Chosen = field(default_factory=Chosen)
    events: list[DeadLetter] = field(default_factory=list)
    rule_errors: list[DeadLetter] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.stored) + len(self.events) + len(self.rule_errors)


class Queues(NamedTuple):
    """The dead-letter queues, open."""

    events: DeadLetters
    rule_errors: DeadLetters


class Step(NamedTuple):
    """A piece of work that is done whole or not at all."""

    kind: Kind
    items: int
    run: Callable[[], Tally]


def redrive_steps(
    pipeline: Pipeline, queues: Queues, chosen: Selection, *, now: datetime, dry_run: bool
) -> Iterator[Step]:
    """Objects first: what becomes of them may make lines of others duplicates. Events last: the loader takes them."""

    for object_id in chosen.stored.objects:
        yield Step("object", 1, partial(redrive_object, pipeline, object_id, now=now, dry_run=dry_run))
    for object_id, numbers in chosen.stored.lines.items():
        run = partial(redrive_lines, pipeline, object_id, numbers, now=now, dry_run=dry_run)
        yield Step("line", len(numbers), run)
    for batch in _batches(chosen.stored.messages, AT_ONCE):
        yield Step("message", len(batch), partial(redrive_messages, pipeline, batch, dry_run=dry_run))
    for letter in chosen.rule_errors:
        yield Step("rule-error", 1, partial(_redrive_rule_error, pipeline, queues, letter, dry_run=dry_run))
    for letter in chosen.events:
        yield Step("event", 1, partial(_redrive_event, pipeline, queues, letter, dry_run=dry_run))


def _redrive_event(pipeline: Pipeline, queues: Queues, letter: DeadLetter, *, dry_run: bool) -> Tally:
    """Sent first, then deleted: interrupted in between, the ledger makes the second delivery do nothing."""
    if not dry_run:
        pipeline.sqs.send_message(QueueUrl=pipeline.object_queue, MessageBody=letter.body)
        queues.events.delete(letter)
    return Tally([Outcome("event", letter.item.reason, "in the object queue")])


def _redrive_rule_error(pipeline: Pipeline, queues: Queues, letter: DeadLetter, *, dry_run: bool) -> Tally:
    """Into quarantine under its own id, from there into Firehose, and only then out of the queue."""
    if dry_run:
        return Tally([Outcome("rule-error", letter.item.reason, "in Firehose")])
    tally = redrive_messages(pipeline, [keep(pipeline, letter)])
    queues.rule_errors.delete(letter)
    return tally


def discard_steps(
    pipeline: Pipeline, queues: Queues, chosen: Selection, *, note: str | None, dry_run: bool
) -> Iterator[Step]:
    """Marks what is in the database. An event is deleted; a rule error is kept in quarantine, marked."""

    def mark(kind: Kind, numbers: Sequence[int]) -> Tally:
        return refusals.discard(pipeline.database, kind, numbers, by=pipeline.operator, note=note, dry_run=dry_run)

    def delete_event(letter: DeadLetter) -> Tally:
        if not dry_run:
            queues.events.delete(letter)
        return Tally([Outcome("event", letter.item.reason, "deleted")])

    def keep_rule_error(letter: DeadLetter) -> Tally:
        if dry_run:
            return Tally([Outcome("rule-error", letter.item.reason, "discarded")])
        tally = mark("message", [keep(pipeline, letter)])
        queues.rule_errors.delete(letter)
        return tally

    stored: list[tuple[Kind, list[int]]] = [
        ("object", chosen.stored.objects),
        ("line", [number for numbers in chosen.stored.lines.values() for number in numbers]),
        ("message", chosen.stored.messages),
    ]
    for kind, all_numbers in stored:
        for batch in _batches(all_numbers, _DISCARDED_AT_ONCE):
            yield Step(kind, len(batch), partial(mark, kind, batch))
    for letter in chosen.rule_errors:
        yield Step("rule-error", 1, partial(keep_rule_error, letter))
    for letter in chosen.events:
        yield Step("event", 1, partial(delete_event, letter))


def carry_out(database: psycopg.Connection, steps: Iterable[Step], stop: Event, advance: Advance) -> Tally:
    """Takes each step in turn until `stop` is set; one that fails changes nothing and does not stop the others.

    Raises UserError when the connection to the database is lost, for then none would succeed.
    """
    tally = Tally()
    for step in steps:
        if stop.is_set():
            break
        try:
            tally.update(step.run())
        except (psycopg.Error, ClientError, BotoCoreError, UnreadableObjectError) as error:
            if database.closed:
                raise UserError(
                    f"the connection to the database was lost ({_line(error)}) when {tally.total()} were done: "
                    "repeat the command, which goes on where this one stopped"
                ) from None
            tally[Outcome(step.kind, "", "failed", _line(error))] += step.items
        advance(step.items)
    return tally


def state_of(database: psycopg.Connection, version: ObjectVersion) -> str | None:
    """What the ledger says of one version of an object."""
    row = database.execute(
        "SELECT status FROM ingest.objects WHERE bucket = %s AND key = %s AND version_id = %s",
        [version.bucket, version.key, version.version_id],
    ).fetchone()
    return row[0] if row else None


def _batches(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _line(error: Exception) -> str:
    """The fault in one line; of a database error only the primary message."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return " ".join(str(error).split()) or type(error).__name__
