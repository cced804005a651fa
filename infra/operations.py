"""The Operations stack: scheduled work on what the Ingest stack keeps."""

from typing import Any

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function
from infra.names import RAW_PREFIX
from infra.network import FunctionNetwork
from infra.settings import Settings


class OperationsStack(Stack):
    """The sweeper, every few minutes over the last hours and once a day over everything."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        bucket: s3.IBucket,
        object_queue: sqs.IQueue,
        loader_secret: secretsmanager.ISecret,
        network: FunctionNetwork | None,
        key: kms.IKey,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        self._network, self._key = network, key
        sweeper = self._sweeper(bucket, object_queue, loader_secret)
        self._schedule(
            "SweepRecent",
            sweeper,
            events.Schedule.rate(Duration.minutes(settings.sweep_interval_minutes)),
            f"the objects of the last {settings.sweep_lookback_hours} hours",
            whole=False,
        )
        # Not on the hour, when everybody's jobs run.
        self._schedule(
            "SweepWhole",
            sweeper,
            events.Schedule.cron(hour="3", minute="17"),
            "the objects of the retention",
            whole=True,
        )

    def _sweeper(
        self, bucket: s3.IBucket, object_queue: sqs.IQueue, secret: secretsmanager.ISecret
    ) -> lambda_.Function:
        name = self._settings.names.sweeper
        sweeper = Function(
            self,
            "Sweeper",
            settings=self._settings,
            invoked_by="schedule",
            network=self._network,
            key=self._key,
            name=name,
            folder="sweeper",
            description="Finds raw objects that were never loaded, and announces them to the loader again",
            # Lambda's longest: a whole sweep goes through a few thousand objects a second, and then goes on in another.
            timeout=Duration.minutes(15),
            memory_mib=256,
            environment={
                "BUCKET": bucket.bucket_name,
                "DATABASE_SECRET_ARN": secret.secret_arn,
                "OBJECT_QUEUE_URL": object_queue.queue_url,
                "LOOKBACK_HOURS": str(self._settings.sweep_lookback_hours),
                "GRACE_MINUTES": str(self._settings.sweep_grace_minutes),
                "RESEND_HOURS": str(self._settings.sweep_resend_hours),
                "RETENTION_DAYS": str(self._settings.retention_days),
            },
        ).function
        secret.grant_read(sweeper)
        for statement in (
            iam.PolicyStatement(
                actions=["s3:ListBucketVersions"],
                resources=[bucket.bucket_arn],
                conditions={"StringLike": {"s3:prefix": f"{RAW_PREFIX}*"}},
            ),
            iam.PolicyStatement(actions=["sqs:SendMessage"], resources=[object_queue.queue_arn]),
            # By name: a policy that refers to the function it is needed by would be a circle.
            iam.PolicyStatement(
                actions=["lambda:InvokeFunction"],
                resources=[
                    self.format_arn(
                        service="lambda",
                        resource="function",
                        resource_name=name,
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    )
                ],
            ),
        ):
            sweeper.add_to_role_policy(statement)
        return sweeper

    def _schedule(
        self, construct_id: str, function: lambda_.Function, schedule: events.Schedule, what: str, *, whole: bool
    ) -> None:
        events.Rule(
            self,
            construct_id,
            description=f"Compares {what} with the ledger",
            schedule=schedule,
            targets=[
                targets.LambdaFunction(
                    function,
                    event=events.RuleTargetInput.from_object({"whole": whole}),
                    # The next run does the same work.
                    retry_attempts=0,
                    max_event_age=Duration.minutes(5),
                )
            ],
        )
