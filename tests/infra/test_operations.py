"""The Operations stack of every environment: what runs when, and what it may do."""

import json

import pytest

from tests.infra.templates import ENVIRONMENTS, Synthesised, statements, synthesised
from tests.infra.test_ingest import function, role_of, text


@pytest.fixture(params=ENVIRONMENTS)
def template(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param).of("operations")


def test_the_sweeper_may_list_raw_objects_announce_them_read_its_secret_and_go_on(template: Synthesised) -> None:
    names = template.settings.names
    role = role_of(function(template, names.sweeper))
    granted = statements(template, role)
    assert set(granted) == {
        "s3:ListBucketVersions",
        "sqs:SendMessage",
        "lambda:InvokeFunction",
        "secretsmanager:GetSecretValue",
        "secretsmanager:DescribeSecret",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }
    ingest = names.stack("ingest")
    [bucket] = granted["s3:ListBucketVersions"]
    [queue] = granted["sqs:SendMessage"]
    [itself] = granted["lambda:InvokeFunction"]
    [secret] = granted["secretsmanager:GetSecretValue"]
    assert ingest in text(bucket)
    assert "Raw" in text(bucket)
    assert ingest in text(queue)
    assert "ObjectsQueue" in text(queue)
    assert text(itself).endswith(f":function:{names.sweeper}")
    assert names.stack("database") in text(secret)
    assert "Loader" in text(secret)
    policies = json.dumps(list(template.of_type("AWS::IAM::Policy").values()))
    assert '"Condition": {"StringLike": {"s3:prefix": "year=*"}}' in policies
    assert "ManagedPolicyArns" not in template.template["Resources"][role]["Properties"]


def test_it_sweeps_the_last_hours_every_few_minutes_and_everything_once_a_day(template: Synthesised) -> None:
    sweeper = template.logical_id("AWS::Lambda::Function", FunctionName=template.settings.names.sweeper)
    schedules = {}
    for rule in template.of_type("AWS::Events::Rule").values():
        [target] = rule["Properties"]["Targets"]
        assert target["Arn"] == {"Fn::GetAtt": [sweeper, "Arn"]}
        assert rule["Properties"]["State"] == "ENABLED"
        schedules[json.loads(target["Input"])["whole"]] = rule["Properties"]["ScheduleExpression"]
    assert schedules == {
        False: f"rate({template.settings.sweep_interval_minutes} minutes)",
        True: "cron(17 3 * * ? *)",
    }
    permitted = [body["Properties"] for body in template.of_type("AWS::Lambda::Permission").values()]
    assert {permission["Principal"] for permission in permitted} == {"events.amazonaws.com"}
    assert all("SourceArn" in permission for permission in permitted)


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


def test_the_sweepers_log_is_kept_for_a_while_only(template: Synthesised) -> None:
    [group] = template.of_type("AWS::Logs::LogGroup").values()
    assert group["Properties"]["LogGroupName"] == f"/aws/lambda/{template.settings.names.sweeper}"
    assert group["Properties"]["RetentionInDays"] == template.settings.log_retention_days
