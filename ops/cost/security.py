"""KMS keys and Secrets Manager secrets: what they cost to have, and what it costs to use them."""

from collections.abc import Iterator
from typing import Any

from ops.cost.assumptions import DAYS_PER_MONTH, SECONDS_PER_MONTH, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed
from ops.cost.pipeline import Load, object_queues, raw_bucket


def kms_items(deployed: Deployed, load: Load, assumptions: Assumptions) -> Iterator[Item]:
    """Keys of ours, their rotations, and the calls of the raw bucket and of encrypted queues.

    The first two rotations of a key cost as much as the key; later ones nothing: https://aws.amazon.com/kms/pricing/.
    """
    versions = sum(3 if key.at("EnableKeyRotation") else 1 for key in deployed.of_type("AWS::KMS::Key"))
    yield Item("KMS", "keys, after two rotations", versions, "kms.usd_per_key_version_month")
    calls = _bucket_calls(deployed, load, assumptions) + _queue_calls(deployed, assumptions)
    yield Item("KMS", "calls", calls / 1e6, "kms.usd_per_million_requests")


def secret_items(deployed: Deployed, assumptions: Assumptions) -> Iterator[Item]:
    """Secrets, and the reads of the functions that connect with one."""
    secrets = deployed.of_type("AWS::SecretsManager::Secret")
    yield Item("Secrets Manager", "secrets", len(secrets), "secretsmanager.usd_per_secret_month")
    readers = sum(
        any("SECRET" in name for name in function.at("Environment", "Variables") or {})
        for function in deployed.of_type("AWS::Lambda::Function")
    )
    reads = readers * assumptions.secret_reads_per_function_per_day * DAYS_PER_MONTH
    yield Item("Secrets Manager", "reads", reads / 1e6, "secretsmanager.usd_per_million_calls")


def _bucket_calls(deployed: Deployed, load: Load, assumptions: Assumptions) -> float:
    """One for each put and get, or a few where a bucket key stands in."""
    rules: list[dict[str, Any]]
    rules = raw_bucket(deployed).at("BucketEncryption", "ServerSideEncryptionConfiguration") or []
    for rule in rules:
        if rule.get("ServerSideEncryptionByDefault", {}).get("SSEAlgorithm", "").startswith("aws:kms"):
            left = assumptions.kms_calls_left_by_bucket_key if rule.get("BucketKeyEnabled") else 1.0
            return 2 * load.objects * left
    return 0.0


def _queue_calls(deployed: Deployed, assumptions: Assumptions) -> float:
    """A data key for each producer and consumer of a busy queue, reused for its period.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
    """
    periods = [
        queue.at("KmsDataKeyReusePeriodSeconds") or 300
        for queue in object_queues(deployed)
        if queue.at("KmsMasterKeyId")
    ]
    return sum(SECONDS_PER_MONTH / period * (1 + assumptions.pollers_per_queue) for period in periods)
