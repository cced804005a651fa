"""An encrypted, TLS-only queue with its dead-letter queue."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sqs as sqs
from constructs import Construct

_DATA_KEY_REUSE = Duration.hours(1)
"""How long SQS uses a data key before it asks KMS again; every request is paid for."""


def queue_with_dead_letters(
    scope: Construct,
    construct_id: str,
    *,
    name: str,
    dead_letters_name: str,
    visibility_timeout: Duration,
    max_receives: int,
    removal_policy: RemovalPolicy,
    key: kms.IKey,
) -> tuple[sqs.Queue, sqs.Queue]:
    """The queue and where a message goes after `max_receives` failed deliveries; both keep messages for 14 days.

    14 days is SQS's longest: a message that waits for an operator must not expire over a holiday.
    """
    dead_letters = sqs.Queue(
        scope,
        f"{construct_id}DeadLetters",
        queue_name=dead_letters_name,
        encryption=sqs.QueueEncryption.KMS,
        encryption_master_key=key,
        data_key_reuse=_DATA_KEY_REUSE,
        enforce_ssl=True,
        retention_period=Duration.days(14),
        removal_policy=removal_policy,
    )
    queue = sqs.Queue(
        scope,
        f"{construct_id}Queue",
        queue_name=name,
        encryption=sqs.QueueEncryption.KMS,
        encryption_master_key=key,
        data_key_reuse=_DATA_KEY_REUSE,
        enforce_ssl=True,
        retention_period=Duration.days(14),
        visibility_timeout=visibility_timeout,
        dead_letter_queue=sqs.DeadLetterQueue(queue=dead_letters, max_receive_count=max_receives),
        removal_policy=removal_policy,
    )
    return queue, dead_letters
