"""Password rotation as a template: who may invoke it, what it may do, and when each secret is rotated.

The construct stands in a stack of its own here, with secrets like those of the Database stack.
"""

from functools import cache
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Template

from infra.constructs.secret import KeyedSecret
from infra.network import FunctionNetwork
from infra.rotation import PasswordRotation
from infra.settings import load
from tests.infra.templates import Synthesised, statements

_FUNCTION = "AWS::Lambda::Function"


@cache
def synthesised(*, in_network: bool) -> Synthesised:
    settings = load("prod")
    app = App()
    base = Stack(app, "base")
    key = kms.Key(base, "Key")
    stack = Stack(app, "database")
    network = None
    if in_network:
        vpc = ec2.Vpc(base, "Vpc", max_azs=1, nat_gateways=0)
        group = ec2.SecurityGroup(base, "Group", vpc=vpc)
        network = FunctionNetwork(vpc, ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED), group)
    admin, loader = (KeyedSecret(stack, name, key=key) for name in ("Admin", "Loader"))
    KeyedSecret(stack, "Foreign", key=key)
    PasswordRotation(
        stack, "Rotation", settings=settings, network=network, key=key, admin_secret=admin, secrets=[loader]
    )
    return Synthesised(settings, {"database": dict(Template.from_stack(stack).to_json())}, "database")


@pytest.fixture(params=[True, False], ids=["in a network", "outside"])
def template(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(in_network=request.param)


def secret(template: Synthesised, name: str) -> dict[str, str]:
    [found] = [identity for identity in template.of_type("AWS::SecretsManager::Secret") if identity.startswith(name)]
    return {"Ref": found}


def role(template: Synthesised) -> str:
    arn: dict[str, list[str]] = template.only(_FUNCTION)["Role"]
    return arn["Fn::GetAtt"][0]


def allowed(template: Synthesised) -> list[dict[str, Any]]:
    return [
        statement
        for policy in template.of_type("AWS::IAM::Policy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
    ]


def test_it_may_rotate_exactly_the_two_secrets() -> None:
    template = synthesised(in_network=False)
    granted = statements(template, role(template))
    both = [secret(template, "Admin"), secret(template, "Loader")]
    assert {action: arns for action, arns in granted.items() if action.startswith("secretsmanager:")} == {
        "secretsmanager:DescribeSecret": both,
        "secretsmanager:GetSecretValue": both,
        "secretsmanager:PutSecretValue": both,
        "secretsmanager:UpdateSecretVersionStage": both,
    }
    assert {action for action in granted if not action.startswith("secretsmanager:")} == {
        "kms:Decrypt",
        "kms:GenerateDataKey",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }
    assert "*" not in [resource for resources in granted.values() for resource in resources]


def test_it_may_use_the_key_through_secrets_manager_for_these_secrets_only(template: Synthesised) -> None:
    [statement] = [each for each in allowed(template) if "kms:GenerateDataKey" in each["Action"]]
    condition = statement["Condition"]["StringEquals"]
    assert condition["kms:EncryptionContext:SecretARN"] == [secret(template, "Admin"), secret(template, "Loader")]
    assert condition["kms:ViaService"] == {
        "Fn::Join": ["", ["secretsmanager.", {"Ref": "AWS::Region"}, ".amazonaws.com"]]
    }


def test_only_secrets_manager_of_this_account_may_invoke_it(template: Synthesised) -> None:
    [permission] = template.of_type("AWS::Lambda::Permission").values()
    assert permission["Properties"] == {
        "Action": "lambda:InvokeFunction",
        "FunctionName": {"Fn::GetAtt": [template.logical_id(_FUNCTION), "Arn"]},
        "Principal": "secretsmanager.amazonaws.com",
        "SourceAccount": {"Ref": "AWS::AccountId"},
    }


def test_each_secret_is_rotated_every_so_many_days_at_night_and_not_while_deploying(template: Synthesised) -> None:
    schedules = template.of_type("AWS::SecretsManager::RotationSchedule").values()
    function = template.logical_id(_FUNCTION)
    assert [schedule["Properties"]["SecretId"] for schedule in schedules] == [
        secret(template, "Admin"),
        secret(template, "Loader"),
    ]
    [permission] = template.of_type("AWS::Lambda::Permission")
    [policy] = template.of_type("AWS::IAM::Policy")
    for schedule in schedules:
        assert schedule["Properties"]["RotationRules"] == {"ScheduleExpression": "rate(30 days)", "Duration": "4h"}
        assert schedule["Properties"]["RotateImmediatelyOnUpdate"] is False
        assert schedule["Properties"]["RotationLambdaARN"] == {"Fn::GetAtt": [function, "Arn"]}
        # Secrets Manager invokes the function as soon as it knows of it.
        assert {permission, policy} <= set(schedule["DependsOn"])


def test_it_stands_where_the_database_is_and_knows_nothing_but_an_arn(template: Synthesised) -> None:
    function = template.only(_FUNCTION)
    assert ("VpcConfig" in function) == (template is synthesised(in_network=True))
    assert function["FunctionName"] == "iot-database-rotation"
    assert function["Timeout"] >= 60
    variables = function["Environment"]["Variables"]
    assert variables["ADMIN_SECRET_ARN"] == secret(template, "Admin")
    assert {name for name in variables if not name.startswith("POWERTOOLS_")} == {"ADMIN_SECRET_ARN"}
