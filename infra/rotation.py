"""The rotation of database passwords: one function, and a schedule for each secret (docs/passwords.md)."""

from collections.abc import Sequence

from aws_cdk import Aws, Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.constructs.function import Function
from infra.network import FunctionNetwork
from infra.settings import Settings

_WINDOW = "4h"
"""From midnight UTC: a window with a rate begins there, and there is no other way to say every so many days.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_schedule.html
"""


class PasswordRotation(Construct):
    """Has Secrets Manager change the admin's password and those of `secrets`, whose logins alternate.

    It belongs into the stack of the secrets, and only where `settings.rotate_passwords_days` says how often.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: FunctionNetwork | None,
        key: kms.IKey,
        admin_secret: secretsmanager.ISecret,
        secrets: Sequence[secretsmanager.ISecret],
    ) -> None:
        super().__init__(scope, construct_id)
        if settings.rotate_passwords_days is None:
            raise ValueError("rotate_passwords_days is None: passwords are not rotated in this environment")
        rotated = [admin_secret, *secrets]
        function = Function(
            self,
            "Rotation",
            settings=settings,
            invoked_by="secrets manager",
            network=network,
            key=key,
            name=settings.names.rotation,
            folder="rotation",
            description="Changes the passwords of database logins, without downtime",
            # Four attempts to log in at 5 s each, and Secrets Manager's own patience.
            timeout=Duration.seconds(60),
            memory_mib=256,
            environment={"ADMIN_SECRET_ARN": admin_secret.secret_arn},
        )
        self.function = function.function
        self._grant(rotated, key)
        # Any secret of the account could name this function, which then may not so much as read it.
        self.function.add_permission(
            "SecretsManager",
            principal=iam.ServicePrincipal("secretsmanager.amazonaws.com"),
            source_account=Aws.ACCOUNT_ID,
        )
        for secret in rotated:
            schedule = secretsmanager.CfnRotationSchedule(
                self,
                f"{secret.node.id}Schedule",
                secret_id=secret.secret_arn,
                rotation_lambda_arn=self.function.function_arn,
                rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(
                    schedule_expression=_every(settings.rotate_passwords_days), duration=_WINDOW
                ),
                # On a first deployment there is no database yet, or no role in it: the migrator runs later. Secrets
                # Manager only tests that it can invoke the function, which then finds no new password to try.
                rotate_immediately_on_update=False,
            )
            schedule.node.add_dependency(function)

    def _grant(self, secrets: Sequence[secretsmanager.ISecret], key: kms.IKey) -> None:
        """What a rotation needs of exactly these secrets. Passwords are made by the function itself.

        https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets-required-permissions-function.html
        """
        arns = [secret.secret_arn for secret in secrets]
        self.function.add_to_role_policy(
            iam.PolicyStatement(
                actions=[
                    "secretsmanager:DescribeSecret",
                    "secretsmanager:GetSecretValue",
                    "secretsmanager:PutSecretValue",
                    "secretsmanager:UpdateSecretVersionStage",
                ],
                resources=arns,
            )
        )
        self.function.add_to_role_policy(
            iam.PolicyStatement(
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                resources=[key.key_arn],
                conditions={
                    "StringEquals": {
                        "kms:ViaService": f"secretsmanager.{Aws.REGION}.amazonaws.com",
                        "kms:EncryptionContext:SecretARN": arns,
                    }
                },
            )
        )


def _every(days: int) -> str:
    # The manual knows no unit but `hours` and `days`, and does not say what it makes of one.
    return f"rate({days} days)" if days > 1 else "rate(24 hours)"
