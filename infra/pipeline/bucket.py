"""The bucket of raw objects, the source of truth."""

from aws_cdk import Aws, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sqs as sqs

from infra.constructs.bucket import private_bucket
from infra.constructs.retention import removal_policy
from infra.nag import acknowledge
from infra.names import RAW_PREFIX
from infra.replica import raw_lifecycle, replicate
from infra.settings import Settings

_NOT_REPLICATED = "S3 keeps three zones' copies and every version; a second region is the setting replica_region."


def raw_bucket(
    scope: Stack, *, settings: Settings, key: kms.IKey, access_logs: s3.IBucket, object_queue: sqs.Queue
) -> s3.Bucket:
    """The bucket, which announces each object under the raw prefix to the queue."""
    name = settings.names.bucket(Aws.ACCOUNT_ID, Aws.REGION)
    bucket = private_bucket(
        scope,
        "Raw",
        name=name,
        key=key,
        access_logs=access_logs,
        access_logs_prefix="raw/",
        lifecycle_rules=raw_lifecycle(settings),
        removal_policy=removal_policy(settings),
    )
    if settings.replica_region:
        replicate(bucket, name, key, settings)
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
