"""The handler of iot-telemetry-rule-errors: error documents of the IoT rule in, quarantined rows out.

https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html
"""

import base64
import binascii
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from aws_lambda_powertools import Logger

from lambdas.shared import quarantine
from lambdas.shared.connection import KeptConnection
from lambdas.shared.messages import Batch, Context, Message
from lambdas.shared.quarantine import Quarantined

logger = Logger()
_database = KeptConnection(application_name="iot-telemetry-rule-errors", statement_timeout_seconds=20)


class Failure(msgspec.Struct, frozen=True):
    """Which action of the rule failed, and why."""

    failedAction: str = "unknown"  # noqa: N815 - AWS's spelling
    errorMessage: str = ""  # noqa: N815


class RuleError(msgspec.Struct, frozen=True):
    """The error document that an IoT rule hands to its error action."""

    topic: str
    base64OriginalPayload: str  # noqa: N815
    failures: list[Failure] = []


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Quarantines each message, under the id that SQS gave it; what failed is reported for redelivery."""
    batch = Batch(event, context, _database, os.environ["RULE_ERROR_QUEUE_URL"])
    return batch.each(partial(_store, batch), fault="rule error not stored; it will be delivered again")


def _store(batch: Batch, message: Message) -> None:
    with batch.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        quarantine.insert(
            cursor,
            [quarantined(message["body"])],
            message_id=message["messageId"],
            received_at=sent_at(message.get("attributes", {})),
        )
    logger.info("rule error quarantined", message_id=message["messageId"])


def sent_at(attributes: Mapping[str, str]) -> datetime | None:
    """When the rule sent a message, from its SQS attributes: as near as can be known to when AWS IoT received it."""
    milliseconds = attributes.get("SentTimestamp", "")
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds.isdecimal() else None


def quarantined(body: str) -> Quarantined:
    """The quarantined row of one error document; one that is not readable is itself quarantined whole."""
    try:
        document = msgspec.json.decode(body, type=RuleError)
        payload = base64.b64decode(document.base64OriginalPayload, validate=True)
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        raw = body.encode("utf-8", "replace")
        return Quarantined(None, None, None, "rule_error_unreadable", raw, len(raw))
    action = document.failures[0].failedAction if document.failures else "unknown"
    return Quarantined(
        None, None, document.topic.rpartition("/")[2] or None, f"rule_action_failed: {action}", payload, len(payload)
    )
