"""The Database stack: what survives the instance, what the instance is and may do, and who is told where it is."""

import json
from typing import Any

import pytest

from infra.connections import connection_budget
from infra.graviton import Size, size_of
from ops.errors import UserError
from ops.paths import ROOT
from tests.infra.templates import Synthesised, synthesised

IN_AWS = ("dev", "staging", "prod")
INSTANCE = "AWS::EC2::Instance"
VOLUME = "AWS::EC2::Volume"
USER_DATA_LIMIT_BYTES = 16 * 1024


@pytest.fixture(params=IN_AWS)
def database(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param).of("database")


def instance_of(template: Synthesised) -> dict[str, Any]:
    [body] = template.of_type(INSTANCE).values()
    return dict(body["Properties"])


def user_data(template: Synthesised) -> str:
    """The instance's user data, with references as `<name>`."""

    def text(part: Any) -> str:
        return part if isinstance(part, str) else f"<{part.get('Ref') or json.dumps(part)}>"

    return "".join(text(part) for part in instance_of(template)["UserData"]["Fn::Base64"]["Fn::Join"][1])


def environment_of(template: Synthesised) -> dict[str, str]:
    """What the instance's scripts are told."""
    _, _, rest = user_data(template).partition("<<'END'\n")
    lines = rest.partition("\nEND\n")[0].splitlines()
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def deletion(template: Synthesised, kind: str) -> set[tuple[str, str]]:
    """Policies of the resources of a type when they are deleted, and when they are replaced."""
    return {(body["DeletionPolicy"], body["UpdateReplacePolicy"]) for body in template.of_type(kind).values()}


def policy_of_instance(template: Synthesised) -> list[dict[str, Any]]:
    """The statements of the instance's role, which has no other policies."""
    profile = instance_of(template)["IamInstanceProfile"]["Ref"]
    [role] = template.template["Resources"][profile]["Properties"]["Roles"]
    properties = template.template["Resources"][role["Ref"]]["Properties"]
    assert "ManagedPolicyArns" not in properties
    assert "Policies" not in properties
    [policy] = [
        body["Properties"]
        for body in template.of_type("AWS::IAM::Policy").values()
        if role in body["Properties"]["Roles"]
    ]
    return list(policy["PolicyDocument"]["Statement"])


