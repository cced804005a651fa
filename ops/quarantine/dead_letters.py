"""The two dead-letter queues: looked through without consuming, and each message sent on, kept or given up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from lambdas.processor.raw_object import ObjectVersion, objects_of
from lambdas.rule_errors.handler import quarantined, sent_at
from ops.quarantine.items import Item, ItemId

LOOKING_SECONDS = 30
"""How long a message is hidden from others by a look that was killed; one that ends gives it back at once."""
WORKING_SECONDS = 900

_AT_ONCE = 10  # SQS's own limit
_POLL_SECONDS = 1  # a long poll asks every server of SQS; a short one may miss messages
_NOT_AN_EVENT = "not_an_s3_event"

StateOf = Callable[[ObjectVersion], str | None]
"""What the ledger says of an object: its status, or None."""


@dataclass(frozen=True)
class DeadLetter:
    """One message of a dead-letter queue, held by us until its visibility timeout ends."""

    item: Item
    body: str
    receipt: str
    receives: int
    """How often it was received: by the function that failed on it, and by looks such as ours."""


class DeadLetters:
    """What a dead-letter queue holds. On leaving the context, whatever was not deleted is visible to others again."""

    def __init__(self, sqs: Any, url: str, read: Callable[[dict[str, Any]], Item], *, hold_seconds: int) -> None:
        self._sqs = sqs
        self._url = url
        self._read = read
        self._hold_seconds = hold_seconds
        self._held: dict[str, str] = {}

    def __enter__(self) -> "DeadLetters":
        return self

    def __exit__(self, *_: object) -> None:
        receipts = list(self._held.values())
        for start in range(0, len(receipts), _AT_ONCE):
            self._sqs.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0}
                    for number, receipt in enumerate(receipts[start : start + _AT_ONCE])
                ],
            )

    def __iter__(self) -> Iterator[DeadLetter]:
        """Each message once, until an answer is empty or brings only what was seen."""
        while True:
            answer = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=_AT_ONCE,
                VisibilityTimeout=self._hold_seconds,
                WaitTimeSeconds=_POLL_SECONDS,
                AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            )
            messages = answer.get("Messages", [])
            unseen = [message for message in messages if message["MessageId"] not in self._held]
            self._held.update({message["MessageId"]: message["ReceiptHandle"] for message in messages})
            if not unseen:
                return
            for message in unseen:
                receives = int(message["Attributes"].get("ApproximateReceiveCount", "1"))
                yield DeadLetter(self._read(message), message["Body"], message["ReceiptHandle"], receives)

    def delete(self, letter: DeadLetter) -> None:
        """Takes a message out of the queue for good."""
        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=self._held[letter.item.id.key])
        del self._held[letter.item.id.key]


def read_event(message: dict[str, Any], state_of: StateOf) -> Item:
    """An event of S3 that the loader could not load; its reason is what the ledger says of the object."""
    try:
        versions = objects_of(message["Body"])
    except ValueError:
        return Item(ItemId("event", message["MessageId"]), _at(message), _NOT_AN_EVENT)
    states = [state_of(version) for version in versions]
    reason = "not_loaded" if None in states else next((state for state in states if state), _NOT_AN_EVENT)
    item = Item(ItemId("event", message["MessageId"]), _at(message), reason)
    if not versions:
        return item
    first = versions[0]  # S3 announces each in a message of its own
    return replace(
        item,
        bucket=first.bucket,
        key=first.key,
        version_id=first.version_id,
        size_bytes=first.size_bytes,
    )


def read_rule_error(message: dict[str, Any]) -> Item:
    """An error document of the IoT rule that could not be put into quarantine."""
    refused = quarantined(message["Body"])
    identifier = ItemId("rule-error", message["MessageId"])
    return Item(identifier, _at(message), refused.reason, device=refused.device_id, size_bytes=refused.raw_bytes)


def _at(message: dict[str, Any]) -> datetime:
    return sent_at(message["Attributes"]) or datetime.now(UTC)


def waiting_in(sqs: Any, url: str) -> int:
    """About how many messages a queue holds, those in work and those delayed included."""
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(attributes.get(name, 0)) for name in names)
