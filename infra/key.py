"""The Key stack: the one key under which an environment's data rests. It outlives everything that it encrypts."""

from typing import Any

from aws_cdk import ArnFormat, Aws, Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.settings import Settings


class KeyStack(Stack):
    """A customer managed KMS key, rotated every year, that other services of this account may use for their part."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self.key = kms.Key(
            self,
            "Data",
            alias=f"iot-data{settings.names.suffix}",
            description=f"Telemetry, backups, queues and logs at rest ({settings.environment})",
            enable_key_rotation=True,
            pending_window=Duration.days(30 if settings.retain_data else 7),
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
        logs = self.format_arn(service="logs", resource="*", arn_format=ArnFormat.COLON_RESOURCE_NAME)
        self._let(
            "logs",
            f"logs.{Aws.REGION}.amazonaws.com",
            ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"],
            {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": logs}},
        )
        # S3 announces objects to an encrypted queue; CloudWatch, EventBridge and Budgets raise alarms on encrypted topics.
        for sid, service in {
            "objects": "s3",
            "alarms": "cloudwatch",
            "schedules": "events",
            "budgets": "budgets",
        }.items():
            self._let(
                sid,
                f"{service}.amazonaws.com",
                ["kms:GenerateDataKey*", "kms:Decrypt"],
                {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )

    def _let(self, sid: str, service: str, actions: list[str], conditions: dict[str, Any]) -> None:
        self.key.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                principals=[iam.ServicePrincipal(service)],
                actions=actions,
                resources=["*"],
                conditions=conditions,
            )
        )
