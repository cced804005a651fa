"""The Base stack, and what rests on it: one key for all data, who may use it, and where accesses are logged."""

import pytest
from aws_cdk import Stack

from ops.errors import UserError
from tests.infra.templates import ENVIRONMENTS, Synthesised, application, synthesised
from tests.infra.test_ingest import is_data_key, text


@pytest.fixture(params=ENVIRONMENTS)
def template(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param).of("base")


def test_the_key_is_changed_every_year_and_outlives_what_it_encrypts(template: Synthesised) -> None:
    [key] = template.of_type("AWS::KMS::Key").values()
    assert key["Properties"]["EnableKeyRotation"] is True
    kept = template.settings.retain_data
    assert key["DeletionPolicy"] == ("RetainExceptOnCreate" if kept else "Delete")
    assert key["Properties"]["PendingWindowInDays"] == (30 if kept else 7)


def test_only_this_account_and_services_on_its_behalf_may_use_the_key(template: Synthesised) -> None:
    [key] = template.of_type("AWS::KMS::Key").values()
    services = {}
    for statement in key["Properties"]["KeyPolicy"]["Statement"]:
        assert statement["Effect"] == "Allow"
        if "AWS" in statement["Principal"]:
            assert text(statement["Principal"]["AWS"]) == "arn:<AWS::Partition>:iam::<AWS::AccountId>:root"
            continue
        services[text(statement["Principal"]["Service"])] = statement
        assert "kms:*" not in statement["Action"]
    assert services.keys() == {
        "logs.<AWS::Region>.amazonaws.com",
        "s3.amazonaws.com",
        "cloudwatch.amazonaws.com",
        "budgets.amazonaws.com",
    }
    context = services["logs.<AWS::Region>.amazonaws.com"]["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"]
    assert text(context) == "arn:<AWS::Partition>:logs:<AWS::Region>:<AWS::AccountId>:*"


def test_everything_that_holds_data_is_encrypted_under_the_key(template: Synthesised) -> None:
    properties = {
        "AWS::SQS::Queue": "KmsMasterKeyId",
        "AWS::SNS::Topic": "KmsMasterKeyId",
        "AWS::Logs::LogGroup": "KmsKeyId",
        "AWS::SecretsManager::Secret": "KmsKeyId",
        "AWS::EC2::Volume": "KmsKeyId",
    }
    for kind, name in properties.items():
        for resource, body in template.everywhere(kind).items():
            assert is_data_key(body["Properties"].get(name)), f"{resource} ({kind})"
    for resource, body in template.everywhere("AWS::S3::Bucket").items():
        [rule] = body["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        if "AccessLogs" in resource:
            assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"  # S3 delivers to no other
        else:
            assert is_data_key(rule["ServerSideEncryptionByDefault"]["KMSMasterKeyID"]), resource
            assert "LoggingConfiguration" in body["Properties"], resource


def test_whoever_sends_to_a_queue_may_use_its_key(template: Synthesised) -> None:
    senders = 0
    for policy in template.everywhere("AWS::IAM::Policy").values():
        actions = [
            action
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]
            for action in (statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]])
        ]
        if "sqs:SendMessage" in actions:
            senders += 1
            assert {"kms:Decrypt"} < set(actions)
            assert {"kms:GenerateDataKey", "kms:GenerateDataKey*"} & set(actions)
    assert senders >= 2  # the rule's error action and the sweeper


def test_every_bucket_is_private_versioned_tls_only_and_ends_unfinished_uploads(template: Synthesised) -> None:
    buckets = template.everywhere("AWS::S3::Bucket")
    policies = template.everywhere("AWS::S3::BucketPolicy").values()
    for resource, body in buckets.items():
        assert set(body["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
        assert body["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
        rules = body["Properties"]["LifecycleConfiguration"]["Rules"]
        assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)
        name = resource.partition("/")[2]
        [policy] = [policy for policy in policies if policy["Properties"]["Bucket"] == {"Ref": name}]
        conditions = [
            statement["Condition"]
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]
            if statement["Effect"] == "Deny"
        ]
        assert {"Bool": {"aws:SecureTransport": "false"}} in conditions


def replicated() -> Synthesised:
    return synthesised("prod", account="111122223333", region="eu-west-1", replica_region="eu-central-1")


def test_raw_objects_are_copied_to_another_region_where_that_is_asked_for() -> None:
    template = replicated()
    configuration = template.only("AWS::S3::Bucket")["ReplicationConfiguration"]
    [rule] = configuration["Rules"]
    assert rule["Status"] == "Enabled"
    copies = template.of("replica").only("AWS::S3::Bucket")
    assert text(copies["BucketName"]) == "iot-telemetry-replica-<AWS::AccountId>-<AWS::Region>"
    assert text(rule["Destination"]["Bucket"]).endswith("iot-telemetry-replica-<AWS::AccountId>-eu-central-1")
    [alias] = template.of("replica").of_type("AWS::KMS::Alias").values()
    there = rule["Destination"]["EncryptionConfiguration"]["ReplicaKmsKeyID"]
    assert text(there).endswith(f":kms:eu-central-1:111122223333:{alias['Properties']['AliasName']}")
    assert copies["VersioningConfiguration"] == {"Status": "Enabled"}
    archive = copies["LifecycleConfiguration"]["Rules"][0]
    assert archive["ExpirationInDays"] == template.settings.expire_after_days


def test_the_copys_bucket_is_there_before_s3_is_told_to_copy_to_it() -> None:
    app = application(replicated().settings)
    stacks = {stack.stack_name: stack for stack in app.node.children if isinstance(stack, Stack)}
    assert "iot-replica" in {stack.stack_name for stack in stacks["iot-ingest"].dependencies}


def test_the_copying_role_is_trusted_to_s3_as_the_manual_has_it() -> None:
    template = replicated()
    role = template.only("AWS::S3::Bucket")["ReplicationConfiguration"]["Role"]["Fn::GetAtt"][0]
    [trust] = template.template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust == {"Action": "sts:AssumeRole", "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}}


def test_nothing_is_copied_where_it_is_not() -> None:
    template = synthesised("prod")
    assert "ReplicationConfiguration" not in template.only("AWS::S3::Bucket")
    assert "replica" not in template.stacks


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"replica_region": "eu-central-1"}, "add account and region"),
        (
            {"replica_region": "eu-west-1", "region": "eu-west-1", "account": "111122223333"},
            "it must be another than region",
        ),
    ],
)
def test_a_replica_needs_two_places(overrides: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        synthesised("prod", **overrides)
