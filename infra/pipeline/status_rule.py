"""The IoT rule that hands a device's last will to its shadow."""

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot

from infra.nag import OWN_POLICY, acknowledge, over
from infra.names import Names
from infra.pipeline.devices import iot_arn
from infra.pipeline.rule import rule_role
from infra.pipeline.rule_file import status_rule_payload


def status_rule(scope: Stack, names: Names) -> None:
    """The rule and its role.

    It has no error action: what comes here is no telemetry and must not end in quarantine, and a device says anew that it
    is connected whenever it connects. A shadow that is not updated shows in the rule's metric `Failure`.
    """
    role = rule_role(
        scope,
        "RuleToShadow",
        rule=names.status_rule,
        description=f"What rule {names.status_rule} may do with a last will",
    )
    shadows = iot_arn(scope, "topic", "$aws/things/*/shadow/update")
    role.add_to_policy(iam.PolicyStatement(actions=["iot:Publish"], resources=[shadows]))
    payload = status_rule_payload("device_status_to_shadow.json", topic=names.status_topic, role_arn=role.role_arn)
    republish = payload["actions"][0]["republish"]
    rule = iot.CfnTopicRule(
        scope,
        "StatusRule",
        rule_name=names.status_rule,
        topic_rule_payload=iot.CfnTopicRule.TopicRulePayloadProperty(
            sql=payload["sql"],
            aws_iot_sql_version=payload["awsIotSqlVersion"],
            description=payload["description"],
            rule_disabled=payload["ruleDisabled"],
            actions=[
                iot.CfnTopicRule.ActionProperty(
                    republish=iot.CfnTopicRule.RepublishActionProperty(
                        topic=republish["topic"], qos=republish["qos"], role_arn=republish["roleArn"]
                    )
                )
            ],
        ),
    )
    acknowledge(role, OWN_POLICY)
    acknowledge(role, {over(role, shadows): "Any device's shadow: the rule names the one whose topic a will came on."})
    rule.node.add_dependency(role)
