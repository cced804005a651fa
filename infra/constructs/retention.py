"""What becomes of data when its stack is deleted."""

from aws_cdk import RemovalPolicy

from infra.settings import Settings


def removal_policy(settings: Settings) -> RemovalPolicy:
    """Kept or deleted, as the environment's `retain_data` says.

    Kept, but not what a first deployment made before it failed: that would be in the way of the second, by its name.
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-attribute-deletionpolicy.html
    """
    return RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if settings.retain_data else RemovalPolicy.DESTROY
