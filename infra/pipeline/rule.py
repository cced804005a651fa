"""The IoT rule that hands messages to Firehose, the stamp that it puts on them, and where those go that it cannot."""

import string

from aws_cdk import Aws, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs

from infra.constructs.queue import queue_with_dead_letters
from infra.constructs.retention import removal_policy
from infra.constructs.secret import KeyedSecret
from infra.nag import OWN_POLICY, acknowledge
from infra.pipeline.devices import iot_arn
from infra.pipeline.rule_file import RuleTargets, rule_payload
from infra.settings import Settings
from lambdas.shared.stamp import STAMP


def stamp_secret(scope: Stack, *, settings: Settings, key: kms.IKey) -> secretsmanager.Secret:
    """What the rule writes into every line that it makes, and the loader asks of every line that it takes.

    To a payload that is not JSON as a whole the rule adds nothing, so that one of its lines may claim any device_id.
    https://docs.aws.amazon.com/iot/latest/developerguide/binary-payloads.html
    """
    secret = KeyedSecret(
        scope,
        "Stamp",
        key=key,
        secret_name=settings.names.stamp_secret,
        description="What the IoT rule stamps lines with; `earlier` lists stamps of before (docs/security.md)",
        generate_secret_string=secretsmanager.SecretStringGenerator(
            secret_string_template='{"earlier": []}',  # noqa: S106 - what is secret is generated beside it
            generate_string_key=STAMP,
            password_length=32,
            exclude_punctuation=True,
            exclude_characters=string.punctuation,  # the same, to the emulator
        ),
        removal_policy=removal_policy(settings),
    )
    by_hand = "The rule carries it too, so it changes with a deployment: docs/security.md says how."
    acknowledge(secret, {"AwsSolutions-SMG4": by_hand, "NIST.800.53.R5-SecretsManagerRotationEnabled": by_hand})
    return secret


def telemetry_rule(
    scope: Stack,
    *,
    settings: Settings,
    key: kms.IKey,
    stream: firehose.DeliveryStream,
    stamp: secretsmanager.Secret,
) -> tuple[sqs.Queue, sqs.Queue]:
    """The rule, with one role per target; returns the queue of messages whose action failed, and its dead letters."""
    errors, dead_letters = queue_with_dead_letters(
        scope,
        "RuleErrors",
        name=settings.names.rule_error_queue,
        dead_letters_name=settings.names.rule_error_dead_letters,
        visibility_timeout=Duration.minutes(3),
        max_receives=settings.loader_max_receives,
        removal_policy=removal_policy(settings),
        key=key,
    )
    stream_role = rule_role(
        scope,
        "RuleToFirehose",
        rule=settings.names.rule,
        description=f"What rule {settings.names.rule} may do with a message",
    )
    stream.grant(stream_role, "firehose:PutRecord", "firehose:PutRecordBatch")
    error_role = rule_role(
        scope,
        "RuleToErrorQueue",
        rule=settings.names.rule,
        description=f"What rule {settings.names.rule} may do with a message that failed",
    )
    errors.grant(error_role, "sqs:SendMessage")
    key.grant(error_role, "kms:GenerateDataKey", "kms:Decrypt")
    payload = rule_payload(
        "telemetry_to_firehose.json",
        RuleTargets(
            topic=settings.names.topic,
            # Unsafe by name only: the template has a reference, which CloudFormation resolves for the rule alone.
            stamp=stamp.secret_value_from_json(STAMP).unsafe_unwrap(),
            stream_name=stream.delivery_stream_name,
            stream_role_arn=stream_role.role_arn,
            error_queue_url=errors.queue_url,
            error_role_arn=error_role.role_arn,
        ),
    )
    action = payload["actions"][0]["firehose"]
    error_action = payload["errorAction"]["sqs"]
    rule = iot.CfnTopicRule(
        scope,
        "Rule",
        rule_name=settings.names.rule,
        topic_rule_payload=iot.CfnTopicRule.TopicRulePayloadProperty(
            sql=payload["sql"],
            aws_iot_sql_version=payload["awsIotSqlVersion"],
            description=payload["description"],
            rule_disabled=payload["ruleDisabled"],
            actions=[
                iot.CfnTopicRule.ActionProperty(
                    firehose=iot.CfnTopicRule.FirehoseActionProperty(
                        delivery_stream_name=action["deliveryStreamName"],
                        role_arn=action["roleArn"],
                        separator=action["separator"],
                        batch_mode=action["batchMode"],
                    )
                )
            ],
            error_action=iot.CfnTopicRule.ActionProperty(
                sqs=iot.CfnTopicRule.SqsActionProperty(
                    queue_url=error_action["queueUrl"],
                    role_arn=error_action["roleArn"],
                    use_base64=error_action["useBase64"],
                )
            ),
        ),
    )
    acknowledge(stream_role, OWN_POLICY)
    acknowledge(error_role, OWN_POLICY)
    # A rule whose role cannot yet write loses its first messages to the error queue.
    rule.node.add_dependency(stream_role, error_role)
    return errors, dead_letters


def rule_role(scope: Stack, construct_id: str, *, rule: str, description: str) -> iam.Role:
    """A role that only rules of this account may take on (the confused deputy's remedy)."""
    return iam.Role(
        scope,
        construct_id,
        description=description,
        assumed_by=iam.ServicePrincipal(
            "iot.amazonaws.com",
            conditions={
                "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                "ArnEquals": {"aws:SourceArn": iot_arn(scope, "rule", rule)},
            },
        ),
    )
