"""The Ingest stack, in the order in which data flows: devices, rule, Firehose, bucket, queue, loader, database."""

import string
from typing import Any

from aws_cdk import ArnFormat, Aws, CfnOutput, Duration, Size, Stack, triggers
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

from infra.connections import connection_budget
from infra.constructs.bucket import private_bucket
from infra.constructs.function import Function
from infra.constructs.log_group import encrypted_log_group
from infra.constructs.queue import queue_with_dead_letters
from infra.constructs.retention import removal_policy
from infra.constructs.secret import KeyedSecret
from infra.iot_rule import RuleTargets, rule_payload
from infra.nag import OWN_POLICY, acknowledge, over
from infra.names import RAW_PREFIX
from infra.network import FunctionNetwork
from infra.replica import raw_lifecycle, replicate
from infra.settings import Settings
from lambdas.shared.stamp import STAMP

_HOURLY = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/hour=!{timestamp:HH}/"

_ERROR_PREFIX = "errors/"
_NOT_REPLICATED = "S3 keeps three zones' copies and every version; a second region is the setting replica_region."


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
        key: kms.IKey,
        access_logs: s3.IBucket,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        self._network, self._key, self._access_logs = network, key, access_logs
        self._names = settings.names
        self._removal = removal_policy(settings)

        self._device_registry()
        object_queue, object_dead_letters = self._object_queue()
        bucket = self._bucket(object_queue)
        self.bucket, self.object_queue = bucket, object_queue
        stream = self._stream(bucket)
        stamp_secret = self._stamp_secret()
        rule_errors, rule_error_dead_letters = self._rule(stream, stamp_secret)
        loader = self._loader(bucket, object_queue, loader_secret, stamp_secret)
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
        attached = {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
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
                        "Condition": attached,
                    },
                    {
                        "Effect": "Allow",
                        "Action": "iot:Publish",
                        "Resource": [
                            self._iot_arn("topic", f"{self._names.topic}/{thing}"),
                            self._iot_arn("topic", f"{self._names.basic_ingest_topic}/{thing}"),
                        ],
                        # Here too, since a message over HTTPS comes without a connection that was asked.
                        "Condition": attached,
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
            key=self._key,
        )

    def _bucket(self, object_queue: sqs.Queue) -> s3.Bucket:
        name = self._names.bucket(Aws.ACCOUNT_ID, Aws.REGION)
        bucket = private_bucket(
            self,
            "Raw",
            name=name,
            key=self._key,
            access_logs=self._access_logs,
            access_logs_prefix="raw/",
            lifecycle_rules=raw_lifecycle(self._settings),
            removal_policy=self._removal,
        )
        if self._settings.replica_region:
            replicate(bucket, name, self._key, self._settings)
        else:
            acknowledge(bucket, {"NIST.800.53.R5-S3BucketReplicationEnabled": _NOT_REPLICATED})
        # The bucket's own property rather than bucket.add_event_notification: that one deploys a Lambda that may
        # change the notifications of every bucket in the account.
        object_queue.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("s3.amazonaws.com")],
                actions=["sqs:SendMessage"],
                resources=[object_queue.queue_arn],
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
        delivery_log = encrypted_log_group(
            self,
            "StreamLogs",
            settings=self._settings,
            name=f"/aws/kinesisfirehose/{self._names.stream}",
            key=self._key,
            removal_policy=self._removal,
        )
        role = self._stream_role(bucket, delivery_log)
        stream = firehose.DeliveryStream(
            self,
            "Stream",
            delivery_stream_name=self._names.stream,
            encryption=firehose.StreamEncryption.aws_owned_key(),
            destination=firehose.S3Bucket(
                bucket,
                # Without updates: what the L2 would grant includes reading and deleting every object.
                role=role.without_policy_updates(),
                compression=firehose.Compression.GZIP,
                buffering_interval=Duration.seconds(self._settings.buffer_interval_seconds),
                buffering_size=Size.mebibytes(self._settings.buffer_size_mib),
                data_output_prefix=_HOURLY,
                error_output_prefix=f"{_ERROR_PREFIX}!{{firehose:error-output-type}}/{_HOURLY}",
                logging_config=firehose.EnableLogging(delivery_log),
            ),
        )
        # The L2's table of Firehose's addresses serves other destinations than S3; unused, it is a lint finding.
        self.node.try_remove_child("@aws-cdk--aws-kinesisfirehose.CidrBlocks")
        # Firehose checks when it is made that it may write.
        stream.node.add_dependency(role)
        return stream

    def _stream_role(self, bucket: s3.Bucket, log: logs.LogGroup) -> iam.Role:
        """What Firehose may do: write under the two prefixes, under the key, and say what went wrong.

        https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html#using-iam-s3
        """
        role = iam.Role(
            self,
            "StreamRole",
            assumed_by=iam.ServicePrincipal(
                "firehose.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            ),
            description=f"What {self._names.stream} may do",
        )
        written = [bucket.arn_for_objects(f"{prefix}*") for prefix in (RAW_PREFIX, _ERROR_PREFIX)]
        for actions, resources in (
            (["s3:PutObject", "s3:AbortMultipartUpload"], written),
            (["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"], [bucket.bucket_arn]),
        ):
            role.add_to_policy(iam.PolicyStatement(actions=actions, resources=resources))
        self._key.grant(role, "kms:GenerateDataKey", "kms:Decrypt")
        log.grant(role, "logs:PutLogEvents")
        acknowledge(
            role,
            {
                **OWN_POLICY,
                over(role, written[0]): "Batches; the name of each is made up when it is written.",
                over(role, written[1]): "What could not be delivered, likewise.",
            },
        )
        return role

    def _stamp_secret(self) -> secretsmanager.Secret:
        """What the rule writes into every line that it makes, and the loader asks of every line that it takes.

        To a payload that is not JSON as a whole the rule adds nothing, so that one of its lines may claim any device_id.
        https://docs.aws.amazon.com/iot/latest/developerguide/binary-payloads.html
        """
        secret = KeyedSecret(
            self,
            "Stamp",
            key=self._key,
            secret_name=self._names.stamp_secret,
            description="What the IoT rule stamps lines with; `earlier` lists stamps of before (docs/security.md)",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template='{"earlier": []}',  # noqa: S106 - what is secret is generated beside it
                generate_string_key=STAMP,
                password_length=32,
                exclude_punctuation=True,
                exclude_characters=string.punctuation,  # the same, to the emulator
            ),
            removal_policy=self._removal,
        )
        by_hand = "The rule carries it too, so it changes with a deployment: docs/security.md says how."
        acknowledge(secret, {"AwsSolutions-SMG4": by_hand, "NIST.800.53.R5-SecretsManagerRotationEnabled": by_hand})
        return secret

    def _rule(self, stream: firehose.DeliveryStream, stamp: secretsmanager.Secret) -> tuple[sqs.Queue, sqs.Queue]:
        """The rule, with one role per target; returns the queue of messages whose action failed, and its dead letters."""
        errors, dead_letters = queue_with_dead_letters(
            self,
            "RuleErrors",
            name=self._names.rule_error_queue,
            dead_letters_name=self._names.rule_error_dead_letters,
            visibility_timeout=Duration.minutes(3),
            max_receives=self._settings.loader_max_receives,
            removal_policy=self._removal,
            key=self._key,
        )
        stream_role = self._rule_role("RuleToFirehose", f"What rule {self._names.rule} may do with a message")
        stream.grant(stream_role, "firehose:PutRecord", "firehose:PutRecordBatch")
        error_role = self._rule_role(
            "RuleToErrorQueue", f"What rule {self._names.rule} may do with a message that failed"
        )
        errors.grant(error_role, "sqs:SendMessage")
        self._key.grant(error_role, "kms:GenerateDataKey", "kms:Decrypt")
        payload = rule_payload(
            "telemetry_to_firehose.json",
            RuleTargets(
                topic=self._names.topic,
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
        acknowledge(stream_role, OWN_POLICY)
        acknowledge(error_role, OWN_POLICY)
        # A rule whose role cannot yet write loses its first messages to the error queue.
        rule.node.add_dependency(stream_role, error_role)
        return errors, dead_letters

    def _rule_role(self, construct_id: str, description: str) -> iam.Role:
        """A role that only rules of this account may take on (the confused deputy's remedy)."""
        return iam.Role(
            self,
            construct_id,
            description=description,
            assumed_by=iam.ServicePrincipal(
                "iot.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID},
                    "ArnEquals": {"aws:SourceArn": self._iot_arn("rule", self._names.rule)},
                },
            ),
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
                "LOADER_CONNECTION_LIMIT": str(connection_budget(self._settings).limits["iot_loader"]),
                # An instance that has just been replaced may still be starting.
                **({"DATABASE_WAIT_SECONDS": "300"} if self._network else {}),
            },
        ).function
        admin_secret.grant_read(migrator)
        loader_secret.grant_read(migrator)
        triggers.Trigger(self, "Migrate", handler=migrator, timeout=Duration.minutes(10), execute_before=[loader])
