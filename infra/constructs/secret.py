"""A secret under the environment's key, whose readers may use that key through Secrets Manager and not otherwise."""

from collections.abc import Sequence
from typing import Any

from aws_cdk import Aws
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct


class KeyedSecret(secretsmanager.Secret):
    """A secret encrypted under `key`.

    CDK's own writes each reader into the key's policy, which would make the key's stack depend on all others, and which
    for a key known by its ARN is not written at all. Here the reader's own policy says it.
    """

    def __init__(self, scope: Construct, construct_id: str, *, key: kms.IKey, **kwargs: Any) -> None:
        self._key_arn = key.key_arn
        # Known by its ARN only, so that CDK leaves its policy alone.
        named = kms.Key.from_key_arn(scope, f"{construct_id}Key", key.key_arn)
        super().__init__(scope, construct_id, encryption_key=named, **kwargs)

    def grant_read(self, grantee: iam.IGrantable, version_stages: Sequence[str] | None = None) -> iam.Grant:
        """Lets `grantee` read the secret's values, and have Secrets Manager decrypt them for it."""
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["kms:Decrypt"],
                resources=[self._key_arn],
                conditions={"StringEquals": {"kms:ViaService": f"secretsmanager.{Aws.REGION}.amazonaws.com"}},
            )
        )
        return super().grant_read(grantee, version_stages)

    def grant_put(self, grantee: iam.IGrantable) -> None:
        """Lets `grantee` store new values, and have Secrets Manager encrypt them for it."""
        via = {"StringEquals": {"kms:ViaService": f"secretsmanager.{Aws.REGION}.amazonaws.com"}}
        for actions, resource, conditions in (
            (["kms:Decrypt", "kms:GenerateDataKey"], self._key_arn, via),
            (["secretsmanager:PutSecretValue"], self.secret_arn, None),
        ):
            grantee.grant_principal.add_to_principal_policy(
                iam.PolicyStatement(actions=actions, resources=[resource], conditions=conditions)
            )