def test_the_instance_has_no_way_in_but_session_manager(database: Synthesised) -> None:
    properties = instance_of(database)
    assert "KeyName" not in properties
    [attached] = properties["NetworkInterfaces"]
    [interface] = database.of_type("AWS::EC2::NetworkInterface")
    assert attached == {"DeviceIndex": "0", "NetworkInterfaceId": {"Ref": interface}}
    rules = [body["Properties"] for body in database.everywhere("AWS::EC2::SecurityGroupIngress").values()]
    assert {(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in rules} == {
        ("tcp", 5432, 5432),
        ("tcp", 443, 443),
    }
    assert properties["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }


def test_the_instance_is_watched_and_encrypted_and_of_a_fixed_image(database: Synthesised) -> None:
    properties = instance_of(database)
    assert properties["Monitoring"] is True
    assert properties["EbsOptimized"] is True
    assert properties["DisableApiTermination"] is database.settings.retain_data
    [root] = properties["BlockDeviceMappings"]
    assert root["Ebs"]["Encrypted"] is True
    assert "iot-base" in json.dumps(root["Ebs"]["KmsKeyId"])
    assert properties["ImageId"] == f"{{{{resolve:ssm:{database.settings.database_image_parameter}}}}}"
    assert "current" not in properties["ImageId"]


@pytest.mark.parametrize("presence", ["present", "absent"])
@pytest.mark.parametrize("environment", IN_AWS)
def test_the_data_are_on_a_volume_that_survives(environment: str, presence: str) -> None:
    template = synthesised(environment, database_instance=presence).of("database")
    settings = template.settings
    [volume] = [body["Properties"] for body in template.of_type(VOLUME).values()]
    assert volume["VolumeType"] == "gp3"
    assert volume["Size"] == settings.database_volume_gib
    assert volume["Iops"] == settings.database_volume_iops
    assert volume["Throughput"] == settings.database_volume_mib_per_second
    assert volume["Encrypted"] is True
    assert "iot-base" in json.dumps(volume["KmsKeyId"])
    kept = ("RetainExceptOnCreate", "Retain") if settings.retain_data else ("Snapshot", "Snapshot")
    assert deletion(template, VOLUME) == {kept}


def test_what_replacing_the_instance_takes_away_and_what_it_leaves() -> None:
    present = synthesised("prod").of("database").template["Resources"]
    absent = synthesised("prod", database_instance="absent").of("database").template["Resources"]
    gone = {body["Type"] for name, body in present.items() if name not in absent}
    assert gone == {
        INSTANCE,
        "AWS::EC2::VolumeAttachment",
        "AWS::CloudFormation::WaitCondition",
        "AWS::CloudFormation::WaitConditionHandle",
        "AWS::CloudWatch::Alarm",
        "AWS::IAM::InstanceProfile",
        "AWS::IAM::Role",
        "AWS::IAM::Policy",
    }
    assert set(absent) < set(present)
    for name, body in absent.items():
        if body["Type"] != "AWS::CDK::Metadata":
            assert body == present[name], name
    kept = [body["Type"] for body in absent.values()]
    assert kept.count(VOLUME) == 1
    assert kept.count("AWS::EC2::NetworkInterface") == 1
    assert kept.count("AWS::SecretsManager::Secret") == 4
    assert kept.count("AWS::S3::Bucket") == 2


def test_the_volume_is_in_the_zone_of_the_instances_subnet(database: Synthesised) -> None:
    [volume] = database.of_type(VOLUME).values()
    [interface] = database.of_type("AWS::EC2::NetworkInterface").values()
    outputs = database.of("network").template["Outputs"]
    exports = {output["Export"]["Name"]: output["Value"] for output in outputs.values()}
    zone = exports[volume["Properties"]["AvailabilityZone"]["Fn::ImportValue"]]
    subnet = exports[interface["Properties"]["SubnetId"]["Fn::ImportValue"]]
    assert zone == {"Fn::GetAtt": [subnet["Ref"], "AvailabilityZone"]}


def test_its_name_leads_to_the_address_that_stays(database: Synthesised) -> None:
    [interface] = database.of_type("AWS::EC2::NetworkInterface")
    record = database.only("AWS::Route53::RecordSet", Type="A")
    assert record["Name"] == database.settings.names.database_host + "."
    assert record["ResourceRecords"] == [{"Fn::GetAtt": [interface, "PrimaryPrivateIpAddress"]}]
    [zone] = database.of_type("AWS::Route53::HostedZone").values()
    assert len(zone["Properties"]["VPCs"]) == 1


def test_secrets_say_where_the_database_is_and_nothing_is_left_to_fill_in(database: Synthesised) -> None:
    names = database.settings.names
    for role, username in {"admin": "postgres", "loader": "iot_loader"}.items():
        secret = database.only("AWS::SecretsManager::Secret", Name=names.secret(role))
        assert json.loads(secret["GenerateSecretString"]["SecretStringTemplate"]) == {
            "host": names.database_host,
            "port": 5432,
            "dbname": "iot_analytics",
            "username": username,
            "ca": "",
        }
        assert "iot-base" in json.dumps(secret["KmsKeyId"])


def test_the_role_may_do_this_and_nothing_else(database: Synthesised) -> None:
    found = {statement["Sid"]: statement for statement in policy_of_instance(database)}
    assert all(statement["Effect"] == "Allow" for statement in found.values())
    actions = {sid: statement["Action"] for sid, statement in found.items()}
    assert actions == {
        "Scripts": "s3:GetObject",
        "Packages": "s3:GetObject",
        "Backups": ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"],
        "Lists": "s3:ListBucket",
        "Passwords": ["secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"],
        "Log": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Key": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Metrics": "cloudwatch:PutMetricData",
        "Sessions": [
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
        ],
    }
    assert {sid for sid, statement in found.items() if statement["Resource"] == "*"} == {"Metrics", "Sessions"}
    assert {sid for sid, statement in found.items() if "Condition" in statement} == {"Metrics", "Key"}
    assert found["Metrics"]["Condition"] == {"StringEquals": {"cloudwatch:namespace": "Fleetledger/Database"}}
    services = json.dumps(found["Key"]["Condition"])
    assert '"s3."' in services
    assert '"secretsmanager."' in services


def test_the_role_reaches_the_objects_it_is_meant_for(database: Synthesised) -> None:
    found = {statement["Sid"]: statement["Resource"] for statement in policy_of_instance(database)}
    told = environment_of(database)
    assert found["Scripts"]["Fn::Join"][1][-1] == f"/{told['SCRIPTS_KEY']}"
    for sid, variable in {"Packages": "PACKAGES_BUCKET", "Backups": "BACKUP_BUCKET"}.items():
        bucket = told[variable].strip("<>")
        assert found[sid]["Fn::Join"][1] == [{"Fn::GetAtt": [bucket, "Arn"]}, "/*"]
        assert {"Fn::GetAtt": [bucket, "Arn"]} in found["Lists"]
    secrets = {told["ADMIN_SECRET_ARN"].strip("<>"), told["LOADER_SECRET_ARN"].strip("<>")}
    assert {resource["Ref"] for resource in found["Passwords"]} == secrets
    assert found["Log"] == {"Fn::GetAtt": [told["LOG_GROUP"].strip("<>"), "Arn"]}


def test_backups_and_packages_are_kept_privately_and_deleted_ones_for_a_while(database: Synthesised) -> None:
    kept = database.settings.retain_data
    buckets = database.of_type("AWS::S3::Bucket").values()
    assert len(buckets) == 2
    for body in buckets:
        properties = body["Properties"]
        assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
        assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
        encryption = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]
        assert encryption["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
        rules = properties["LifecycleConfiguration"]["Rules"]
        # A backup that is still needed may be old; only pgBackRest knows.
        assert not any("ExpirationInDays" in rule for rule in rules)
        assert any(rule.get("NoncurrentVersionExpiration") == {"NoncurrentDays": 7} for rule in rules)
        assert body["DeletionPolicy"] == ("RetainExceptOnCreate" if kept else "Delete")
    for body in database.of_type("AWS::S3::BucketPolicy").values():
        statements = body["Properties"]["PolicyDocument"]["Statement"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in [statement.get("Condition") for statement in statements]


def test_the_instance_is_told_what_it_needs_and_no_secret(database: Synthesised) -> None:
    settings, told = database.settings, environment_of(database)
    size = size_of(settings.database_instance_type)
    references = {name for name, value in told.items() if value.startswith("<")}
    assert {name: value for name, value in told.items() if name not in references and name != "SCRIPTS_KEY"} == {
        "DATABASE_NAME": "iot_analytics",
        "DATABASE_HOST": settings.names.database_host,
        "DATABASE_ADMIN_USER": "postgres",
        "BACKUP_RETENTION_DAYS": str(settings.backup_retention_days),
        "MEMORY_MIB": str(size.memory_mib),
        "VCPUS": str(size.vcpus),
        "MAX_CONNECTIONS": str(connection_budget(settings).max_connections),
        "VPC_CIDR": settings.vpc_cidr,
        "METRICS_SERVICE": settings.names.database_service,
    }
    assert references == {
        "AWS_REGION",
        "SCRIPTS_BUCKET",
        "ADMIN_SECRET_ARN",
        "LOADER_SECRET_ARN",
        "DATA_VOLUME_ID",
        "BACKUP_BUCKET",
        "BACKUP_KMS_KEY_ARN",
        "PACKAGES_BUCKET",
        "LOG_GROUP",
        "READY_URL",
    }
    assert "resolve:secretsmanager" not in user_data(database)


def test_user_data_runs_at_every_boot_and_fits(database: Synthesised) -> None:
    text = user_data(database)
    text.encode("ascii")
    # References grow: a presigned URL to some 800 bytes.
    assert len(text) + 2048 < USER_DATA_LIMIT_BYTES
    assert "cloud_final_modules:\n  - [scripts-user, always]" in text
    assert text.index('filename="10-environment"') < text.index('filename="20-start"')
    assert (ROOT / "infra" / "instance" / "start.sh").read_text().rstrip() in text


def test_the_deployment_waits_until_the_database_is_ready(database: Synthesised) -> None:
    [(_, condition)] = database.of_type("AWS::CloudFormation::WaitCondition").items()
    [handle] = database.of_type("AWS::CloudFormation::WaitConditionHandle")
    [instance] = database.of_type(INSTANCE)
    [attachment] = database.of_type("AWS::EC2::VolumeAttachment")
    assert condition["Properties"] == {"Handle": {"Ref": handle}, "Count": 1, "Timeout": "10800"}
    assert set(condition["DependsOn"]) == {instance, attachment}
    assert environment_of(database)["READY_URL"] == f"<{handle}>"


def test_a_boot_that_something_new_causes_is_waited_for_anew() -> None:
    def handle(**overrides: str) -> str:
        [name] = synthesised("dev", **overrides).of("database").of_type("AWS::CloudFormation::WaitConditionHandle")
        return name

    assert handle() == handle(log_retention_days="14")
    assert len({handle(), handle(database_instance_type="t4g.large"), handle(backup_retention_days="9")}) == 3


def test_the_instance_may_read_before_it_boots(database: Synthesised) -> None:
    [instance] = database.of_type(INSTANCE).values()
    [policy] = [
        name
        for name, body in database.of_type("AWS::IAM::Policy").items()
        if any(statement.get("Sid") == "Scripts" for statement in body["Properties"]["PolicyDocument"]["Statement"])
    ]
    assert policy in instance["DependsOn"]


def test_failed_hardware_is_left_behind(database: Synthesised) -> None:
    [instance] = database.of_type(INSTANCE)
    alarm = database.only("AWS::CloudWatch::Alarm", MetricName="StatusCheckFailed_System")
    assert alarm["Namespace"] == "AWS/EC2"
    assert alarm["Dimensions"] == [{"Name": "InstanceId", "Value": {"Ref": instance}}]
    [action] = alarm["AlarmActions"]
    assert action["Fn::Join"][1][-1] == ":ec2:recover"


def test_passwords_are_rotated_from_within_the_network(database: Synthesised) -> None:
    schedules = database.of_type("AWS::SecretsManager::RotationSchedule")
    secrets = {json.dumps(body["Properties"]["SecretId"]) for body in schedules.values()}
    assert secrets == {json.dumps({"Ref": secret}) for secret in database.of_type("AWS::SecretsManager::Secret")}
    function = database.only("AWS::Lambda::Function", FunctionName=database.settings.names.rotation)
    assert "FunctionsGroup" in json.dumps(function["VpcConfig"]["SecurityGroupIds"])


@pytest.mark.parametrize("environment", ["local", "prod"])
def test_a_database_elsewhere_is_only_secrets(environment: str) -> None:
    template = synthesised(environment, database="external").of("database")
    assert not template.of_type(INSTANCE)
    assert not template.of_type(VOLUME)
    assert not template.of_type("AWS::S3::Bucket")
    assert not template.of_type("AWS::Route53::HostedZone")
    secrets = [body["Properties"] for body in template.of_type("AWS::SecretsManager::Secret").values()]
    assert len(secrets) == 4
    for secret in secrets:
        assert json.loads(secret["GenerateSecretString"]["SecretStringTemplate"])["host"] == ""


def test_readers_of_a_secret_may_have_it_decrypted_and_the_key_need_not_know_them() -> None:
    template = synthesised("prod")
    [key] = template.of("base").of_type("AWS::KMS::Key").values()
    assert "iot-ingest" not in json.dumps(key)
    assert "iot-operations" not in json.dumps(key)
    policies = [json.dumps(body) for body in template.everywhere("AWS::IAM::Policy").values()]
    readers = [policy for policy in policies if "secretsmanager:GetSecretValue" in policy and "Loader" in policy]
    assert len(readers) >= 4
    for policy in readers:
        assert "kms:Decrypt" in policy
        assert '"secretsmanager."' in policy


def test_the_same_settings_make_the_same_template() -> None:
    once, again = synthesised("dev").stacks, synthesised.__wrapped__("dev").stacks
    assert (once["network"], once["database"]) == (again["network"], again["database"])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"database_instance_type": "x2gd.large"},
            "database_instance_type is 'x2gd.large': it is one of t4g.small to t4g.2xlarge, "
            "and medium to 16xlarge of m7g, m8g, r7g, r8g",
        ),
        (
            {"database_volume_iops": "16000", "database_volume_gib": "20"},
            "database_volume_iops is 16000: gp3 gives at most 500 per GiB, so 10000 for 20 GiB",
        ),
        (
            {"database_volume_mib_per_second": "1000"},
            "database_volume_mib_per_second is 1000: gp3 gives at most one for 4 of 3000 database_volume_iops",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(overrides: dict[str, str], line: str) -> None:
    with pytest.raises(UserError) as raised:
        synthesised("dev", **overrides)
    assert str(raised.value) == line


def test_sizes_are_those_of_the_manual() -> None:
    assert size_of("t4g.medium") == Size(vcpus=2, memory_mib=4096)
    assert size_of("m7g.large") == Size(vcpus=2, memory_mib=8192)
    assert size_of("r7g.large") == Size(vcpus=2, memory_mib=16_384)
    assert size_of("r8g.4xlarge") == Size(vcpus=16, memory_mib=131_072)
