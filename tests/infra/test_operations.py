"""The Operations stack of every environment: what runs when, and what it may do."""

import json
from typing import Any

import pytest

from infra.connections import connection_budget
from tests.infra.templates import ENVIRONMENTS, Synthesised, statements, synthesised
from tests.infra.test_ingest import function, role_of, text

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
SECRET = {"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"}


@pytest.fixture(params=ENVIRONMENTS)
def template(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param).of("operations")


def granted_to(template: Synthesised, name: str) -> dict[str, list[Any]]:
    """What a function may do, beyond using the environment's key."""
    role = role_of(function(template, name))
    assert "ManagedPolicyArns" not in template.template["Resources"][role]["Properties"]
    return {action: on for action, on in statements(template, role).items() if not action.startswith("kms:")}


def test_the_sweeper_may_list_raw_objects_announce_them_and_read_its_secret(template: Synthesised) -> None:
    names = template.settings.names
    granted = granted_to(template, names.sweeper)
    assert set(granted) == {"s3:ListBucketVersions", "sqs:SendMessage"} | SECRET | LOGS
    ingest = names.stack("ingest")
    [bucket] = granted["s3:ListBucketVersions"]
    [queue] = granted["sqs:SendMessage"]
    [secret] = granted["secretsmanager:GetSecretValue"]
    assert ingest in text(bucket)
    assert "Raw" in text(bucket)
    assert ingest in text(queue)
    assert "ObjectsQueue" in text(queue)
    assert names.stack("database") in text(secret)
    assert "Loader" in text(secret)
    policies = json.dumps(list(template.of_type("AWS::IAM::Policy").values()))
    assert '"Condition": {"StringLike": {"s3:prefix": "year=*"}}' in policies


def test_maintenance_may_read_the_loaders_secret_and_nothing_else(template: Synthesised) -> None:
    names = template.settings.names
    granted = granted_to(template, names.maintenance)
    assert set(granted) == SECRET | LOGS
    [secret] = granted["secretsmanager:GetSecretValue"]
    assert names.stack("database") in text(secret)
    assert "Loader" in text(secret)


def test_runs_of_maintenance_that_overlap_find_a_connection_each(template: Synthesised) -> None:
    """It runs every minute, for as long as there is something to do; one run more may be about to end."""
    names = template.settings.names
    minutes = function(template, names.maintenance)["Timeout"] / 60
    assert connection_budget(template.settings).loader[names.maintenance] >= minutes + 1


def test_the_watch_may_read_its_secret_and_the_probe_may_ask_for_the_endpoint(template: Synthesised) -> None:
    names = template.settings.names
    granted = granted_to(template, names.watch)
    assert set(granted) == SECRET | LOGS
    [secret] = granted["secretsmanager:GetSecretValue"]
    assert names.stack("database") in text(secret)
    assert "Loader" in text(secret)
    if template.settings.probe_iot:
        granted = granted_to(template, names.probe)
        assert set(granted) == {"iot:DescribeEndpoint"} | LOGS
        assert granted["iot:DescribeEndpoint"] == ["*"], "it has no resources"


def test_nothing_may_invoke_a_function_but_its_schedule(template: Synthesised) -> None:
    assert "lambda:InvokeFunction" not in json.dumps(list(template.of_type("AWS::IAM::Policy").values()))
    permitted = [body["Properties"] for body in template.of_type("AWS::Lambda::Permission").values()]
    assert {permission["Principal"] for permission in permitted} == {"events.amazonaws.com"}
    assert all("SourceArn" in permission for permission in permitted)


