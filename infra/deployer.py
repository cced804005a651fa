"""The Deployer stack: the role with which this repository's workflow deploys an environment, without stored keys.

GitHub's OIDC token names repository and environment; only that pair may take on the role, and the role may do nothing
but take on the roles that `cdk bootstrap` made. https://docs.github.com/en/actions/reference/openid-connect-reference
"""

from typing import Any

from aws_cdk import ArnFormat, Aws, CfnOutput, Duration, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.nag import OWN_POLICY, acknowledge
from infra.settings import Settings

_ISSUER = "token.actions.githubusercontent.com"
_QUALIFIER = "hnb659fds"
"""Of the CDK's standard bootstrap: https://docs.aws.amazon.com/cdk/v2/guide/bootstrapping-env.html"""


class DeployerStack(Stack):
    """A role to deploy with, for jobs of the GitHub environment of the same name, and one to look with, for diffs.

    The account must know GitHub as an identity provider (docs/deploy.md); there can be only one of it in an account,
    so it does not belong to an environment.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        repository, name = settings.github_repository, settings.environment
        self._regions = [Aws.REGION, *([settings.replica_region] if settings.replica_region else [])]
        deploy = self._role(
            "Deploy",
            subjects=[f"repo:{repository}:environment:{name}"],
            bootstrap_roles=["deploy-role", "file-publishing-role", "lookup-role"],
            description=f"Deploys {name}: the roles of cdk bootstrap do the work",
        )
        diff = self._role(
            "Diff",
            subjects=[f"repo:{repository}:environment:{name}-diff"],
            bootstrap_roles=["lookup-role"],
            description=f"Reads {name} for cdk diff",
        )
        CfnOutput(self, "DeployRoleArn", value=deploy.role_arn)
        CfnOutput(self, "DiffRoleArn", value=diff.role_arn)

    def _role(
        self, construct_id: str, *, subjects: list[str], bootstrap_roles: list[str], description: str
    ) -> iam.Role:
        provider = self.format_arn(
            service="iam",
            region="",
            resource="oidc-provider",
            resource_name=_ISSUER,
            arn_format=ArnFormat.SLASH_RESOURCE_NAME,
        )
        role = iam.Role(
            self,
            construct_id,
            assumed_by=iam.FederatedPrincipal(
                provider,
                {"StringEquals": {f"{_ISSUER}:aud": "sts.amazonaws.com", f"{_ISSUER}:sub": subjects}},
                "sts:AssumeRoleWithWebIdentity",
            ),
            max_session_duration=Duration.hours(1),
            description=description,
        )
        arns = [
            f"arn:{Aws.PARTITION}:iam::{Aws.ACCOUNT_ID}:role/cdk-{_QUALIFIER}-{name}-{Aws.ACCOUNT_ID}-{region}"
            for region in self._regions
            for name in bootstrap_roles
        ]
        role.add_to_policy(iam.PolicyStatement(actions=["sts:AssumeRole"], resources=arns))
        acknowledge(role, OWN_POLICY)
        return role
