"""Redrives messages that never reached S3: into Firehose, so that S3 stays the source of truth."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import psycopg

from lambdas.rule_errors.handler import quarantined
from lambdas.shared import quarantine
from ops.quarantine.dead_letters import DeadLetter
from ops.quarantine.outcome import Outcome, Tally
from ops.quarantine.pipeline import Pipeline
from ops.quarantine.refusals import Kept
from ops.quarantine.stamp import stamped

AT_ONCE = 20
"""PutRecordBatch takes 4 MiB; a message has at most 128 KiB, and base64 adds a third."""
_UNREADABLE = "rule_error_unreadable"


class _Message(NamedTuple):
    quarantine_id: int
    reason: str
    device_id: str | None
    received_at: datetime
    kept: Kept


def redrive_messages(pipeline: Pipeline, numbers: Sequence[int], *, dry_run: bool = False) -> Tally:
    """Puts up to AT_ONCE messages into Firehose, then marks them, in one transaction that holds their rows.

    Two operators at once: one waits, then finds them marked. If the commit fails after Firehose took them, they are put
    again by the next attempt, and their readings are counted duplicates. Raises psycopg.Error and botocore's errors.
    """
    tally = Tally()
    with pipeline.database.transaction(force_rollback=dry_run), pipeline.database.cursor() as cursor:
        messages = _waiting(cursor, numbers)
        records: list[tuple[_Message, bytes]] = []
        for message in messages:
            line, stays = _line(message, pipeline.rules.stamps.current)
            if line is None:
                tally[Outcome("message", message.reason, "stays", stays)] += 1
            else:
                records.append((message, line + b"\n"))
        refused = {} if dry_run or not records else _put(pipeline, [line for _, line in records])
        done = []
        for position, (message, _) in enumerate(records):
            if position in refused:
                tally[Outcome("message", message.reason, "failed", refused[position])] += 1
            else:
                tally[Outcome("message", message.reason, "in Firehose")] += 1
                done.append(message.quarantine_id)
        cursor.execute(
            "UPDATE ingest.quarantine SET resolution = 'redriven', resolved_at = clock_timestamp(), resolved_by = %s, "
            "note = NULL WHERE quarantine_id = ANY(%s)",
            [pipeline.operator, done],
        )
    if already := len(numbers) - len(messages):
        tally[Outcome("message", "", "resolved already")] += already
    return tally


def keep(pipeline: Pipeline, letter: DeadLetter) -> int:
    """Puts a rule error into quarantine, as the Lambda could not, and returns its id there; repeating changes nothing."""
    message_id = letter.item.id.key
    with pipeline.database.transaction(), pipeline.database.cursor() as cursor:
        refused = quarantined(letter.body)
        quarantine.insert(cursor, [refused], message_id=message_id, received_at=letter.item.at)
        cursor.execute("SELECT quarantine_id FROM ingest.quarantine WHERE message_id = %s", [message_id])
        row = cursor.fetchone()
    if row is None:
        raise RuntimeError("a row that was just inserted is not there")
    return int(row[0])


def _waiting(cursor: psycopg.Cursor, numbers: Sequence[int]) -> list[_Message]:
    cursor.execute(
        "SELECT quarantine_id, reason, device_id, coalesce(received_at, quarantined_at), raw, raw_bytes, payload "
        "FROM ingest.quarantine WHERE quarantine_id = ANY(%s) AND message_id IS NOT NULL "
        "AND resolution IS DISTINCT FROM 'redriven' ORDER BY quarantine_id FOR UPDATE",
        [list(numbers)],
    )
    return [
        _Message(number, reason, device_id, at, Kept(*kept))
        for number, reason, device_id, at, *kept in cursor.fetchall()
    ]


def _line(message: _Message, stamp: str) -> tuple[bytes | None, str]:
    """The line for Firehose, or None and why there is none."""
    payload, device_id = message.kept.whole, message.device_id
    if payload is None:
        return None, "text_was_cut"
    if message.reason == _UNREADABLE:
        again = quarantined(payload.decode("utf-8", "replace"))
        if again.reason == _UNREADABLE:
            return None, _UNREADABLE
        payload, device_id = again.raw, again.device_id
    return stamped(payload, device_id, message.received_at, stamp), ""


def _put(pipeline: Pipeline, lines: Sequence[bytes]) -> dict[int, str]:
    """Puts the lines, one record each; returns the positions of those that Firehose did not take, and why.

    https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html
    """
    answer = pipeline.firehose.put_record_batch(
        DeliveryStreamName=pipeline.stream, Records=[{"Data": line} for line in lines]
    )
    return {
        position: response["ErrorCode"]
        for position, response in enumerate(answer["RequestResponses"])
        if response.get("ErrorCode")
    }
