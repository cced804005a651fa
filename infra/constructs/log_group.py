"""A log group that forgets after the environment's time and is encrypted under its key."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.settings import Settings


def encrypted_log_group(
    scope: Construct, construct_id: str, *, settings: Settings, name: str, key: kms.IKey, removal_policy: RemovalPolicy
) -> logs.LogGroup:
    """The log group `name`, kept for `settings.log_retention_days`."""
    group = logs.LogGroup(scope, construct_id, log_group_name=name, encryption_key=key, removal_policy=removal_policy)
    resource = group.node.default_child
    assert isinstance(resource, logs.CfnLogGroup)  # noqa: S101 - for the type checker: an L2 log group's only resource
    # Days, which the settings have checked, rather than the L2's enumeration of the same days.
    resource.retention_in_days = settings.log_retention_days
    return group
