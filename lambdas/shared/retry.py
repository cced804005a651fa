"""When a message that failed is delivered again: soon at first, so that a hiccup costs seconds, then ever later."""

import random
from functools import cache
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

logger = Logger(child=True)
_FIRST_SECONDS = 4
_LONGEST_SECONDS = 900


@cache
def _sqs() -> Any:
    # Called when little of the function's time is left.
    config = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "max_attempts": 1})
    return boto3.client("sqs", config=config)


def delay_seconds(deliveries: int) -> int:
    """The wait after the given number of deliveries: doubled each time up to a quarter of an hour, and spread.

    Spread by up to a quarter, so that all that failed together when the database went does not come back together.
    """
    wait: int = min(_LONGEST_SECONDS, _FIRST_SECONDS << min(deliveries - 1, 10))
    return round(wait * random.uniform(0.75, 1.0))  # noqa: S311 - no secret depends on it


def retry_later(message: dict[str, Any], queue_url: str) -> None:
    """Sets when SQS delivers the message again; else it would wait out the queue's visibility timeout.

    That timeout must be six times the function's own, which is minutes. When SQS cannot be told, it applies.
    """
    deliveries = int(message.get("attributes", {}).get("ApproximateReceiveCount", "1"))
    try:
        _sqs().change_message_visibility(
            QueueUrl=queue_url,
            ReceiptHandle=message["receiptHandle"],
            VisibilityTimeout=delay_seconds(deliveries),
        )
    except (ClientError, BotoCoreError) as error:
        logger.warning("the visibility timeout stays as it was", extra={"fault": type(error).__name__})
