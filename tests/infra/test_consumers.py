"""The logins of those who only read, as templates: a secret each, rotated, known to the migrator and nobody else."""

import json

import pytest

from infra.connections import connection_budget
from tests.infra.templates import Synthesised, statements, synthesised

_SECRET = "AWS::SecretsManager::Secret"
_FUNCTION = "AWS::Lambda::Function"
CONSUMERS = ("grafana", "scada")


@pytest.mark.parametrize("environment", ["local", "dev", "prod"])
def test_each_has_a_secret_like_the_loaders(environment: str) -> None:
    template = synthesised(environment).of("database")
    names = template.settings.names
    loader = template.only(_SECRET, Name=names.secret("loader"))
    expected = json.loads(loader["GenerateSecretString"]["SecretStringTemplate"])
    for consumer in CONSUMERS:
        secret = template.only(_SECRET, Name=names.secret(consumer))
        assert json.loads(secret["GenerateSecretString"]["SecretStringTemplate"]) == expected | {"username": consumer}
        assert secret["KmsKeyId"] == loader["KmsKeyId"]
        assert {
            name: value for name, value in secret["GenerateSecretString"].items() if name != "SecretStringTemplate"
        } == {name: value for name, value in loader["GenerateSecretString"].items() if name != "SecretStringTemplate"}


def migrator(template: Synthesised) -> tuple[str, dict[str, object]]:
    """Its role, and its environment."""
    function = template.of("ingest").only(_FUNCTION, FunctionName=template.settings.names.migrator)
    return function["Role"]["Fn::GetAtt"][0], function["Environment"]["Variables"]


def test_the_migrator_knows_them_and_how_many_connections_each_may_hold() -> None:
    template = synthesised("prod")
    limits = connection_budget(template.settings).limits
    _, told = migrator(template)
    for consumer in CONSUMERS:
        assert consumer.capitalize() in json.dumps(told[f"{consumer.upper()}_SECRET_ARN"])
        assert told[f"{consumer.upper()}_CONNECTION_LIMIT"] == str(limits[consumer])


def test_the_migrator_may_store_where_the_database_is_in_these_secrets_only() -> None:
    template = synthesised("prod").of("ingest")
    role, told = migrator(template)
    granted = statements(template, role)
    assert granted["secretsmanager:PutSecretValue"] == [told["GRAFANA_SECRET_ARN"], told["SCADA_SECRET_ARN"]]
    assert "secretsmanager:UpdateSecret" not in granted
    for policy in template.of_type("AWS::IAM::Policy").values():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            if "kms:GenerateDataKey" in statement["Action"] and {"Ref": role} in policy["Properties"]["Roles"]:
                assert "secretsmanager." in json.dumps(statement["Condition"]["StringEquals"]["kms:ViaService"])


def test_no_function_but_migrator_and_rotation_may_read_them() -> None:
    template = synthesised("prod")
    for identity, policy in template.everywhere("AWS::IAM::Policy").items():
        text = json.dumps(policy["Properties"]["PolicyDocument"])
        if "Grafana" in text or "Scada" in text:
            assert "Migrator" in identity or "Rotation" in identity, identity


def test_they_are_rotated_as_the_loaders_is() -> None:
    template = synthesised("prod").of("database")
    schedules = template.of_type("AWS::SecretsManager::RotationSchedule").values()
    rotated = {body["Properties"]["SecretId"]["Ref"] for body in schedules}
    assert rotated == set(template.of_type(_SECRET))
    assert len(rotated) == 2 + len(CONSUMERS)


def test_a_login_that_is_not_asked_for_has_no_secret_and_no_connections() -> None:
    template = synthesised("prod", scada_login="false")
    settings = template.settings
    names = {body["Properties"]["Name"] for body in template.of("database").of_type(_SECRET).values()}
    assert names == {settings.names.secret(role) for role in ("admin", "loader", "grafana")}
    _, told = migrator(template)
    assert not [name for name in told if name.startswith("SCADA")]
    assert "scada" not in connection_budget(settings).clients
