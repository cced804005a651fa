"""Whom alarms tell: a topic per severity, with the pager behind P0 and P1, and e-mail and chat behind P2 and P3.

Where there is no pager, e-mail and chat are behind all four: the worst is not to be what nobody hears.
"""

from collections.abc import Mapping

from aws_cdk import Annotations, ArnFormat, Aws, SecretValue, Stack
from aws_cdk import aws_chatbot as chatbot
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from infra.alarms.model import SEVERITIES, SeverityName
from infra.nag import acknowledge
from infra.settings import Settings

_PAGED: tuple[SeverityName, ...] = ("P0", "P1")
_TOLD: tuple[SeverityName, ...] = ("P2", "P3")
NOBODY_IS_PAGED = "fleetledger:nobody-is-paged"
"""Id of the warning, for `Annotations.acknowledge_warning`."""
_CHARTS = [
    "cloudwatch:DescribeAlarmHistory",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:GetMetricData",
    "cloudwatch:GetMetricStatistics",
    "cloudwatch:GetMetricWidgetImage",
    "cloudwatch:ListMetrics",
]
"""What a message in chat needs to show an alarm's chart."""


class Notifications(Construct):
    """The topics P0 to P3 and what is subscribed to them."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, key: kms.IKey) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._key = settings, key
        self.topics: Mapping[SeverityName, sns.Topic] = {name: self._topic(name) for name in SEVERITIES}
        self._told: tuple[SeverityName, ...] = _TOLD if settings.pager_secret else (*_PAGED, *_TOLD)
        if settings.pager_secret:
            self._page(settings.pager_secret)
        elif settings.environment == "prod":
            Annotations.of(self).add_warning_v2(
                NOBODY_IS_PAGED,
                "nobody is paged: P0 and P1 alarms of prod reach no pager; set pager_secret (docs/runbook.md, Paging)",
            )
        if settings.alert_email:
            for name in self._told:
                self._subscribe(name, "Email", "email", settings.alert_email)
        if settings.slack_workspace_id and settings.slack_channel_id:
            self._chat(settings.slack_workspace_id, settings.slack_channel_id)

    def let_budgets_publish(self, topic: sns.Topic) -> None:
        """https://docs.aws.amazon.com/cost-management/latest/userguide/budgets-sns-policy.html"""
        budgets = Stack.of(self).format_arn(
            service="budgets", region="", resource="*", arn_format=ArnFormat.NO_RESOURCE_NAME
        )
        self._let_publish(topic, "Budgets", "budgets", budgets)

    def _topic(self, severity: SeverityName) -> sns.Topic:
        names = self._settings.names
        topic = sns.Topic(
            self,
            severity,
            topic_name=f"iot-alarms-{severity.lower()}{names.suffix}",
            display_name=f"{severity} {self._settings.environment}",
            master_key=self._key,
            # Denies whatever does not come over TLS. Subscriptions and the rest are the account's by its own policies.
            enforce_ssl=True,
        )
        alarms = Stack.of(self).format_arn(
            service="cloudwatch",
            resource="alarm",
            resource_name=f"iot-*{names.suffix}",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        self._let_publish(topic, "Alarms", "cloudwatch", alarms)
        return topic

    @staticmethod
    def _let_publish(topic: sns.Topic, sid: str, service: str, source_arn: str) -> None:
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                    "ArnLike": {"aws:SourceArn": source_arn},
                },
            )
        )

    def _page(self, secret: str) -> None:
        """Subscribes the pager by a dynamic reference, which CloudFormation resolves: its URL carries a key.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references-secretsmanager.html
        """
        url = SecretValue.secrets_manager(secret, json_field="url").unsafe_unwrap()
        for name in _PAGED:
            self._subscribe(name, "Pager", "https", url)

    def _subscribe(self, severity: SeverityName, construct_id: str, protocol: str, endpoint: str) -> None:
        sns.CfnSubscription(
            self.topics[severity],
            construct_id,
            topic_arn=self.topics[severity].topic_arn,
            protocol=protocol,
            endpoint=endpoint,
        )

    def _chat(self, workspace_id: str, channel_id: str) -> None:
        """Amazon Q Developer in chat applications, which authorises nobody in the channel to do more than look.

        The workspace is connected to the account once, by hand, in the console.
        """
        charts = iam.ManagedPolicy(
            self,
            "Charts",
            description="What a message in chat shows of an alarm",
            statements=[iam.PolicyStatement(actions=_CHARTS, resources=["*"])],
        )
        role = iam.Role(
            self,
            "ChatRole",
            assumed_by=iam.ServicePrincipal("chatbot.amazonaws.com"),
            description="What alarms in chat may show",
            managed_policies=[charts],
        )
        chatbot.CfnSlackChannelConfiguration(
            self,
            "Slack",
            configuration_name=f"iot-alarms{self._settings.names.suffix}",
            slack_workspace_id=workspace_id,
            slack_channel_id=channel_id,
            iam_role_arn=role.role_arn,
            # Nobody in the channel may ever do more, whatever role they bring.
            guardrail_policies=[charts.managed_policy_arn],
            sns_topic_arns=[self.topics[name].topic_arn for name in self._told],
            logging_level="ERROR",
        )
        acknowledge(
            charts,
            {"AwsSolutions-IAM5[Resource::*]": "Reading metrics knows no resources; nothing can be changed with it."},
        )
