"""The Base stack: the key under which an environment's data rests, and the log of who reached for the buckets.

It outlives everything that rests on it.
"""

from typing import Any

from aws_cdk import ArnFormat, Aws, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.constructs.bucket import private_bucket
from infra.constructs.retention import removal_policy
from infra.nag import acknowledge
from infra.settings import Settings


class BaseStack(Stack):
    """A customer managed KMS key, rotated every year, and a bucket of S3 server access logs."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        # By its ARN: what other stacks grant goes into the policies of those who are granted it, and never into the
        # key's own, which would make this stack depend on all others.
        self.key = kms.Key.from_key_arn(self, "Key", self._data_key().key_arn)
        self.access_logs = self._access_log_bucket()

    def _data_key(self) -> kms.Key:
        """The key, which other services of this account may use for their part."""
        settings = self._settings
        key = kms.Key(
            self,
            "Data",
            alias=f"iot-data{settings.names.suffix}",
            description=f"Telemetry, backups, queues and logs at rest ({settings.environment})",
            enable_key_rotation=True,
            pending_window=Duration.days(30 if settings.retain_data else 7),
            removal_policy=removal_policy(settings),
        )
        # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
        logs = self.format_arn(service="logs", resource="*", arn_format=ArnFormat.COLON_RESOURCE_NAME)
        self._let(
            key,
            "logs",
            f"logs.{Aws.REGION}.amazonaws.com",
            ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"],
            {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": logs}},
        )
        # S3 announces objects to an encrypted queue; alarms and budgets speak on encrypted topics. AWS documents these
        # without conditions; the policies of queue and topics say who may send on whose behalf.
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/grant-destinations-permissions-to-s3.html
        for sid, service in {"objects": "s3", "alarms": "cloudwatch", "budgets": "budgets"}.items():
            self._let(key, sid, f"{service}.amazonaws.com", ["kms:GenerateDataKey*", "kms:Decrypt"])
        return key

    @staticmethod
    def _let(
        key: kms.Key, sid: str, service: str, actions: list[str], conditions: dict[str, Any] | None = None
    ) -> None:
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                principals=[iam.ServicePrincipal(service)],
                actions=actions,
                resources=["*"],
                conditions=conditions,
            )
        )

    def _access_log_bucket(self) -> s3.Bucket:
        """Where S3 writes who asked for what. It takes no customer managed key and does not log itself:

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/enable-server-access-logging.html
        """
        bucket = private_bucket(
            self,
            "AccessLogs",
            name=self._settings.names.access_log_bucket(Aws.ACCOUNT_ID, Aws.REGION),
            key=None,
            access_logs=None,
            removal_policy=removal_policy(self._settings),
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="ForgetAccesses",
                    expiration=Duration.days(self._settings.access_log_days),
                    noncurrent_version_expiration=Duration.days(1),
                )
            ],
        )
        acknowledge(
            bucket,
            {
                "AwsSolutions-S1": "It is where access logs go; a log of its own would log itself without end.",
                "NIST.800.53.R5-S3BucketLoggingEnabled": "It is where access logs go.",
                "NIST.800.53.R5-S3DefaultEncryptionKMS": "S3 delivers access logs only to buckets encrypted with SSE-S3.",
                "NIST.800.53.R5-S3BucketReplicationEnabled": "Access logs are evidence for some weeks, not data to recover.",
            },
        )
        return bucket
