"""Clients of the AWS services of an environment: the emulator's for `local`, the account's otherwise."""

from collections.abc import Mapping

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from infra.settings import load
from local.session import AwsSession, emulator_session
from ops.errors import UserError


def session_for(environment: str) -> AwsSession:
    """Clients for an environment. Raises UserError when it is unknown, or `local` and not running."""
    settings = load(environment)
    if environment == "local":
        from local.stack import running_emulator

        return emulator_session(running_emulator().port)
    return AwsSession(boto3.Session(region_name=settings.region))


def outputs(aws: AwsSession, stack: str) -> Mapping[str, str]:
    """The outputs of a deployed stack. Raises UserError when it is not deployed or cannot be read."""
    try:
        (description,) = aws.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        reason = error.response["Error"].get("Message", "")
        raise UserError(f"stack {stack} cannot be read ({reason}): deploy it, and check the credentials") from None
    return {output["OutputKey"]: output["OutputValue"] for output in description.get("Outputs", [])}


def aws_line(error: BotoCoreError | ClientError) -> str:
    """What AWS, or the way to it, would not do, in one line that says what to check."""
    if isinstance(error, NoRegionError):
        return "no AWS region: set AWS_REGION, or `region` in infra/settings.py"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return "no AWS credentials: set AWS_PROFILE, or log in with aws sso login"
    text = " ".join(str(error).split())
    return f"AWS refused: {text}" if isinstance(error, ClientError) else f"AWS cannot be reached: {text}"
