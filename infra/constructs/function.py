"""A Lambda function with a role of its own that may write its own log group and nothing else."""

from collections.abc import Mapping
from typing import Any, Literal

from aws_cdk import ArnFormat, Aws, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.constructs.log_group import encrypted_log_group
from infra.constructs.retention import removal_policy
from infra.nag import OWN_POLICY, acknowledge
from infra.network import FunctionNetwork
from infra.packaging import function_package
from infra.settings import Settings

Invoker = Literal["queue", "schedule", "deployment", "secrets manager"]
_WHY_NO_RESERVATION: dict[Invoker, str] = {
    "queue": "Its event source's MaximumConcurrency caps it; a reservation would be taken from the account's pool.",
    "schedule": "Its schedule starts one at a time.",
    "deployment": "A deployment invokes it once and waits for it.",
    "secrets manager": "Secrets Manager invokes it for one step of one rotation at a time.",
}
_WHY_NO_DEAD_LETTERS: dict[Invoker, str] = {
    "queue": "Never invoked asynchronously: what it cannot process stays in its queue, which has dead letters.",
    "schedule": "The next run does the same work, and a run that fails or is missing raises an alarm.",
    "deployment": "Invoked synchronously: its failure fails the deployment.",
    "secrets manager": "Secrets Manager tries a rotation again by itself, and a rotation that fails raises an alarm.",
}
_ONE_AT_A_TIME: dict[Invoker, dict[str, Any]] = {
    "schedule": {"retry_attempts": 0, "max_event_age": Duration.minutes(5)}
}
"""Lambda would run a failed event twice more, beside the runs that come after it, and keep what it cannot run for hours.

https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
"""


class Function(Construct):
    """One of the functions under `lambdas/`, packaged for the environment's platform.

    What it may do is granted on `.function` by the stack; here it may only write its own logs.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        name: str,
        folder: str,
        description: str,
        timeout: Duration,
        memory_mib: int,
        environment: Mapping[str, str],
        network: FunctionNetwork | None,
        key: kms.IKey,
        invoked_by: Invoker,
    ) -> None:
        super().__init__(scope, construct_id)
        log_group = encrypted_log_group(
            self,
            "Logs",
            settings=settings,
            name=f"/aws/lambda/{name}",
            key=key,
            removal_policy=removal_policy(settings),
        )
        # Not AWSLambdaBasicExecutionRole: that one may create and write any log group of the account.
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"What {name} may do",
        )
        log_group.grant_write(role)
        if network is not None:
            _let_attach(role, name)
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            description=description,
            runtime=lambda_.Runtime.PYTHON_3_14,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"lambdas.{folder}.handler.handler",
            code=lambda_.Code.from_asset(str(function_package(folder, settings.lambda_platform))),
            role=role,
            log_group=log_group,
            vpc=network.vpc if network else None,
            vpc_subnets=network.subnets if network else None,
            security_groups=[network.security_group] if network else None,
            timeout=timeout,
            memory_size=memory_mib,
            **_ONE_AT_A_TIME.get(invoked_by, {}),
            environment={
                "POWERTOOLS_SERVICE_NAME": name,
                "POWERTOOLS_LOG_LEVEL": "INFO",
                **environment,
            },
        )
        acknowledge(role, OWN_POLICY)
        reasons = {
            "NIST.800.53.R5-LambdaConcurrency": _WHY_NO_RESERVATION[invoked_by],
            "NIST.800.53.R5-LambdaDLQ": _WHY_NO_DEAD_LETTERS[invoked_by],
        }
        if network is None:
            reasons["NIST.800.53.R5-LambdaInsideVPC"] = "Nothing that it talks to is in a VPC of ours."
        acknowledge(self.function, reasons)


def _let_attach(role: iam.Role, function_name: str) -> None:
    """Lets the Lambda service attach the function to its subnets, and not the function's own code.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-best-practice
    """
    function = Stack.of(role).format_arn(
        service="lambda", resource="function", resource_name=function_name, arn_format=ArnFormat.COLON_RESOURCE_NAME
    )
    interfaces = [
        "ec2:CreateNetworkInterface",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSubnets",
        "ec2:DeleteNetworkInterface",
        "ec2:AssignPrivateIpAddresses",
        "ec2:UnassignPrivateIpAddresses",
    ]
    in_region = {"StringEquals": {"aws:RequestedRegion": Aws.REGION}}
    role.add_to_policy(iam.PolicyStatement(actions=interfaces, resources=["*"], conditions=in_region))
    role.add_to_policy(
        iam.PolicyStatement(
            effect=iam.Effect.DENY,
            actions=interfaces,
            resources=["*"],
            conditions={"ArnEquals": {"lambda:SourceFunctionArn": function}},
        )
    )
    acknowledge(
        role,
        {
            "AwsSolutions-IAM5[Resource::*]": "Lambda's own calls when it attaches the function to its subnets: an "
            "interface has no ARN before it exists. The function's code is denied them."
        },
    )
