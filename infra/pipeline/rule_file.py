"""Reads the rule payloads under `iot_rules/` and gives them the ARNs of one environment."""

import json
from dataclasses import dataclass
from typing import Any

from ops.errors import UserError
from ops.paths import ROOT

_FOLDER = ROOT / "iot_rules"
_TOPIC = "iot/telemetry"
_STATUS_TOPIC = "iot/status"
_STAMP = "'STAMP'"
SHADOW_OF_SENDER = "$$aws/things/${topic(3)}/shadow/update"
"""`$$` stands for the `$` of a reserved topic: https://docs.aws.amazon.com/iot/latest/developerguide/republish-rule-action.html"""


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
    try:
        payload = _read(file_name)
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


def status_rule_payload(file_name: str, *, topic: str, role_arn: str) -> dict[str, Any]:
    """The payload of the rule that republishes last wills from below `topic`, with this role; as `rule_payload` otherwise.

    It may republish to the shadow of the thing whose topic a message came on, and nowhere else.
    Raises UserError when the file is not such a payload.
    """
    try:
        payload = _read(file_name)
        (action,) = payload["actions"]
        republish, sql, error_action = action["republish"], payload["sql"], payload.get("errorAction")
        target = republish["topic"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"iot_rules/{file_name}: not a rule with one republish action ({error})") from None
    if f"'{_STATUS_TOPIC}/+'" not in sql:
        raise UserError(
            f"iot_rules/{file_name}: the sql must read FROM '{_STATUS_TOPIC}/+', where topic(3) is the thing"
        )
    if target != SHADOW_OF_SENDER:
        raise UserError(f"iot_rules/{file_name}: it must republish to {SHADOW_OF_SENDER}, not to {target}")
    if error_action is not None:
        raise UserError(f"iot_rules/{file_name}: an errorAction has no role here: leave it out")
    payload["sql"] = sql.replace(f"'{_STATUS_TOPIC}/+'", f"'{topic}/+'")
    republish["roleArn"] = role_arn
    return payload


def _read(file_name: str) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads((_FOLDER / file_name).read_text(encoding="utf-8"))
    return payload
