"""The Operations stack: scheduled work on what the Ingest stack keeps, and what watches the whole."""

from typing import Any

from aws_cdk import Duration, Stack
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
from infra.nag import acknowledge
from infra.names import RAW_PREFIX
from infra.network import FunctionNetwork
from infra.settings import Settings

_EVERY_MINUTE = events.Schedule.rate(Duration.minutes(1))


class OperationsStack(Stack):
    """The sweeper, every few minutes and once a day over everything; every minute maintenance, watch and probe."""

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
        self.sweeper = self._sweeper(bucket, object_queue, loader_secret)
        self._schedule(
            "SweepRecent",
            self.sweeper,
            events.Schedule.rate(Duration.minutes(settings.sweep_interval_minutes)),
            f"Compares the objects of the last {settings.sweep_lookback_hours} hours with the ledger",
            {"whole": False},
        )
        # Not on the hour, when everybody's jobs run.
        self._schedule(
            "SweepWhole",
            self.sweeper,
            events.Schedule.cron(hour="3", minute="17"),
            "Compares the objects of the retention with the ledger",
            {"whole": True},
        )
        self.watch = self._watch(loader_secret)
        self._schedule("WatchEveryMinute", self.watch, _EVERY_MINUTE, "Measures devices, losses and the database", {})
        self.maintenance = self._maintenance(loader_secret)
        self._schedule(
            "MaintainEveryMinute", self.maintenance, _EVERY_MINUTE, "Rollups up to date, expired chunks dropped", {}
        )
        self.probe = self._probe() if settings.probe_iot else None
        if self.probe is not None:
            self._schedule(
                "ProbeEveryMinute", self.probe, _EVERY_MINUTE, "Connects to AWS IoT Core as a device would", {}
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
            # Lambda's longest: a whole sweep goes through a few thousand objects a second, and the next run goes on with it.
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
        ):
            sweeper.add_to_role_policy(statement)
        self._key.grant(sweeper, "kms:GenerateDataKey", "kms:Decrypt")  # what it sends is encrypted
        return sweeper

    def _watch(self, secret: secretsmanager.ISecret) -> lambda_.Function:
        watch = Function(
            self,
            "Watch",
            settings=self._settings,
            invoked_by="schedule",
            network=self._network,
            key=self._key,
            name=self._settings.names.watch,
            folder="watch",
            description="Measures which devices are offline, what is missing, and how the database is",
            # Over before the next one begins.
            timeout=Duration.seconds(50),
            memory_mib=256,
            environment={
                "DATABASE_SECRET_ARN": secret.secret_arn,
                "OFFLINE_AFTER_MINUTES": str(self._settings.offline_after_minutes),
                "RETENTION_DAYS": str(self._settings.retention_days),
            },
        ).function
        secret.grant_read(watch)
        return watch

    def _maintenance(self, secret: secretsmanager.ISecret) -> lambda_.Function:
        maintenance = Function(
            self,
            "Maintenance",
            settings=self._settings,
            invoked_by="schedule",
            network=self._network,
            key=self._key,
            name=self._settings.names.maintenance,
            folder="maintenance",
            description="Brings the rollups up to date, and drops what is past its retention",
            # After a replay there may be much to do; a run that begins meanwhile leaves at once.
            timeout=Duration.minutes(4),
            memory_mib=256,
            environment={"DATABASE_SECRET_ARN": secret.secret_arn},
        ).function
        secret.grant_read(maintenance)
        return maintenance

    def _probe(self) -> lambda_.Function:
        probe = Function(
            self,
            "Probe",
            settings=self._settings,
            invoked_by="schedule",
            # Where devices are: outside. A network of ours has no way to AWS IoT Core, and would measure its own.
            network=None,
            key=self._key,
            name=self._settings.names.probe,
            folder="probe",
            description="Connects to AWS IoT Core, as far as one comes without a device's certificate",
            timeout=Duration.seconds(30),
            memory_mib=256,
            environment={},
        ).function
        # https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsiot.html
        probe.add_to_role_policy(iam.PolicyStatement(actions=["iot:DescribeEndpoint"], resources=["*"]))
        if probe.role is not None:
            acknowledge(
                probe.role,
                {
                    "AwsSolutions-IAM5[Resource::*]": "iot:DescribeEndpoint knows no resources; it tells the address of "
                    "the account's endpoint, which every device knows."
                },
            )
        return probe

    def _schedule(
        self,
        construct_id: str,
        function: lambda_.Function,
        schedule: events.Schedule,
        description: str,
        event: dict[str, bool],
    ) -> None:
        events.Rule(
            self,
            construct_id,
            description=description,
            schedule=schedule,
            targets=[
                targets.LambdaFunction(
                    function,
                    event=events.RuleTargetInput.from_object(event),
                    # The next run does the same work.
                    retry_attempts=0,
                    max_event_age=Duration.minutes(5),
                )
            ],
        )
