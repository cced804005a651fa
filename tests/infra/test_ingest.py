"""The Ingest stack of every environment: who may do what, what is encrypted, what triggers what."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.pipeline import rule_file
from lambdas.shared.stamp import decode_stamps
from ops.errors import UserError
from ops.paths import ROOT
from tests.infra.templates import ATTACHING, ENVIRONMENTS, Synthesised, statements, synthesised

THING = "${iot:Connection.Thing.ThingName}"


@pytest.fixture(params=ENVIRONMENTS)
def template(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param)


def text(value: Any) -> str:
    """A value with its Fn::Join and references written out, enough to read an ARN."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(text(part) for part in parts)
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return f"<{name}>"
        case {"Fn::ImportValue": name}:
            return f"<{text(name)}>"
    return str(value)


def function(template: Synthesised, name: str) -> dict[str, Any]:
    return template.only("AWS::Lambda::Function", FunctionName=name)


def is_data_key(reference: Any) -> bool:
    """Whether a property names the key of the Base stack."""
    return ":ExportsOutputFnGetAttData" in text(reference)


def role_of(properties: dict[str, Any]) -> str:
    return str(properties["Role"]["Fn::GetAtt"][0])


def test_a_device_may_connect_as_itself_and_use_its_own_topics_only(template: Synthesised) -> None:
    policy = template.only("AWS::IoT::Policy")
    names = template.settings.names
    allowed = {
        (action, text(resource).partition(":<AWS::AccountId>:")[2])
        for statement in policy["PolicyDocument"]["Statement"]
        for action in [statement["Action"]]
        for resource in (statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]])
    }
    assert allowed == {
        ("iot:Connect", f"client/{THING}"),
        ("iot:Publish", f"topic/{names.topic}/{THING}"),
        ("iot:Publish", f"topic/$aws/rules/{names.rule}/{names.topic}/{THING}"),
        ("iot:Publish", f"topic/{names.status_topic}/{THING}"),
        ("iot:Publish", f"topic/$aws/things/{THING}/shadow/update"),
        ("iot:Publish", f"topic/$aws/things/{THING}/jobs/start-next"),
        ("iot:Publish", f"topic/$aws/things/{THING}/jobs/*/update"),
        ("iot:Subscribe", f"topicfilter/$aws/things/{THING}/shadow/update/accepted"),
        ("iot:Subscribe", f"topicfilter/$aws/things/{THING}/jobs/*"),
        ("iot:Receive", f"topic/$aws/things/{THING}/shadow/update/accepted"),
        ("iot:Receive", f"topic/$aws/things/{THING}/jobs/*"),
    }
    for statement in policy["PolicyDocument"]["Statement"]:
        assert statement["Condition"] == {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
    assert policy["PolicyName"] == names.device_policy


def test_the_rule_stamps_what_a_device_must_not_forge(template: Synthesised) -> None:
    names = template.settings.names
    payload = template.only("AWS::IoT::TopicRule", RuleName=names.rule)["TopicRulePayload"]
    secret = template.logical_id("AWS::SecretsManager::Secret", Name=names.stamp_secret)
    reference = f"{{{{resolve:secretsmanager:<{secret}>:SecretString:stamp::}}}}"
    assert text(payload["Sql"]) == (
        f"SELECT *, topic(3) AS device_id, timestamp() AS received_at, '{reference}' AS stamp FROM '{names.topic}/+'"
    )
    assert payload["AwsIotSqlVersion"] == "2016-03-23"
    assert payload["RuleDisabled"] is False
    [action] = payload["Actions"]
    assert action["Firehose"]["Separator"] == "\n"
    assert action["Firehose"]["BatchMode"] is False
    assert text(action["Firehose"]["DeliveryStreamName"]) in {
        names.stream,
        f"<{template.logical_id('AWS::KinesisFirehose::DeliveryStream')}>",
    }


def test_a_last_will_goes_to_the_shadow_of_who_left_it_and_nowhere_else(template: Synthesised) -> None:
    names = template.settings.names
    payload = template.only("AWS::IoT::TopicRule", RuleName=names.status_rule)["TopicRulePayload"]
    assert payload["Sql"] == f"SELECT * FROM '{names.status_topic}/+'"
    assert not topic_matches(f"{names.topic}/+", f"{names.status_topic}/any"), "or it would be taken for telemetry"
    assert "ErrorAction" not in payload, "the error queue ends in quarantine, among telemetry"
    [action] = payload["Actions"]
    assert action["Republish"]["Topic"] == "$$aws/things/${topic(3)}/shadow/update"
    assert action["Republish"]["Qos"] == 1
    role = action["Republish"]["RoleArn"]["Fn::GetAtt"][0]
    [(action_, [resource])] = statements(template, role).items()
    assert action_ == "iot:Publish"
    assert text(resource).endswith(":topic/$aws/things/*/shadow/update")
    [trust] = template.template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "iot.amazonaws.com"}
    assert text(trust["Condition"]["ArnEquals"]["aws:SourceArn"]).endswith(f"rule/{names.status_rule}")
    rule = template.logical_id("AWS::IoT::TopicRule", RuleName=names.status_rule)
    assert role in template.template["Resources"][rule]["DependsOn"]


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter without `#` takes a topic."""
    levels = list(zip(topic_filter.split("/"), topic.split("/"), strict=False))
    return topic_filter.count("/") == topic.count("/") and all(level in {"+", name} for level, name in levels)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"actions": [{"republish": {"topic": "$$aws/things/x/shadow/update"}}]}, "must republish to"),
        ({"sql": "SELECT * FROM 'iot/#'"}, "must read FROM 'iot/status/\\+'"),
        ({"errorAction": {"sqs": {}}}, "leave it out"),
        ({"actions": []}, "one republish action"),
    ],
)
def test_a_rule_file_that_would_reach_further_is_refused(
    changed: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = json.loads((ROOT / "iot_rules" / "device_status_to_shadow.json").read_text())
    (tmp_path / "rule.json").write_text(json.dumps(rule | changed))
    monkeypatch.setattr(rule_file, "_FOLDER", tmp_path)
    with pytest.raises(UserError, match=f"^iot_rules/rule.json: .*{said}"):
        rule_file.status_rule_payload("rule.json", topic="iot/status", role_arn="arn")


def test_the_stamp_is_made_by_secrets_manager_and_can_stand_in_sql_as_it_is(template: Synthesised) -> None:
    secret = template.only("AWS::SecretsManager::Secret", Name=template.settings.names.stamp_secret)
    assert "SecretString" not in secret
    made = secret["GenerateSecretString"]
    assert made["GenerateStringKey"] == "stamp"
    assert made["ExcludePunctuation"] is True
    assert not made.get("IncludeSpace")
    alphanumeric = "A" * made["PasswordLength"]
    stamps = decode_stamps(json.dumps(json.loads(made["SecretStringTemplate"]) | {"stamp": alphanumeric}), "it")
    assert stamps.valid == {alphanumeric}
    assert made["PasswordLength"] >= 32
    assert is_data_key(secret["KmsKeyId"])


def test_the_rules_roles_may_put_records_and_send_errors_and_only_iot_takes_them_on(template: Synthesised) -> None:
    payload = template.only("AWS::IoT::TopicRule", RuleName=template.settings.names.rule)["TopicRulePayload"]
    errors = template.logical_id("AWS::SQS::Queue", QueueName=template.settings.names.rule_error_queue)
    stream = template.logical_id("AWS::KinesisFirehose::DeliveryStream")
    to_stream = payload["Actions"][0]["Firehose"]["RoleArn"]["Fn::GetAtt"][0]
    to_errors = payload["ErrorAction"]["Sqs"]["RoleArn"]["Fn::GetAtt"][0]
    assert statements(template, to_stream) == {
        "firehose:PutRecord": [{"Fn::GetAtt": [stream, "Arn"]}],
        "firehose:PutRecordBatch": [{"Fn::GetAtt": [stream, "Arn"]}],
    }
    granted = statements(template, to_errors)
    assert granted.keys() == {"sqs:SendMessage", "kms:GenerateDataKey", "kms:Decrypt"}
    assert granted["sqs:SendMessage"] == [{"Fn::GetAtt": [errors, "Arn"]}]
    assert payload["ErrorAction"]["Sqs"]["QueueUrl"] == {"Ref": errors}
    for role in (to_stream, to_errors):
        [trust] = template.template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "iot.amazonaws.com"}
        assert trust["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
        assert text(trust["Condition"]["ArnEquals"]["aws:SourceArn"]).endswith(f"rule/{template.settings.names.rule}")


def test_firehose_writes_compressed_hourly_objects_and_its_failures_elsewhere(template: Synthesised) -> None:
    stream = template.only("AWS::KinesisFirehose::DeliveryStream")
    destination = stream["ExtendedS3DestinationConfiguration"]
    hourly = "year=!{timestamp:yyyy}/month=!{timestamp:MM}/day=!{timestamp:dd}/hour=!{timestamp:HH}/"
    assert destination["CompressionFormat"] == "GZIP"
    assert destination["Prefix"] == hourly
    assert destination["ErrorOutputPrefix"] == f"errors/!{{firehose:error-output-type}}/{hourly}"
    assert destination["BufferingHints"] == {
        "IntervalInSeconds": template.settings.buffer_interval_seconds,
        "SizeInMBs": template.settings.buffer_size_mib,
    }
    assert stream["DeliveryStreamEncryptionConfigurationInput"] == {"KeyType": "AWS_OWNED_CMK"}
    assert stream["DeliveryStreamName"] == template.settings.names.stream


def test_firehose_may_write_under_its_two_prefixes_and_neither_read_nor_delete(template: Synthesised) -> None:
    destination = template.only("AWS::KinesisFirehose::DeliveryStream")["ExtendedS3DestinationConfiguration"]
    role = destination["RoleARN"]["Fn::GetAtt"][0]
    granted = statements(template, role)
    bucket = template.logical_id("AWS::S3::Bucket")
    assert granted.keys() == {
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:GetBucketLocation",
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "kms:GenerateDataKey",
        "kms:Decrypt",
        "logs:PutLogEvents",
    }
    assert sorted(text(resource) for resource in granted["s3:PutObject"]) == [
        f"<{bucket}>/errors/*",
        f"<{bucket}>/year=*",
    ]
    [trust] = template.template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    [stream] = template.of_type("AWS::KinesisFirehose::DeliveryStream").values()
    assert role in stream["DependsOn"]


def test_a_buffering_interval_of_zero_is_passed_on() -> None:
    stream = synthesised("dev", buffer_interval_seconds="0").only("AWS::KinesisFirehose::DeliveryStream")
    assert stream["ExtendedS3DestinationConfiguration"]["BufferingHints"]["IntervalInSeconds"] == 0


def test_the_bucket_is_encrypted_versioned_private_and_tls_only(template: Synthesised) -> None:
    bucket = template.only("AWS::S3::Bucket")
    [encryption] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption["BucketKeyEnabled"] is True
    assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert is_data_key(encryption["ServerSideEncryptionByDefault"]["KMSMasterKeyID"])
    assert bucket["LoggingConfiguration"]["LogFilePrefix"] == "raw/"
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    denials = [
        statement
        for policy in template.of_type("AWS::S3::BucketPolicy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny" and statement["Principal"] == {"AWS": "*"} and statement["Action"] == "s3:*"
    ]
    assert {json.dumps(denial["Condition"]) for denial in denials} == {
        json.dumps({"Bool": {"aws:SecureTransport": "false"}}),
        json.dumps({"NumericLessThan": {"s3:TlsVersion": 1.2}}),
    }
    archive, uploads = bucket["LifecycleConfiguration"]["Rules"]
    assert archive["Transitions"] == [
        {"StorageClass": "GLACIER", "TransitionInDays": template.settings.archive_after_days}
    ]
    assert archive["ExpirationInDays"] == template.settings.expire_after_days
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


def test_every_queue_is_encrypted_tls_only_and_has_a_dead_letter_queue(template: Synthesised) -> None:
    queues = template.of_type("AWS::SQS::Queue")
    assert len(queues) == 4
    targets = {
        body["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        for body in queues.values()
        if "RedrivePolicy" in body["Properties"]
    }
    assert len(targets) == 2
    for name, body in queues.items():
        assert is_data_key(body["Properties"]["KmsMasterKeyId"])
        assert body["Properties"]["MessageRetentionPeriod"] == 14 * 86_400
        assert ("RedrivePolicy" in body["Properties"]) is (name not in targets)
        [policy] = [
            policy["Properties"]["PolicyDocument"]["Statement"]
            for policy in template.of_type("AWS::SQS::QueuePolicy").values()
            if {"Ref": name} in policy["Properties"]["Queues"]
        ]
        assert any(
            s["Effect"] == "Deny" and s["Condition"] == {"Bool": {"aws:SecureTransport": "false"}} for s in policy
        )


def test_an_object_under_the_prefix_reaches_the_loader_through_the_queue(template: Synthesised) -> None:
    queue = template.logical_id("AWS::SQS::Queue", QueueName=template.settings.names.object_queue)
    [configuration] = template.only("AWS::S3::Bucket")["NotificationConfiguration"]["QueueConfigurations"]
    assert configuration["Queue"] == {"Fn::GetAtt": [queue, "Arn"]}
    assert configuration["Event"] == "s3:ObjectCreated:*"
    assert configuration["Filter"] == {"S3Key": {"Rules": [{"Name": "prefix", "Value": "year="}]}}
    loader = template.logical_id("AWS::Lambda::Function", FunctionName=template.settings.names.loader)
    source = template.only("AWS::Lambda::EventSourceMapping", FunctionName={"Ref": loader})
    assert source["EventSourceArn"] == {"Fn::GetAtt": [queue, "Arn"]}
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["ScalingConfig"] == {"MaximumConcurrency": template.settings.loader_max_concurrency}
    visibility = template.only("AWS::SQS::Queue", QueueName=template.settings.names.object_queue)["VisibilityTimeout"]
    assert visibility >= 6 * function(template, template.settings.names.loader)["Timeout"]


def test_only_this_accounts_bucket_may_send_to_the_object_queue(template: Synthesised) -> None:
    queue = template.logical_id("AWS::SQS::Queue", QueueName=template.settings.names.object_queue)
    [policy] = [
        body["Properties"]["PolicyDocument"]["Statement"]
        for body in template.of_type("AWS::SQS::QueuePolicy").values()
        if {"Ref": queue} in body["Properties"]["Queues"]
    ]
    [allowed] = [statement for statement in policy if statement["Effect"] == "Allow"]
    assert allowed["Principal"] == {"Service": "s3.amazonaws.com"}
    assert allowed["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    source = text(allowed["Condition"]["ArnEquals"]["aws:SourceArn"])
    assert source.endswith(f"iot-telemetry-bucket{template.settings.names.suffix}-<AWS::AccountId>-<AWS::Region>")


def test_the_loader_may_read_raw_objects_its_queue_and_its_secret(template: Synthesised) -> None:
    names = template.settings.names
    granted = statements(template, role_of(function(template, names.loader)))
    bucket = template.logical_id("AWS::S3::Bucket")
    queue = template.logical_id("AWS::SQS::Queue", QueueName=names.object_queue)
    assert set(granted) == {
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:ListBucket",
        "kms:Decrypt",
        "sqs:ReceiveMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueUrl",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "secretsmanager:GetSecretValue",
        "secretsmanager:DescribeSecret",
        "logs:CreateLogStream",
        "logs:PutLogEvents",
    }
    assert all(is_data_key(key) for key in granted["kms:Decrypt"])
    assert {text(resource) for resource in granted["s3:GetObject"]} == {f"<{bucket}>/year=*"}
    assert {text(resource) for resource in granted["sqs:DeleteMessage"]} == {f"<{queue}>"}
    stamp = template.logical_id("AWS::SecretsManager::Secret", Name=names.stamp_secret)
    [secret, of_the_stamp] = granted["secretsmanager:GetSecretValue"]
    assert names.stack("database") in text(secret)
    assert "Loader" in text(secret)
    assert of_the_stamp == {"Ref": stamp}


def test_no_function_may_act_on_everything(template: Synthesised) -> None:
    names = template.settings.names
    functions = [names.loader, names.rule_errors_loader] + [names.migrator] * template.settings.migrate_on_deploy
    for name in functions:
        role = role_of(function(template, name))
        assert "ManagedPolicyArns" not in template.template["Resources"][role]["Properties"]
        for action, resources in statements(template, role).items():
            assert "*" not in action
            assert "*" not in resources


def test_functions_in_the_vpc_are_attached_by_lambda_and_their_code_is_denied_it(template: Synthesised) -> None:
    for name in (template.settings.names.loader, template.settings.names.rule_errors_loader):
        properties = function(template, name)
        attaching = [
            statement
            for policy in template.of_type("AWS::IAM::Policy").values()
            if {"Ref": role_of(properties)} in policy["Properties"]["Roles"]
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]
            if set(statement["Action"]) == ATTACHING
        ]
        if template.settings.database == "external":
            assert "VpcConfig" not in properties
            assert not attaching
            continue
        assert len(properties["VpcConfig"]["SubnetIds"]) == 2
        [group] = properties["VpcConfig"]["SecurityGroupIds"]
        assert "Functions" in text(group)
        allowed, denied = sorted(attaching, key=lambda statement: str(statement["Effect"]))
        assert denied["Effect"] == "Deny"
        assert text(denied["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]).endswith(f":function:{name}")
        assert allowed["Condition"] == {"StringEquals": {"aws:RequestedRegion": {"Ref": "AWS::Region"}}}


def test_functions_know_secrets_by_arn_only(template: Synthesised) -> None:
    names = template.settings.names
    variables = function(template, names.loader)["Environment"]["Variables"]
    assert text(variables["DATABASE_SECRET_ARN"]).startswith("<")
    assert variables["STAMP_SECRET_ARN"] == {"Ref": template.logical_id("AWS::SecretsManager::Secret")}
    assert set(variables) == {
        "DATABASE_SECRET_ARN",
        "STAMP_SECRET_ARN",
        "BUCKET_NAME",
        "OBJECT_QUEUE_URL",
        "MAX_FUTURE_SECONDS",
        "RETENTION_DAYS",
        "POWERTOOLS_SERVICE_NAME",
        "POWERTOOLS_LOG_LEVEL",
    }
    for body in template.everywhere("AWS::SecretsManager::Secret").values():
        assert "SecretString" not in body["Properties"]
        assert body["Properties"]["GenerateSecretString"]["PasswordLength"] >= 32


def test_every_function_has_a_log_group_with_a_retention(template: Synthesised) -> None:
    groups = template.of_type("AWS::Logs::LogGroup")
    assert all(body["Properties"]["RetentionInDays"] > 0 for body in groups.values())
    names = template.settings.names
    for name in (names.loader, names.rule_errors_loader):
        group = function(template, name)["LoggingConfig"]["LogGroup"]["Ref"]
        assert groups[group]["Properties"]["LogGroupName"] == f"/aws/lambda/{name}"


def test_the_migrator_runs_before_the_new_loader_wherever_the_deployment_can_run_it(template: Synthesised) -> None:
    triggers = template.of_type("Custom::Trigger")
    assert len(triggers) == template.settings.migrate_on_deploy
    for trigger in triggers:
        loader = template.logical_id("AWS::Lambda::Function", FunctionName=template.settings.names.loader)
        assert trigger in template.template["Resources"][loader]["DependsOn"]


def test_prod_keeps_its_data_and_dev_is_removable() -> None:
    for environment, policy in {"prod": "RetainExceptOnCreate", "dev": "Delete"}.items():
        template = synthesised(environment)
        [bucket] = template.of_type("AWS::S3::Bucket").values()
        assert bucket["DeletionPolicy"] == policy
        assert bucket["UpdateReplacePolicy"] == policy.removesuffix("ExceptOnCreate")
        for secret in template.everywhere("AWS::SecretsManager::Secret").values():
            assert secret["DeletionPolicy"] == policy


def test_environments_in_one_account_share_no_name() -> None:
    kinds = {
        "AWS::S3::Bucket": "BucketName",
        "AWS::SQS::Queue": "QueueName",
        "AWS::Lambda::Function": "FunctionName",
        "AWS::IoT::TopicRule": "RuleName",
        "AWS::IoT::Policy": "PolicyName",
        "AWS::IoT::ThingType": "ThingTypeName",
        "AWS::KinesisFirehose::DeliveryStream": "DeliveryStreamName",
        "AWS::Logs::LogGroup": "LogGroupName",
    }
    seen: dict[str, str] = {}
    for environment in ("dev", "staging", "prod"):
        for kind, key in kinds.items():
            for body in synthesised(environment).of_type(kind).values():
                if key in body["Properties"]:
                    name = f"{kind} {text(body['Properties'][key])}"
                    assert name not in seen, f"{name} in {seen[name]} and {environment}"
                    seen[name] = environment
