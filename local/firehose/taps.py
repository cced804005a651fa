"""Taps: each deployed rule with a firehose action also republishes its result to a topic that this process reads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_firehose.client import FirehoseClient
    from mypy_boto3_iot.client import IoTClient

TOPIC = "local/firehose"


@dataclass(frozen=True)
class Stream:
    """What a deployed stream does with its records."""

    name: str
    bucket: str
    prefix: str
    interval_seconds: int
    size_bytes: int
    gzip: bool


def deployed_rules(iot: "IoTClient") -> list[dict[str, Any]]:
    """Every rule that there is, whole."""
    names = [rule["ruleName"] for rule in iot.list_topic_rules().get("rules", [])]
    found = []
    for name in names:
        try:
            found.append(dict(iot.get_topic_rule(ruleName=name)["rule"]))
        except iot.exceptions.UnauthorizedException:
            continue  # what AWS says of a rule that is gone: a deployment replaces it
    return found


def open_taps(iot: "IoTClient", rules: Iterable[dict[str, Any]]) -> dict[str, tuple[str, bytes]]:
    """Makes every rule with a firehose action republish; returns topic -> (stream, separator).

    An action of the same rule rather than a rule of our own: Basic Ingest reaches only the rule that it names.
    """
    taps: dict[str, tuple[str, bytes]] = {}
    for rule in rules:
        republished = {action["republish"]["topic"] for action in rule["actions"] if "republish" in action}
        missing = []
        for action in rule["actions"]:
            if "firehose" not in action:
                continue
            firehose = action["firehose"]
            topic = f"{TOPIC}/{firehose['deliveryStreamName']}/{rule['ruleName']}"
            taps[topic] = (firehose["deliveryStreamName"], firehose.get("separator", "").encode())
            if topic not in republished:
                missing.append({"republish": {"topic": topic, "qos": 1, "roleArn": firehose["roleArn"]}})
        if missing:
            kept = ("sql", "description", "ruleDisabled", "awsIotSqlVersion", "errorAction")
            payload: Any = {name: rule[name] for name in kept if rule.get(name) is not None}
            payload["actions"] = rule["actions"] + missing
            iot.replace_topic_rule(ruleName=rule["ruleName"], topicRulePayload=payload)
    return taps


def describe_stream(firehose: "FirehoseClient", name: str) -> Stream:
    """The deployed stream's buffering hints, prefix, compression and bucket."""
    description = firehose.describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
    destination = description["Destinations"][0]["ExtendedS3DestinationDescription"]
    hints = destination["BufferingHints"]
    return Stream(
        name=name,
        bucket=destination["BucketARN"].rpartition(":")[2],
        prefix=destination.get("Prefix", ""),
        interval_seconds=hints.get("IntervalInSeconds", 300),
        size_bytes=hints.get("SizeInMBs", 5) * 1024 * 1024,
        gzip=destination.get("CompressionFormat") == "GZIP",
    )
