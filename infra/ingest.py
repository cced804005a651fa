"""The Ingest stack, in the order in which data flows: devices, rule, Firehose, bucket, queue, loader, database."""

from typing import Any

from aws_cdk import ArnFormat, Aws, CfnOutput, Duration, RemovalPolicy, Size, Stack, triggers
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.constructs.function import Function
from infra.constructs.queue import queue_with_dead_letters
from infra.iot_rule import RuleTargets, rule_payload
from infra.names import RAW_PREFIX
from infra.network import FunctionNetwork
from infra.settings import Settings

_HOURLY = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/hour=!{timestamp:HH}/"


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
        network: FunctionNetwork | None,
        key: kms.IKey | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        self._network, self._key = network, key
        self._names = settings.names
        self._removal = RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY

        self._device_registry()
        object_queue, object_dead_letters = self._object_queue()
        bucket = self._bucket(object_queue)
        self.bucket, self.object_queue = bucket, object_queue
        stream = self._stream(bucket)
        rule_errors, rule_error_dead_letters = self._rule(stream)
        loader = self._loader(bucket, object_queue, loader_secret)
        self._rule_errors_loader(rule_errors, loader_secret)
        if settings.migrate_on_deploy:
            self._migrator(loader, admin_secret, loader_secret)

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

    def _device_registry(self) -> None:
        """The thing type, and the policy that ties a connection to the thing its certificate belongs to.

        https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
        """
        iot.CfnThingType(
            self,
            "ThingType",
            thing_type_name=self._names.thing_type,
            thing_type_properties=iot.CfnThingType.ThingTypePropertiesProperty(
                thing_type_description="A telemetry device",
                searchable_attributes=["location", "firmware"],
            ),
        )
        thing = "${iot:Connection.Thing.ThingName}"
        iot.CfnPolicy(
            self,
            "DevicePolicy",
            policy_name=self._names.device_policy,
            policy_document={
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "iot:Connect",
                        "Resource": self._iot_arn("client", thing),
                        "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
                    },
                    {
                        "Effect": "Allow",
                        "Action": "iot:Publish",
                        "Resource": [
                            self._iot_arn("topic", f"{self._names.topic}/{thing}"),
                            self._iot_arn("topic", f"{self._names.basic_ingest_topic}/{thing}"),
                        ],
                    },
                ],
            },
        )

    def _iot_arn(self, resource: str, name: str) -> str:
        return self.format_arn(
            service="iot", resource=resource, resource_name=name, arn_format=ArnFormat.SLASH_RESOURCE_NAME
        )

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
        )

    def _bucket(self, object_queue: sqs.Queue) -> s3.Bucket:
        name = self._names.bucket(Aws.ACCOUNT_ID, Aws.REGION)
        bucket = s3.Bucket(
            self,
            "Raw",
            bucket_name=name,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=self._removal,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="ArchiveOldData",
                    transitions=[
                        s3.Transition(
                            storage_class=s3.StorageClass.GLACIER,
                            transition_after=Duration.days(self._settings.archive_after_days),
                        )
                    ],
                    expiration=Duration.days(self._settings.expire_after_days),
                    noncurrent_version_expiration=Duration.days(30),
                ),
                s3.LifecycleRule(id="AbortUnfinishedUploads", abort_incomplete_multipart_upload_after=Duration.days(7)),
            ],
        )
        # The bucket's own property rather than bucket.add_event_notification: that one deploys a Lambda that may
        # change the notifications of every bucket in the account.
        object_queue.grant_send_messages(
            iam.ServicePrincipal(
                "s3.amazonaws.com",
                conditions={
                    "ArnEquals": {"aws:SourceArn": f"arn:{Aws.PARTITION}:s3:::{name}"},
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                },
            )
        )
        resource = bucket.node.default_child
        assert isinstance(resource, s3.CfnBucket)  # noqa: S101 - for the type checker: an L2 bucket's only resource
        resource.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            queue_configurations=[
                s3.CfnBucket.QueueConfigurationProperty(
                    event="s3:ObjectCreated:*",
                    queue=object_queue.queue_arn,
                    filter=s3.CfnBucket.NotificationFilterProperty(
                        s3_key=s3.CfnBucket.S3KeyFilterProperty(
                            rules=[s3.CfnBucket.FilterRuleProperty(name="prefix", value=RAW_PREFIX)]
                        )
                    ),
                )
            ]
        )
        # S3 sends a test message while it is configured, so the queue must already let it.
        resource.node.add_dependency(object_queue)
        return bucket

    def _stream(self, bucket: s3.Bucket) -> firehose.DeliveryStream:
        delivery_log = logs.LogGroup(
            self,
            "StreamLogs",
            log_group_name=f"/aws/kinesisfirehose/{self._names.stream}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=self._removal,
        )
        stream = firehose.DeliveryStream(
            self,
            "Stream",
            delivery_stream_name=self._names.stream,
            encryption=firehose.StreamEncryption.aws_owned_key(),
            destination=firehose.S3Bucket(
                bucket,
                compression=firehose.Compression.GZIP,
                buffering_interval=Duration.seconds(self._settings.buffer_interval_seconds),
                buffering_size=Size.mebibytes(self._settings.buffer_size_mib),
                data_output_prefix=_HOURLY,
                error_output_prefix=f"errors/!{{firehose:error-output-type}}/{_HOURLY}",
                logging_config=firehose.EnableLogging(delivery_log),
            ),
        )
        # The L2's table of Firehose's addresses serves other destinations than S3; unused, it is a lint finding.
        self.node.try_remove_child("@aws-cdk--aws-kinesisfirehose.CidrBlocks")
        return stream

    def _rule(self, stream: firehose.DeliveryStream) -> tuple[sqs.Queue, sqs.Queue]:
        """The rule, with one role per target; returns the queue of messages whose action failed, and its dead letters."""
        errors, dead_letters = queue_with_dead_letters(
            self,
            "RuleErrors",
            name=self._names.rule_error_queue,
            dead_letters_name=self._names.rule_error_dead_letters,
            visibility_timeout=Duration.minutes(3),
            max_receives=self._settings.loader_max_receives,
            removal_policy=self._removal,
        )
        stream_role = self._rule_role("RuleToFirehose")
        stream.grant(stream_role, "firehose:PutRecord", "firehose:PutRecordBatch")
        error_role = self._rule_role("RuleToErrorQueue")
        errors.grant(error_role, "sqs:SendMessage")
        payload = rule_payload(
            "telemetry_to_firehose.json",
            RuleTargets(
                topic=self._names.topic,
                stream_name=stream.delivery_stream_name,
                stream_role_arn=stream_role.role_arn,
                error_queue_url=errors.queue_url,
                error_role_arn=error_role.role_arn,
            ),
        )
        action = payload["actions"][0]["firehose"]
        error_action = payload["errorAction"]["sqs"]
        rule = iot.CfnTopicRule(
            self,
            "Rule",
            rule_name=self._names.rule,
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
        # A rule whose role cannot yet write loses its first messages to the error queue.
        rule.node.add_dependency(stream_role, error_role)
        return errors, dead_letters

    def _rule_role(self, construct_id: str) -> iam.Role:
        """A role that only rules of this account may take on (the confused deputy's remedy)."""
        return iam.Role(
            self,
            construct_id,
            assumed_by=iam.ServicePrincipal(
                "iot.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                    "ArnEquals": {"aws:SourceArn": self._iot_arn("rule", self._names.rule)},
                },
            ),
        )

    def _loader(self, bucket: s3.Bucket, object_queue: sqs.Queue, secret: secretsmanager.ISecret) -> lambda_.Function:
        loader = Function(
            self,
            "Loader",
            settings=self._settings,
            network=self._network,
            key=self._key,
            name=self._names.loader,
            folder="processor",
            description="Loads raw objects into TimescaleDB, each exactly once",
            timeout=Duration.seconds(self._settings.loader_timeout_seconds),
            memory_mib=self._settings.loader_memory_mib,
            environment={
                "DATABASE_SECRET_ARN": secret.secret_arn,
                "BUCKET_NAME": bucket.bucket_name,
                "OBJECT_QUEUE_URL": object_queue.queue_url,
                "MAX_FUTURE_SECONDS": str(self._settings.max_future_seconds),
                "RETENTION_DAYS": str(self._settings.retention_days),
            },
        ).function
        secret.grant_read(loader)
        loader.add_to_role_policy(
            iam.PolicyStatement(
                actions=["s3:GetObject", "s3:GetObjectVersion"],
                resources=[bucket.arn_for_objects(f"{RAW_PREFIX}*")],
            )
        )
        # Without it a missing object answers 403, which would look like a fault of ours.
        loader.add_to_role_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[bucket.bucket_arn]))
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
            event_sources.SqsEventSource(errors, batch_size=10, report_batch_item_failures=True, max_concurrency=2)
        )

    def _migrator(
        self, loader: lambda_.Function, admin_secret: secretsmanager.ISecret, loader_secret: secretsmanager.ISecret
    ) -> None:
        """Runs once per deployment that changes it, before the new loader; its failure fails the deployment."""
        migrator = Function(
            self,
            "Migrator",
            settings=self._settings,
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
            },
        ).function
        admin_secret.grant_read(migrator)
        loader_secret.grant_read(migrator)
        triggers.Trigger(self, "Migrate", handler=migrator, timeout=Duration.minutes(10), execute_before=[loader])
