"""The Firehose stream that writes raw objects, and what it may do."""

from aws_cdk import Aws, Duration, Size, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3

from infra.constructs.log_group import encrypted_log_group
from infra.constructs.retention import removal_policy
from infra.nag import OWN_POLICY, acknowledge, over
from infra.names import RAW_PREFIX
from infra.settings import Settings

_HOURLY = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/hour=!{timestamp:HH}/"
_ERROR_PREFIX = "errors/"


def raw_stream(scope: Stack, *, settings: Settings, key: kms.IKey, bucket: s3.Bucket) -> firehose.DeliveryStream:
    """The stream, compressed and partitioned by the hour, failures apart."""
    delivery_log = encrypted_log_group(
        scope,
        "StreamLogs",
        settings=settings,
        name=f"/aws/kinesisfirehose/{settings.names.stream}",
        key=key,
        removal_policy=removal_policy(settings),
    )
    role = _role(scope, name=settings.names.stream, key=key, bucket=bucket, log=delivery_log)
    stream = firehose.DeliveryStream(
        scope,
        "Stream",
        delivery_stream_name=settings.names.stream,
        encryption=firehose.StreamEncryption.aws_owned_key(),
        destination=firehose.S3Bucket(
            bucket,
            # Without updates: what the L2 would grant includes reading and deleting every object.
            role=role.without_policy_updates(),
            compression=firehose.Compression.GZIP,
            buffering_interval=Duration.seconds(settings.buffer_interval_seconds),
            buffering_size=Size.mebibytes(settings.buffer_size_mib),
            data_output_prefix=_HOURLY,
            error_output_prefix=f"{_ERROR_PREFIX}!{{firehose:error-output-type}}/{_HOURLY}",
            logging_config=firehose.EnableLogging(delivery_log),
        ),
    )
    # The L2's table of Firehose's addresses serves other destinations than S3; unused, it is a lint finding.
    scope.node.try_remove_child("@aws-cdk--aws-kinesisfirehose.CidrBlocks")
    # Firehose checks when it is made that it may write.
    stream.node.add_dependency(role)
    return stream


def _role(scope: Stack, *, name: str, key: kms.IKey, bucket: s3.Bucket, log: logs.LogGroup) -> iam.Role:
    """What Firehose may do: write under the two prefixes, under the key, and say what went wrong.

    https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html#using-iam-s3
    """
    role = iam.Role(
        scope,
        "StreamRole",
        assumed_by=iam.ServicePrincipal(
            "firehose.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
        ),
        description=f"What {name} may do",
    )
    written = [bucket.arn_for_objects(f"{prefix}*") for prefix in (RAW_PREFIX, _ERROR_PREFIX)]
    for actions, resources in (
        (["s3:PutObject", "s3:AbortMultipartUpload"], written),
        (["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"], [bucket.bucket_arn]),
    ):
        role.add_to_policy(iam.PolicyStatement(actions=actions, resources=resources))
    key.grant(role, "kms:GenerateDataKey", "kms:Decrypt")
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
