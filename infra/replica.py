"""The Replica stack, in another region: a second copy of every raw object, from which all else can be rebuilt."""

from typing import Any

from aws_cdk import ArnFormat, Aws, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.constructs.bucket import private_bucket
from infra.constructs.retention import removal_policy
from infra.nag import OWN_POLICY, acknowledge, over
from infra.settings import Settings


class ReplicaStack(Stack):
    """The bucket that raw objects are copied to, under a key of that region."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        removal = removal_policy(settings)
        key = kms.Key(
            self,
            "Data",
            alias=settings.names.replica_key_alias,
            description=f"The copy of raw telemetry at rest ({settings.environment})",
            enable_key_rotation=True,
            removal_policy=removal,
        )
        bucket = private_bucket(
            self,
            "Copy",
            name=settings.names.replica_bucket(Aws.ACCOUNT_ID, Aws.REGION),
            key=key,
            access_logs=None,
            lifecycle_rules=raw_lifecycle(settings),
            removal_policy=removal,
        )
        unlogged = "A copy that nothing reads in normal work; who read the original is logged there."
        acknowledge(
            bucket,
            {
                "AwsSolutions-S1": unlogged,
                "NIST.800.53.R5-S3BucketLoggingEnabled": unlogged,
                "NIST.800.53.R5-S3BucketReplicationEnabled": "It is the copy.",
            },
        )


def raw_lifecycle(settings: Settings) -> list[s3.LifecycleRule]:
    """What becomes of raw objects with time, original and copy alike."""
    return [
        s3.LifecycleRule(
            id="ArchiveOldData",
            transitions=[
                s3.Transition(
                    storage_class=s3.StorageClass.GLACIER,
                    transition_after=Duration.days(settings.archive_after_days),
                )
            ],
            expiration=Duration.days(settings.expire_after_days),
            noncurrent_version_expiration=Duration.days(30),
        )
    ]


def replicate(bucket: s3.Bucket, name: str, key: kms.IKey, settings: Settings) -> None:
    """Has S3 copy what is written to `bucket`, called `name`, to the Replica stack's bucket.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/replication-config-for-kms-objects.html
    """
    stack, region, names = Stack.of(bucket), str(settings.replica_region), settings.names
    # By name: the bucket names the role, so the role's policy cannot refer to the bucket.
    original = f"arn:{Aws.PARTITION}:s3:::{name}"
    copies = f"arn:{Aws.PARTITION}:s3:::{names.replica_bucket(Aws.ACCOUNT_ID, region)}"
    role = iam.Role(
        stack,
        "ReplicationRole",
        # Without a condition, as the manual has it: it names none that S3 fulfils when it replicates, and objects that
        # are not copied fail in silence. https://docs.aws.amazon.com/AmazonS3/latest/userguide/setting-repl-config-perm-overview.html
        assumed_by=iam.ServicePrincipal("s3.amazonaws.com"),
        description="What S3 may do to copy raw objects to another region",
    )
    keys_there = stack.format_arn(
        service="kms", resource="key", resource_name="*", region=region, arn_format=ArnFormat.SLASH_RESOURCE_NAME
    )
    for actions, arn, conditions in (
        (["s3:GetReplicationConfiguration", "s3:ListBucket"], original, None),
        (
            ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging"],
            f"{original}/*",
            None,
        ),
        (["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"], f"{copies}/*", None),
        (["kms:Decrypt"], key.key_arn, {"StringEquals": {"kms:ViaService": f"s3.{Aws.REGION}.amazonaws.com"}}),
        (
            ["kms:Encrypt", "kms:GenerateDataKey"],
            keys_there,
            {
                "StringEquals": {"kms:ViaService": f"s3.{region}.amazonaws.com"},
                "ForAnyValue:StringEquals": {"kms:ResourceAliases": f"alias/{names.replica_key_alias}"},
            },
        ),
    ):
        role.add_to_policy(iam.PolicyStatement(actions=actions, resources=[arn], conditions=conditions))
    alias = stack.format_arn(
        service="kms",
        resource="alias",
        resource_name=names.replica_key_alias,
        region=region,
        arn_format=ArnFormat.SLASH_RESOURCE_NAME,
    )
    resource = bucket.node.default_child
    assert isinstance(resource, s3.CfnBucket)  # noqa: S101 - for the type checker: an L2 bucket's only resource
    resource.replication_configuration = s3.CfnBucket.ReplicationConfigurationProperty(
        role=role.role_arn,
        rules=[
            s3.CfnBucket.ReplicationRuleProperty(
                id="CopyRawObjects",
                status="Enabled",
                priority=1,
                filter=s3.CfnBucket.ReplicationRuleFilterProperty(prefix=""),
                delete_marker_replication=s3.CfnBucket.DeleteMarkerReplicationProperty(status="Disabled"),
                source_selection_criteria=s3.CfnBucket.SourceSelectionCriteriaProperty(
                    sse_kms_encrypted_objects=s3.CfnBucket.SseKmsEncryptedObjectsProperty(status="Enabled")
                ),
                destination=s3.CfnBucket.ReplicationDestinationProperty(
                    bucket=copies,
                    encryption_configuration=s3.CfnBucket.EncryptionConfigurationProperty(replica_kms_key_id=alias),
                ),
            )
        ],
    )
    resource.node.add_dependency(role)
    acknowledge(
        role,
        {
            **OWN_POLICY,
            over(role, f"{original}/*"): "Every object is copied.",
            over(role, f"{copies}/*"): "Every object is copied.",
            over(role, keys_there): "Narrowed by a condition to the key with the copy's alias, and to use by S3.",
        },
    )
