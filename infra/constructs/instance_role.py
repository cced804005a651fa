"""What the database's instance may do in AWS."""

from collections.abc import Sequence

from aws_cdk import Aws
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.nag import OWN_POLICY, acknowledge, over

METRICS_NAMESPACE = "Fleetledger/Database"


def instance_role(
    scope: Construct,
    construct_id: str,
    *,
    description: str,
    scripts: s3_assets.Asset,
    packages: s3.Bucket,
    backups: s3.Bucket,
    secrets: Sequence[secretsmanager.ISecret],
    log_group: logs.ILogGroup,
    key: kms.IKey,
) -> iam.Role:
    """A role that reads scripts and packages, keeps backups, knows the passwords it sets, and says how it is."""
    role = iam.Role(scope, construct_id, assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"), description=description)
    backup_objects, package_objects = backups.arn_for_objects("*"), packages.arn_for_objects("*")
    for sid, actions, resources in (
        ("Scripts", ["s3:GetObject"], [scripts.bucket.arn_for_objects(scripts.s3_object_key)]),
        ("Packages", ["s3:GetObject"], [package_objects]),
        # Not DeleteObjectVersion: what the instance deletes or overwrites can be had back while its versions are kept.
        ("Backups", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [backup_objects]),
        ("Lists", ["s3:ListBucket"], [packages.bucket_arn, backups.bucket_arn]),
        # At its first boot the instance makes an authority of its own, whose key never leaves it, and puts the
        # authority's certificate where clients look for it: nobody else has it to put there.
        (
            "Passwords",
            ["secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"],
            [secret.secret_arn for secret in secrets],
        ),
        ("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], [log_group.log_group_arn]),
    ):
        role.add_to_policy(iam.PolicyStatement(sid=sid, actions=actions, resources=resources))
    for statement in (_keyed(key), _metrics(), _sessions()):
        role.add_to_policy(statement)
    acknowledge(
        role,
        {
            **OWN_POLICY,
            over(role, backup_objects): "pgBackRest makes up the names of what it keeps.",
            over(role, package_objects): "The operator chooses which packages there are; the manifest names them.",
            "AwsSolutions-IAM5[Resource::*]": "PutMetricData and Session Manager's channels have no resources to name; "
            "the metrics' namespace is a condition.",
        },
    )
    return role


def _keyed(key: kms.IKey) -> iam.PolicyStatement:
    region = Aws.REGION
    return iam.PolicyStatement(
        sid="Key",
        actions=["kms:Decrypt", "kms:GenerateDataKey"],
        resources=[key.key_arn],
        conditions={
            "StringEquals": {"kms:ViaService": [f"s3.{region}.amazonaws.com", f"secretsmanager.{region}.amazonaws.com"]}
        },
    )


def _metrics() -> iam.PolicyStatement:
    return iam.PolicyStatement(
        sid="Metrics",
        actions=["cloudwatch:PutMetricData"],
        resources=["*"],
        conditions={"StringEquals": {"cloudwatch:namespace": METRICS_NAMESPACE}},
    )


def _sessions() -> iam.PolicyStatement:
    """Session Manager and no more; AmazonSSMManagedInstanceCore could also read every parameter of the account.

    https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
    """
    return iam.PolicyStatement(
        sid="Sessions",
        actions=[
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
        ],
        resources=["*"],
    )
