"""Reads the rule payloads under `iot_rules/` and gives them the ARNs of one environment."""

import json
from dataclasses import dataclass
from typing import Any

from ops.errors import UserError
from ops.paths import ROOT

_FOLDER = ROOT / "iot_rules"
_TOPIC = "iot/telemetry"
_STAMP = "'STAMP'"


@dataclass(frozen=True)
class RuleTargets:
    """Where a rule's actions go in one environment, and the roles with which it reaches them."""

    topic: str
    stamp: str
    """What `STAMP` in the sql becomes: a reference that CloudFormation resolves, never the stamp itself."""
    stream_name: str
    stream_role_arn: str
    error_queue_url: str
    error_role_arn: str


def rule_payload(file_name: str, targets: RuleTargets) -> dict[str, Any]:
    """The payload of a rule, in the shape CloudFormation's `AWS::IoT::TopicRule` takes.

    The file is in the shape that `aws iot replace-topic-rule --topic-rule-payload file://` takes, with the names of
    prod and `STAMP` for the stamp; actions other than Firehose (and SQS for errors) are refused, because nothing would
    grant them a role.
    Raises UserError when the file is not such a payload.
    """
    path = _FOLDER / file_name
    try:
        payload: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        (action,) = payload["actions"]
        firehose, sqs, sql = action["firehose"], payload["errorAction"]["sqs"], payload["sql"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"iot_rules/{file_name}: not a rule with one firehose action and an sqs errorAction ({error})"
        ) from None
    if f"'{_TOPIC}/+'" not in sql:
        raise UserError(f"iot_rules/{file_name}: the sql must read FROM '{_TOPIC}/+', where topic(3) is the thing name")
    if f"{_STAMP} AS stamp" not in sql:
        raise UserError(f"iot_rules/{file_name}: the sql must select {_STAMP} AS stamp, which the loader asks for")
    payload["sql"] = sql.replace(f"'{_TOPIC}/+'", f"'{targets.topic}/+'").replace(_STAMP, f"'{targets.stamp}'")
    firehose |= {"deliveryStreamName": targets.stream_name, "roleArn": targets.stream_role_arn}
    sqs |= {"queueUrl": targets.error_queue_url, "roleArn": targets.error_role_arn}
    return payload