def test_everything_runs_when_it_should(template: Synthesised) -> None:
    settings = template.settings
    names = {
        template.logical_id("AWS::Lambda::Function", FunctionName=properties["FunctionName"]): properties[
            "FunctionName"
        ]
        for properties in (body["Properties"] for body in template.of_type("AWS::Lambda::Function").values())
    }
    schedules = {}
    for rule in template.of_type("AWS::Events::Rule").values():
        [target] = rule["Properties"]["Targets"]
        assert rule["Properties"]["State"] == "ENABLED"
        assert target["RetryPolicy"]["MaximumRetryAttempts"] == 0
        of = names[target["Arn"]["Fn::GetAtt"][0]], json.loads(target["Input"]).get("whole")
        schedules[of] = rule["Properties"]["ScheduleExpression"]
    expected = {
        (settings.names.sweeper, False): f"rate({settings.sweep_interval_minutes} minutes)",
        (settings.names.sweeper, True): "cron(17 3 * * ? *)",
        (settings.names.watch, None): "rate(1 minute)",
        (settings.names.maintenance, None): "rate(1 minute)",
    }
    if settings.probe_iot:
        expected[settings.names.probe, None] = "rate(1 minute)"
    assert schedules == expected


def test_a_failed_run_is_not_run_again_beside_the_next(template: Synthesised) -> None:
    functions = template.of_type("AWS::Lambda::Function")
    configurations = [body["Properties"] for body in template.of_type("AWS::Lambda::EventInvokeConfig").values()]
    assert {configuration["FunctionName"]["Ref"] for configuration in configurations} == set(functions)
    for configuration in configurations:
        assert configuration["Qualifier"] == "$LATEST"
        assert configuration["MaximumRetryAttempts"] == 0
        assert configuration["MaximumEventAgeInSeconds"] == 300


def test_what_talks_to_the_database_stands_beside_it_and_the_probe_outside(template: Synthesised) -> None:
    names = template.settings.names
    for name in (names.sweeper, names.watch, names.maintenance):
        assert ("VpcConfig" in function(template, name)) == (template.settings.database == "self_hosted"), name
    probes = [
        body["Properties"]
        for body in template.of_type("AWS::Lambda::Function").values()
        if body["Properties"]["FunctionName"] == names.probe
    ]
    assert len(probes) == (template.settings.environment != "local")
    assert all("VpcConfig" not in probe for probe in probes)


def test_a_run_of_the_watch_or_the_probe_is_over_before_the_next(template: Synthesised) -> None:
    names = template.settings.names
    for properties in (body["Properties"] for body in template.of_type("AWS::Lambda::Function").values()):
        long = {names.sweeper, names.maintenance}
        assert properties["FunctionName"] in long or properties["Timeout"] < 60
        assert "ReservedConcurrentExecutions" not in properties


def test_the_watch_knows_what_it_needs(template: Synthesised) -> None:
    settings = template.settings
    variables = function(template, settings.names.watch)["Environment"]["Variables"]
    assert variables["OFFLINE_AFTER_MINUTES"] == str(settings.offline_after_minutes)
    assert variables["RETENTION_DAYS"] == str(settings.retention_days)
    assert text(variables["DATABASE_SECRET_ARN"]).startswith("<")


def test_the_sweeper_knows_what_it_needs(template: Synthesised) -> None:
    settings = template.settings
    variables = function(template, settings.names.sweeper)["Environment"]["Variables"]
    assert variables["RETENTION_DAYS"] == str(settings.retention_days)
    assert variables["LOOKBACK_HOURS"] == str(settings.sweep_lookback_hours)
    assert variables["GRACE_MINUTES"] == str(settings.sweep_grace_minutes)
    assert variables["RESEND_HOURS"] == str(settings.sweep_resend_hours)
    assert text(variables["DATABASE_SECRET_ARN"]).startswith("<")


def test_a_run_looks_back_beyond_the_grace_time_of_the_run_before() -> None:
    for environment in ENVIRONMENTS:
        settings = synthesised(environment).settings
        assert settings.sweep_lookback_hours * 60 > settings.sweep_grace_minutes + 2 * settings.sweep_interval_minutes


def test_logs_are_kept_for_a_while_only(template: Synthesised) -> None:
    groups = [body["Properties"] for body in template.of_type("AWS::Logs::LogGroup").values()]
    functions = [body["Properties"] for body in template.of_type("AWS::Lambda::Function").values()]
    assert {group["LogGroupName"] for group in groups} == {
        f"/aws/lambda/{properties['FunctionName']}" for properties in functions
    }
    assert {group["RetentionInDays"] for group in groups} == {template.settings.log_retention_days}
