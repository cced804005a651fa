"""The Ingest stack, in the order in which data flows: devices, rule, Firehose, bucket, queue, loader, database."""

import json
from collections.abc import Mapping
from typing import Any

from aws_cdk import CfnOutput, Duration, Stack, triggers
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.connections import RULE_ERRORS_MAX_CONCURRENCY, connection_budget
from infra.constructs.function import Function
from infra.constructs.queue import queue_with_dead_letters
from infra.constructs.retention import removal_policy
from infra.constructs.secret import KeyedSecret
from infra.nag import acknowledge, over
from infra.names import RAW_PREFIX
from infra.network import FunctionNetwork
from infra.pipeline.bucket import raw_bucket
from infra.pipeline.devices import device_registry
from infra.pipeline.rule import stamp_secret, telemetry_rule
from infra.pipeline.status_rule import status_rule
from infra.pipeline.stream import raw_stream
from infra.settings import Settings


class IngestStack(Stack):
    """Everything between a device and the rows it becomes."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        admin_secret: secretsmanager.ISecret,
        loader_secret: secretsmanager.ISecret,
        consumer_secrets: Mapping[str, KeyedSecret],
        network: FunctionNetwork | None,
        key: kms.IKey,
        access_logs: s3.IBucket,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        self._network, self._key = network, key
        self._names = settings.names
        self._removal = removal_policy(settings)

        device_registry(self, self._names)
        status_rule(self, self._names)
        object_queue, object_dead_letters = self._object_queue()
        bucket = raw_bucket(self, settings=settings, key=key, access_logs=access_logs, object_queue=object_queue)
        self.bucket, self.object_queue = bucket, object_queue
        stream = raw_stream(self, settings=settings, key=key, bucket=bucket)
        stamp = stamp_secret(self, settings=settings, key=key)
        rule_errors, rule_error_dead_letters = telemetry_rule(
            self, settings=settings, key=key, stream=stream, stamp=stamp
        )
        loader = self._loader(bucket, object_queue, loader_secret, stamp)
        self._rule_errors_loader(rule_errors, loader_secret)
        if settings.migrate_on_deploy:
            self._migrator(loader, admin_secret, loader_secret, consumer_secrets)

        for name, value in {
            "BucketName": bucket.bucket_name,
            "StreamName": stream.delivery_stream_name,
            "RuleName": self._names.rule,
            "ObjectQueueUrl": object_queue.queue_url,
            "ObjectDeadLettersUrl": object_dead_letters.queue_url,
            "RuleErrorQueueUrl": rule_errors.queue_url,
            "RuleErrorDeadLettersUrl": rule_error_dead_letters.queue_url,
            "LoaderName": loader.function_name,
        }.items():
            CfnOutput(self, name, value=value)

    def _object_queue(self) -> tuple[sqs.Queue, sqs.Queue]:
        return queue_with_dead_letters(
            self,
            "Objects",
            name=self._names.object_queue,
            dead_letters_name=self._names.object_dead_letters,
            # Six times the function's timeout, so that a message in work is never handed out again:
            # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
            visibility_timeout=Duration.seconds(6 * self._settings.loader_timeout_seconds),
            max_receives=self._settings.loader_max_receives,
            removal_policy=self._removal,
            key=self._key,
        )

    def _loader(
        self,
        bucket: s3.Bucket,
        object_queue: sqs.Queue,
        secret: secretsmanager.ISecret,
        stamp: secretsmanager.ISecret,
    ) -> lambda_.Function:
        loader = Function(
            self,
            "Loader",
            settings=self._settings,
            invoked_by="queue",
            network=self._network,
            key=self._key,
            name=self._names.loader,
            folder="processor",
            description="Loads raw objects into TimescaleDB, each exactly once",
            timeout=Duration.seconds(self._settings.loader_timeout_seconds),
            memory_mib=self._settings.loader_memory_mib,
            environment={
                "DATABASE_SECRET_ARN": secret.secret_arn,
                "STAMP_SECRET_ARN": stamp.secret_arn,
                "BUCKET_NAME": bucket.bucket_name,
                "OBJECT_QUEUE_URL": object_queue.queue_url,
                "MAX_FUTURE_SECONDS": str(self._settings.max_future_seconds),
                "RETENTION_DAYS": str(self._settings.retention_days),
            },
        ).function
        secret.grant_read(loader)
        stamp.grant_read(loader)
        raw_objects = bucket.arn_for_objects(f"{RAW_PREFIX}*")
        loader.add_to_role_policy(
            iam.PolicyStatement(actions=["s3:GetObject", "s3:GetObjectVersion"], resources=[raw_objects])
        )
        assert loader.role  # noqa: S101 - for the type checker: every function has one
        acknowledge(loader.role, {over(loader, raw_objects): "It loads every raw object, and sees nothing else."})
        # Without it a missing object answers 403, which would look like a fault of ours.
        loader.add_to_role_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[bucket.bucket_arn]))
        self._key.grant_decrypt(loader)
        loader.add_event_source(
            event_sources.SqsEventSource(
                object_queue,
                batch_size=10,
                report_batch_item_failures=True,
                max_concurrency=self._settings.loader_max_concurrency,
            )
        )
        return loader

    def _rule_errors_loader(self, errors: sqs.Queue, secret: secretsmanager.ISecret) -> None:
        function = Function(
            self,
            "RuleErrorsLoader",
            settings=self._settings,
            invoked_by="queue",
            network=self._network,
            key=self._key,
            name=self._names.rule_errors_loader,
            folder="rule_errors",
            description="Moves messages whose rule action failed into quarantine",
            timeout=Duration.seconds(30),
            memory_mib=256,
            environment={"DATABASE_SECRET_ARN": secret.secret_arn, "RULE_ERROR_QUEUE_URL": errors.queue_url},
        ).function
        secret.grant_read(function)
        function.add_event_source(
            event_sources.SqsEventSource(
                errors,
                batch_size=10,
                report_batch_item_failures=True,
                max_concurrency=RULE_ERRORS_MAX_CONCURRENCY,
            )
        )

    def _migrator(
        self,
        loader: lambda_.Function,
        admin_secret: secretsmanager.ISecret,
        loader_secret: secretsmanager.ISecret,
        consumer_secrets: Mapping[str, KeyedSecret],
    ) -> None:
        """Runs once per deployment that changes it, before the new loader; its failure fails the deployment."""
        limits = connection_budget(self._settings).limits
        migrator = Function(
            self,
            "Migrator",
            settings=self._settings,
            invoked_by="deployment",
            network=self._network,
            key=self._key,
            name=self._names.migrator,
            folder="migrator",
            description="Brings the database's schema up to date",
            timeout=Duration.minutes(10),
            memory_mib=256,
            environment={
                "ADMIN_SECRET_ARN": admin_secret.secret_arn,
                "LOADER_SECRET_ARN": loader_secret.secret_arn,
                "LOADER_CONNECTION_LIMIT": str(limits["iot_loader"]),
                **{f"{name.upper()}_SECRET_ARN": secret.secret_arn for name, secret in consumer_secrets.items()},
                **{f"{name.upper()}_CONNECTION_LIMIT": str(limits[name]) for name in consumer_secrets},
                # Columns of ingest.settings.
                "STORAGE_SETTINGS": json.dumps(
                    {
                        "chunk_hours": self._settings.chunk_hours,
                        "compress_after_days": self._settings.compress_after_days,
                        "retention_days": self._settings.retention_days,
                        "rollup_retention_days": self._settings.rollup_retention_days,
                    }
                ),
                # An instance that has just been replaced may still be starting.
                **({"DATABASE_WAIT_SECONDS": "300"} if self._network else {}),
            },
        ).function
        admin_secret.grant_read(migrator)
        loader_secret.grant_read(migrator)
        for secret in consumer_secrets.values():
            secret.grant_read(migrator)
            # It knows where the database is from the admin's, and so nobody has to say it once more.
            secret.grant_put(migrator)
        triggers.Trigger(self, "Migrate", handler=migrator, timeout=Duration.minutes(10), execute_before=[loader])
