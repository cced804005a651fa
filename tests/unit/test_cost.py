"""The bill, against arithmetic done by hand: what each service counts, and at which price."""

import gzip
import io
import json
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from infra.settings import Settings
from lambdas.processor import handler as processor
from lambdas.processor import metrics
from lambdas.processor.binary_copy import Encoder
from lambdas.processor.load import Outcome
from ops.cost.assumptions import BILLED_BYTES, DEFAULT
from ops.cost.bill import Bill, Item, price
from ops.cost.cli import _ALL_COLUMNS, _context, table, verdicts
from ops.cost.deployed import Deployed
from ops.cost.functions import runs_per_month
from ops.cost.pipeline import load_of, pipeline_of
from ops.cost.prices import load_prices, unit
from ops.cost.usage import readings_per_month, remarks, unknown_kinds, usage
from ops.errors import UserError
from ops.synthesis import settings_of
from simulator.devices.device import Device
from simulator.scenario.config import ENVELOPE_MAX_BYTES, SimulatorConfig

MONTH_SECONDS = 730 * 3600
PRICES = load_prices("us-east-1")

INGEST: dict[str, Any] = {
    "Rule": {
        "Type": "AWS::IoT::TopicRule",
        "Properties": {"TopicRulePayload": {"Actions": [{"Firehose": {"BatchMode": False}}]}},
    },
    "Stream": {
        "Type": "AWS::KinesisFirehose::DeliveryStream",
        "Properties": {
            "ExtendedS3DestinationConfiguration": {
                "BucketARN": {"Fn::GetAtt": ["Raw", "Arn"]},
                "BufferingHints": {"IntervalInSeconds": 60, "SizeInMBs": 128},
                "CompressionFormat": "GZIP",
            }
        },
    },
    "Raw": {
        "Type": "AWS::S3::Bucket",
        "Properties": {
            "VersioningConfiguration": {"Status": "Enabled"},
            "NotificationConfiguration": {"QueueConfigurations": [{"Queue": {"Fn::GetAtt": ["Queue", "Arn"]}}]},
            "LifecycleConfiguration": {
                "Rules": [
                    {
                        "Status": "Enabled",
                        "Transitions": [{"StorageClass": "GLACIER", "TransitionInDays": 30}],
                        "ExpirationInDays": 365,
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
                    },
                    {"Status": "Enabled", "Prefix": "errors/", "ExpirationInDays": 5},
                    {"Status": "Disabled", "ExpirationInDays": 1},
                ]
            },
        },
    },
    "Queue": {"Type": "AWS::SQS::Queue", "Properties": {}},
    "Loader": {
        "Type": "AWS::Lambda::Function",
        "Properties": {"FunctionName": "iot-telemetry-processor", "MemorySize": 1024, "Architectures": ["arm64"]},
    },
    "Mapping": {
        "Type": "AWS::Lambda::EventSourceMapping",
        "Properties": {"EventSourceArn": {"Fn::GetAtt": ["Queue", "Arn"]}, "FunctionName": {"Ref": "Loader"}},
    },
}


def stacks(**resources: dict[str, Any]) -> dict[str, Any]:
    """The pipeline, with these resources added or in the place of its own."""
    return {"ingest": {"Resources": {**deepcopy(INGEST), **resources}}}


def with_bucket(**properties: Any) -> dict[str, Any]:
    """The pipeline with these properties of the raw bucket."""
    templates = stacks()
    templates["ingest"]["Resources"]["Raw"]["Properties"] |= properties
    return templates


def fleet(**values: Any) -> Settings:
    """Settings with a fleet that makes a million readings in a month, unless given."""
    return Settings(environment="prod", **{"devices": 1000, "readings_per_second": 1000, **values})


def bill_of(settings: Settings, templates: dict[str, Any] | None = None, **assumptions: Any) -> Bill:
    items = usage(settings, templates or stacks(), replace(DEFAULT, **assumptions))
    return price(items, PRICES, readings_per_month(settings))


def quantity(bill: Bill, what: str, *, unit_contains: str = "") -> float:
    """Of the one line so described."""
    [line] = [line for line in bill.lines if what in line.item.what and unit_contains in line.unit]
    return line.item.quantity


# --- IoT Core and Firehose: facts found before this model was written, per million readings of 200 bytes ---------------


@pytest.mark.parametrize(
    ("per_message", "basic_ingest", "batch_mode", "dollars"),
    [
        # 1.00 message + 0.15 rule + 0.15 action + 5 KiB to Firehose: 1e6 x 5120 / 2**30 x 0.029 = 0.138
        (1, False, False, 1.438),
        (1, True, False, 0.438),
        # 0.30 / 25 = 0.012, and each reading a record of its own: 0.138
        (25, True, True, 0.150),
        # 0.012 + 0.138 / 25
        (25, True, False, 0.0175),
    ],
)
def test_a_million_readings_through_rule_and_firehose(
    per_message: int, basic_ingest: bool, batch_mode: bool, dollars: float
) -> None:
    rule = deepcopy(INGEST["Rule"])
    rule["Properties"]["TopicRulePayload"]["Actions"][0]["Firehose"]["BatchMode"] = batch_mode
    settings = fleet(readings_per_second=1, readings_per_message=per_message, reading_bytes=200)
    bill = bill_of(settings, stacks(Rule=rule), basic_ingest=basic_ingest, rule_adds_bytes=0)
    counted = {"messages to the broker", "rule triggered", "Firehose action", "records in 5 KB steps"}
    usd = sum(line.usd for line in bill.lines if line.item.what in counted)
    assert bill.per_million(usd) == pytest.approx(dollars, rel=0.005)


def test_what_is_over_5_kb_counts_twice() -> None:
    within = bill_of(fleet(readings_per_message=25, reading_bytes=195))
    beyond = bill_of(fleet(readings_per_message=25, reading_bytes=205))
    for what in ("rule triggered", "Firehose action", "records in 5 KB steps"):
        assert quantity(beyond, what) == pytest.approx(2 * quantity(within, what))


def test_what_the_rule_adds_counts_for_firehose_alone() -> None:
    # 24 x 201 + 14 + 201 + 1 = 5040 bytes from the device; with what the rule adds 5139.
    bill = bill_of(fleet(readings_per_message=25, reading_bytes=200))
    messages = 1000 * MONTH_SECONDS / 25
    assert quantity(bill, "rule triggered") == pytest.approx(messages / 1e6)
    assert quantity(bill, "records in 5 KB steps") == pytest.approx(messages * 2 * 5120 / 2**30)


def test_devices_pay_by_the_minute_and_for_connecting() -> None:
    bill = bill_of(fleet(devices=1000))
    assert quantity(bill, "devices connected") == pytest.approx(43.8)  # 1000 x 730 x 60
    [line] = [line for line in bill.lines if line.item.what == "devices connected"]
    assert line.usd == pytest.approx(43.8 * 0.08)
    assert quantity(bill, "CONNECT") == pytest.approx(1000 * 730 / 24 / 1e6)


def test_broker_messages_get_cheaper_in_tiers() -> None:
    # 2,628 million: the first thousand million at 1.00, the rest at 0.80.
    bill = bill_of(fleet(readings_per_message=1), basic_ingest=False)
    [line] = [line for line in bill.lines if line.item.what == "messages to the broker"]
    assert line.usd == pytest.approx(1000 * 1.0 + 1628 * 0.8)
    most = PRICES.price("iot.usd_per_million_messages")
    assert most.of(6000) == pytest.approx(1000 + 4000 * 0.8 + 1000 * 0.7)


# --- S3 ------------------------------------------------------------------------------------------------------------


def test_objects_come_by_interval_or_by_size_whichever_is_first() -> None:
    settings = fleet(readings_per_message=25, reading_bytes=105)
    # 40 messages/s of 14 + 25 x 106 + 99 - 0 bytes; an interval of 60 s has 2,400 of them.
    pipeline = pipeline_of(Deployed(stacks()))
    load = load_of(settings, pipeline, DEFAULT)
    assert load.objects == pytest.approx(MONTH_SECONDS / 60)
    assert load.object_readings == pytest.approx(60_000)
    by_size = load_of(settings, replace(pipeline, buffer_size_bytes=2**20), DEFAULT)
    assert by_size.objects * by_size.object_bytes == pytest.approx(load.objects * load.object_bytes)
    assert by_size.object_bytes == pytest.approx(2**20 / DEFAULT.compression_ratio)
    plain = load_of(settings, replace(pipeline, gzip=False), DEFAULT)
    assert plain.object_bytes == pytest.approx(load.object_bytes * DEFAULT.compression_ratio)
    more_writers = load_of(settings, pipeline, replace(DEFAULT, firehose_writers=3))
    assert more_writers.objects == pytest.approx(3 * load.objects)


def test_no_object_without_a_message() -> None:
    pipeline = replace(pipeline_of(Deployed(stacks())), buffer_interval_seconds=1.0)
    load = load_of(fleet(readings_per_second=1, readings_per_message=25), pipeline, DEFAULT)
    assert load.objects == pytest.approx(load.messages)


def test_under_a_minute_each_object_is_three_requests() -> None:
    stream = deepcopy(INGEST["Stream"])
    stream["Properties"]["ExtendedS3DestinationConfiguration"]["BufferingHints"]["IntervalInSeconds"] = 3
    # 876,000 objects a month.
    assert quantity(bill_of(fleet(), stacks(Stream=stream)), "objects put") == pytest.approx(3 * 876)
    assert quantity(bill_of(fleet()), "objects put") == pytest.approx(43.8)


def test_objects_are_archived_and_kept_until_their_last_version_is_gone() -> None:
    load = load_of(fleet(), pipeline_of(Deployed(stacks())), DEFAULT)
    assert load.object_bytes > 128 * 1024
    bill = bill_of(fleet())
    a_day = 1440
    assert quantity(bill, "moved to Glacier") == pytest.approx(a_day * 730 / 24 / 1000)
    assert quantity(bill, "kept in Standard (30 days)") == pytest.approx(a_day * 30 * load.object_bytes / 2**30)
    # Expiry after 365 days leaves a noncurrent version for 30 more; each object carries 32 KiB and 8 KiB of index.
    assert quantity(bill, "kept in Glacier") == pytest.approx(a_day * 365 * (load.object_bytes + 32 * 1024) / 2**30)
    assert quantity(bill, "index of Glacier") == pytest.approx(a_day * 365 * 8 * 1024 / 2**30)


def small_objects(**configuration: Any) -> dict[str, Any]:
    """The pipeline with an object each second, and this beside the lifecycle's rules."""
    lifecycle = INGEST["Raw"]["Properties"]["LifecycleConfiguration"] | configuration
    templates = with_bucket(LifecycleConfiguration=lifecycle)
    destination = templates["ingest"]["Resources"]["Stream"]["Properties"]["ExtendedS3DestinationConfiguration"]
    destination["BufferingHints"]["IntervalInSeconds"] = 1
    return templates


def test_objects_under_128_kib_are_not_archived_unless_the_bucket_says_so() -> None:
    by_default = bill_of(fleet(), small_objects())
    assert not [line for line in by_default.lines if "Glacier" in line.item.what]
    assert quantity(by_default, "kept in Standard (395 days)") > 0
    assert any("stay in S3 Standard" in line for line in remarks(fleet(), small_objects()))
    all_sizes = small_objects(TransitionDefaultMinimumObjectSize="varies_by_storage_class")
    archived = bill_of(fleet(), all_sizes)
    assert quantity(archived, "moved to Glacier") == pytest.approx(86_400 * 730 / 24 / 1000)
    assert archived.of("S3") > by_default.of("S3")  # 3 cents for 1,000 small objects, and 40 KiB beside each
    assert not any("stay in S3 Standard" in line for line in remarks(fleet(), all_sizes))


def test_a_copy_in_another_region_is_put_carried_and_kept() -> None:
    templates = with_bucket(ReplicationConfiguration={"Rules": [{"Status": "Enabled"}]})
    load = load_of(fleet(), pipeline_of(Deployed(templates)), DEFAULT)
    bill = bill_of(fleet(), templates)
    a_month = load.objects * load.object_bytes / 2**30
    assert quantity(bill, "copied to another region") == pytest.approx(43.8)
    assert quantity(bill, "on the way") == pytest.approx(a_month)
    assert quantity(bill, "kept in another region") == pytest.approx(a_month * 24 / 730 * 395)


def test_the_sweeper_lists_a_thousand_at_a_time() -> None:
    # 1,440 objects a day: 96 runs look at one day, one looks at 365.
    bill = bill_of(fleet(sweep_interval_minutes=15, sweep_lookback_hours=24))
    assert quantity(bill, "listed by the sweeper") == pytest.approx(1440 * (96 + 365) * 730 / 24 / 1000 / 1000)


# --- SQS, Lambda -----------------------------------------------------------------------------------------------------


def test_a_queue_costs_three_requests_an_object_and_five_pollers() -> None:
    bill = bill_of(fleet())
    assert quantity(bill, "send, receive, delete") == pytest.approx(3 * 43_800 / 1e6)
    assert quantity(bill, "empty long polls") == pytest.approx(5 * MONTH_SECONDS / 20 / 1e6)


def test_the_loader_is_billed_by_object_memory_and_processor() -> None:
    bill = bill_of(fleet())
    # 60,000 readings an object at 100,000/s on 1024/1769 of a vCPU, beside 150 ms.
    seconds = 0.150 + 0.6 * 1769 / 1024
    assert quantity(bill, "processor: requests") == pytest.approx(0.0438)
    assert quantity(bill, "of 1024 MiB") == pytest.approx(43_800 * seconds / 1e6)
    [line] = [line for line in bill.lines if "of 1024 MiB" in line.item.what]
    assert line.usd == pytest.approx(43_800 * seconds * 0.0000133334, rel=1e-4)
    loader = deepcopy(INGEST["Loader"])
    loader["Properties"]["Architectures"] = ["x86_64"]
    assert bill_of(fleet(), stacks(Loader=loader)).of("Lambda") > bill.of("Lambda")


def test_more_memory_than_one_vcpu_only_costs_more() -> None:
    def gib_seconds(memory: int) -> float:
        loader = deepcopy(INGEST["Loader"])
        loader["Properties"]["MemorySize"] = memory
        return quantity(bill_of(fleet(), stacks(Loader=loader)), f"of {memory} MiB")

    assert gib_seconds(3538) == pytest.approx(2 * gib_seconds(1769))


def test_scheduled_functions_run_by_their_rules() -> None:
    probe = {"Type": "AWS::Lambda::Function", "Properties": {"FunctionName": "iot-telemetry-probe", "MemorySize": 256}}
    rule = {
        "Type": "AWS::Events::Rule",
        "Properties": {"ScheduleExpression": "rate(1 minute)", "Targets": [{"Arn": {"Fn::GetAtt": ["Probe", "Arn"]}}]},
    }
    bill = bill_of(fleet(), stacks(Probe=probe, Rule1=rule))
    assert quantity(bill, "iot-telemetry-probe: requests") == pytest.approx(43_800 / 1e6)
    # x86_64 is Lambda's own default; one second each.
    assert quantity(bill, "1000 ms of 256 MiB", unit_contains="x86-64") == pytest.approx(43_800 * 0.25 / 1e6)
    disabled = deepcopy(rule)
    disabled["Properties"]["State"] = "DISABLED"  # type: ignore[index]
    assert "iot-telemetry-probe: requests" not in str(bill_of(fleet(), stacks(Probe=probe, Rule1=disabled)).lines)


@pytest.mark.parametrize(
    ("expression", "times"),
    [
        ("rate(1 minute)", 43_800),
        ("rate(15 minutes)", 2920),
        ("rate(1 hour)", 730),
        ("rate(1 day)", 730 / 24),
        ("cron(17 3 * * ? *)", 730 / 24),
        ("cron(0 3,15 * * ? *)", 2 * 730 / 24),
        ("cron(5 * * * ? *)", 730),
        ("cron(0 3 ? * SUN *)", 730 / 24 / 7),
        ("cron(0 3 1 * ? *)", 1),
    ],
)
def test_schedules(expression: str, times: float) -> None:
    assert runs_per_month(expression) == pytest.approx(times)


def test_a_schedule_that_is_not_understood_is_one_line() -> None:
    with pytest.raises(UserError, match=r"schedule 'cron\(0/5 \* \* \* \? \*\)' is not understood"):
        runs_per_month("cron(0/5 * * * ? *)")


# --- Everything beside the pipeline ----------------------------------------------------------------------------------


def test_an_instance_its_volumes_and_its_backups() -> None:
    instance = {
        "Type": "AWS::EC2::Instance",
        "Properties": {
            "InstanceType": "r7g.large",
            "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 16, "VolumeType": "gp3"}}],
        },
    }
    volume = {"Type": "AWS::EC2::Volume", "Properties": {"Size": 500, "Iops": 6000, "Throughput": 250}}
    settings = fleet(readings_per_second=10, retention_days=90, backup_retention_days=7)
    bill = bill_of(settings, stacks(Instance=instance, Volume=volume))
    assert bill.of("EC2") == pytest.approx(730 * 0.1071)
    assert bill.of("EBS") == pytest.approx((500 + 16) * 0.08 + 3000 * 0.005 + 125 * 0.04)
    # 7 days as rows and 83 in columnstore; a full backup lives for 7 + 7 days, so there are two.
    rows = 864_000 * 7 * 195
    full = rows / 2.5 + 864_000 * 83 * 195 / 12
    assert quantity(bill, "full, weekly") == pytest.approx(2 * full / 2**30)
    assert quantity(bill, "differential") == pytest.approx(2 * 21 * 864_000 * 195 / 2.5 / 2**30)
    assert quantity(bill, "WAL", unit_contains="GiB") == pytest.approx(14 * 864_000 * 300 / 2.5 / 2**30)
    assert quantity(bill, "WAL segments") == pytest.approx(1440 * 730 / 24 / 1000)


def test_a_volume_that_is_too_small_is_remarked() -> None:
    remark = "the readings of 365 days need about 578 GiB; the volume has 50"
    assert remark in remarks(fleet(), stacks())
    assert remark not in remarks(fleet(database_volume_gib=1000), stacks())
    assert "the database is external: what its operator charges is not reckoned" in remarks(
        fleet(database="external"), stacks()
    )


def test_endpoints_by_zone_and_hour() -> None:
    subnets = {"SubnetIds": [{"Ref": "A"}, {"Ref": "B"}], "VpcEndpointType": "Interface"}
    endpoint = {"Type": "AWS::EC2::VPCEndpoint", "Properties": subnets}
    gateway = {"Type": "AWS::EC2::VPCEndpoint", "Properties": {"VpcEndpointType": "Gateway"}}
    bill = bill_of(fleet(), stacks(One=endpoint, Two=endpoint, Free=gateway))
    assert quantity(bill, "2 interface endpoints") == pytest.approx(2 * 2 * 730)
    assert bill.of("VPC") == pytest.approx(2 * 2 * 730 * 0.01 + 0.01)
    nat = {"Type": "AWS::EC2::NatGateway", "Properties": {}}
    assert bill_of(fleet(), stacks(Nat=nat)).of("VPC") == pytest.approx(730 * 0.045)


def test_rows_that_go_to_another_zone_are_paid_both_ways() -> None:
    loader = deepcopy(INGEST["Loader"])
    loader["Properties"]["VpcConfig"] = {"SubnetIds": [{"Ref": "A"}, {"Ref": "B"}]}
    instance = {"Type": "AWS::EC2::Instance", "Properties": {"InstanceType": "r7g.large"}}
    bill = bill_of(fleet(), stacks(Loader=loader, Instance=instance))
    assert quantity(bill, "rows to the database's zone") == pytest.approx(1000 * MONTH_SECONDS * 108 / 2 * 2 / 2**30)


def test_alarms_by_the_metrics_they_look_at() -> None:
    def alarm(**properties: Any) -> dict[str, Any]:
        return {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}

    stat = {"MetricStat": {"Period": 60}}
    bill = bill_of(
        fleet(),
        stacks(
            Plain=alarm(Period=60),
            Fast=alarm(Period=10),
            Math=alarm(Metrics=[stat, stat, {"Expression": "m1 / m2"}]),
            Both={"Type": "AWS::CloudWatch::CompositeAlarm", "Properties": {}},
            Board={"Type": "AWS::CloudWatch::Dashboard", "Properties": {}},
        ),
    )
    # The loader's thirteen metrics, three alarm metrics, one of high resolution, a composite alarm, a dashboard.
    assert bill.of("CloudWatch") == pytest.approx(13 * 0.30 + 3 * 0.10 + 0.30 + 0.50 + 3.00)


def test_logs_are_paid_going_in_and_while_they_stay() -> None:
    loader = deepcopy(INGEST["Loader"])
    loader["Properties"]["LoggingConfig"] = {"LogGroup": {"Ref": "Logs"}}
    group: dict[str, Any] = {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 90}}
    bill = bill_of(fleet(), stacks(Loader=loader, Logs=group))
    gib = 43_800 * DEFAULT.loader_log_bytes / 2**30
    assert bill.of("CloudWatch logs") == pytest.approx(gib * 0.50 + gib * 24 / 730 * 90 * 0.15 * 0.03)
    group["Properties"]["LogGroupClass"] = "INFREQUENT_ACCESS"
    cheaper = bill_of(fleet(), stacks(Loader=loader, Logs=group))
    assert bill.of("CloudWatch logs") - cheaper.of("CloudWatch logs") == pytest.approx(gib * 0.25)


def test_keys_secrets_and_what_a_bucket_key_saves() -> None:
    key = {"Type": "AWS::KMS::Key", "Properties": {"EnableKeyRotation": True}}
    secret = {"Type": "AWS::SecretsManager::Secret", "Properties": {}}
    assert bill_of(fleet(), stacks(Key=key)).of("KMS") == pytest.approx(3.0)
    assert bill_of(fleet(), stacks(A=secret, B=secret)).of("Secrets Manager") == pytest.approx(0.80)

    def calls(*, bucket_key: bool) -> float:
        rule = {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": bucket_key}
        encryption = {"ServerSideEncryptionConfiguration": [rule]}
        return quantity(bill_of(fleet(), with_bucket(BucketEncryption=encryption)), "calls")

    assert calls(bucket_key=False) == pytest.approx(2 * 43_800 / 1e6)
    assert calls(bucket_key=True) == pytest.approx(2 * 438 / 1e6)


def test_flow_logs_and_access_logs() -> None:
    flow_log = {"Type": "AWS::EC2::FlowLog", "Properties": {"LogDestinationType": "s3"}}
    bill = bill_of(fleet(), stacks(Flows=flow_log))
    assert quantity(bill, "flow logs, to S3") == pytest.approx(120 * 43_800 * 140 / 2**30)
    templates = with_bucket(LoggingConfiguration={"DestinationBucketName": {"Ref": "Logs"}})
    rules = [{"ExpirationInDays": 90}]
    templates["ingest"]["Resources"]["Logs"] = {
        "Type": "AWS::S3::Bucket",
        "Properties": {"LifecycleConfiguration": {"Rules": rules}},
    }
    assert 0 < bill_of(fleet(), templates).of("S3 access logs") < 0.10


# --- Templates -------------------------------------------------------------------------------------------------------


def test_references_are_followed_through_joins_and_into_other_stacks() -> None:
    deployed = Deployed(
        {
            "one": {
                "Resources": {"Q": {"Type": "AWS::SQS::Queue"}},
                "Outputs": {"O": {"Value": {"Fn::GetAtt": ["Q", "Arn"]}, "Export": {"Name": "one:Q"}}},
            },
            "two": {"Resources": {"Q": {"Type": "AWS::SNS::Topic"}}},
        }
    )

    def found(value: object, stack: str) -> str | None:
        target = deployed.target(value, stack)
        return target.kind if target else None

    assert found({"Fn::ImportValue": "one:Q"}, "two") == "AWS::SQS::Queue"
    assert found({"Fn::GetAtt": "Q.Arn"}, "two") == "AWS::SNS::Topic"
    assert found({"Fn::Join": ["", ["arn:", {"Ref": "Q"}]]}, "one") == "AWS::SQS::Queue"
    assert found({"Ref": "AWS::Region"}, "one") is None
    assert found("arn:aws:sqs:us-east-1:111122223333:q", "one") is None


def test_what_the_model_does_not_know_is_said() -> None:
    templates = stacks(Big={"Type": "AWS::RDS::DBInstance"}, Mine={"Type": "Custom::Trigger"})
    assert unknown_kinds(templates) == ["AWS::RDS::DBInstance"]
    assert "not reckoned, because the model does not know them: AWS::RDS::DBInstance" in remarks(fleet(), templates)


@pytest.mark.parametrize("missing", ["Rule", "Stream", "Raw", "Mapping"])
def test_templates_without_a_pipeline_are_one_line(missing: str) -> None:
    templates = stacks()
    del templates["ingest"]["Resources"][missing]
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        usage(fleet(), templates)


# --- Prices ----------------------------------------------------------------------------------------------------------


def test_every_price_has_a_page_of_aws_and_a_date() -> None:
    assert PRICES.as_of == "2026-11"
    for service, entries in PRICES.prices.items():
        for name, entry in entries.items():
            assert name.startswith("usd_per_"), f"{service}.{name}"
            assert entry.usd > 0
            assert entry.source.startswith("https://aws.amazon.com/"), f"{service}.{name}"


def test_a_unit_is_spelled_by_the_name() -> None:
    assert unit("s3.usd_per_gib_month_standard") == "GiB month standard"
    assert unit("iot.usd_per_million_rules_triggered") == "million rules triggered"


def test_a_missing_price_and_a_missing_region_are_one_line() -> None:
    with pytest.raises(
        UserError, match=r"us-east-1\.json has no price 'usd_per_hour_of_x9g\.huge' under 'ec2': add it"
    ):
        price([Item("EC2", "x9g.huge", 730, "ec2.usd_per_hour_of_x9g.huge")], PRICES, 1)
    with pytest.raises(UserError, match=r"no prices for region 'eu-west-9' \(there are: us-east-1\): copy ops/cost/"):
        load_prices("eu-west-9")


def test_a_price_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "eu-west-1.json").write_text('{"region": "eu-west-1"}')
    with pytest.raises(UserError, match=r"eu-west-1\.json is not a price file: Object missing required field"):
        load_prices("eu-west-1", tmp_path)
    (tmp_path / "eu-west-1.json").write_text((Path("ops/cost/prices") / "us-east-1.json").read_text())
    with pytest.raises(UserError, match="is of region 'us-east-1'"):
        load_prices("eu-west-1", tmp_path)


# --- The command -----------------------------------------------------------------------------------------------------


def test_context_is_given_as_to_cdk() -> None:
    assert _context(["env=prod", "buffer_interval_seconds=10"]) == {"env": "prod", "buffer_interval_seconds": "10"}
    with pytest.raises(UserError, match="write -c NAME=VALUE"):
        _context(["prod"])
    with pytest.raises(UserError, match="-c buffer=10: there is no setting 'buffer'"):
        _context(["buffer=10"])
    with pytest.raises(UserError, match="there is no setting 'environment'"):
        _context(["environment=dev"])


def test_local_costs_nothing() -> None:
    with pytest.raises(UserError, match="'local' runs on this machine and costs nothing"):
        settings_of("local", {})


def test_the_verdict_says_when_the_budget_is_not_kept() -> None:
    bill = bill_of(fleet())
    assert "within the budget of $1,000" in verdicts(fleet(budget_dollars_per_month=1000), bill)[1]
    assert "OVER the budget of $1" in verdicts(fleet(budget_dollars_per_month=1), bill)[1]
    assert len(verdicts(fleet(), bill)) == 1


# --- Assumptions, measured again -------------------------------------------------------------------------------------


def payloads(batch: int, readings: int) -> list[bytes]:
    """Messages as the simulator's devices send them."""
    config = SimulatorConfig(device_count=40, interval_seconds=1.0, batch=batch, linger_seconds=batch)
    devices = [Device(config, n, f"device-{n + 1:05}", fleet_size=40, first_seq=1_000_000) for n in range(40)]
    found = []
    for _ in range(readings):
        for device in devices:
            device.take(1_795_232_831_832)
            while message := device.next_message():
                found.append(message.payload)
    return found


def records(messages: list[bytes]) -> list[bytes]:
    """What Firehose gets of them."""
    added = '"device_id":"device-%05d","received_at":%d,"stamp":"%s"'
    return [
        message[:-1] + f",{added % (n % 1000, 1_795_232_831_832 + n, 'x' * 32)}}}\n".encode()
        for n, message in enumerate(messages)
    ]


def test_readings_are_as_long_as_the_settings_say_and_what_the_rule_adds_fits() -> None:
    single = payloads(1, 25)
    assert sum(map(len, single)) / len(single) == pytest.approx(fleet().reading_bytes, abs=2)
    [envelope, *_] = payloads(25, 25)
    expected = load_of(fleet(readings_per_message=25), pipeline_of(Deployed(stacks())), DEFAULT).message_bytes
    assert len(envelope) == pytest.approx(expected, rel=0.02)
    assert len(records([envelope])[0]) - len(envelope) == DEFAULT.rule_adds_bytes
    assert ENVELOPE_MAX_BYTES + DEFAULT.rule_adds_bytes <= BILLED_BYTES


def test_records_compress_at_least_as_well_as_reckoned() -> None:
    text = b"".join(records(payloads(25, 75)))
    assert len(text) / len(gzip.compress(text, 1)) >= DEFAULT.compression_ratio


def test_a_row_is_as_long_as_reckoned() -> None:
    reading = SimpleNamespace(
        ts=1_795_232_831_832, seq=1_000_000, temperature=21.4, humidity=48.1, pressure=1013.2, battery=93.0
    )
    assert len(Encoder(1).clean_rows("device-00001", 1_795_232_831_832, [reading])) == DEFAULT.copy_bytes_per_row


def test_the_loader_logs_no_more_than_reckoned(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    line = io.StringIO()
    monkeypatch.setattr(processor.logger.registered_handler, "stream", line)
    monkeypatch.setattr(metrics._metrics, "service", "iot-telemetry-processor")
    metrics.count(Outcome("loaded", 123_456_789, rows=3000, milliseconds=83, first=now - timedelta(seconds=4)), now)
    metrics.flush()
    uuid = "8f5d2c0e-7f1c-4b0e-9a36-1b9d7b0c8f11"
    processor.logger.info(
        "object loaded",
        request_id=uuid,
        message_id=uuid,
        object_id=123_456_789,
        bucket="iot-telemetry-bucket-111122223333-us-east-1",
        key=f"year=2026/month=11/day=21/hour=06/iot-telemetry-stream-1-2026-11-21-06-29-19-{uuid}.gz",
        version_id="3sL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY",
        reason=None,
        rows=3000,
        duplicates=0,
        quarantined=0,
        milliseconds=83,
    )
    written = len(capsys.readouterr().out) + len(line.getvalue())
    assert json.loads(line.getvalue())["rows"] == 3000
    lambdas_own, of_each_event = 310, 26
    assert written + lambdas_own + 5 * of_each_event <= DEFAULT.loader_log_bytes


@pytest.mark.parametrize(("columns", "whole"), [(80, False), (120, True), (160, True)])
def test_the_table_fits_a_terminal_with_every_name_and_sum_in_it(columns: int, whole: bool) -> None:
    items = [
        Item("Lambda", "iot-telemetry-processor-staging: requests", 2.63, "lambda.usd_per_million_requests"),
        Item("VPC", "rows to the database's zone, both ways billed", 303, "vpc.usd_per_gib_each_way_between_zones"),
    ]
    bill = price(items, PRICES, 2.6e9)
    console = Console(width=columns, file=io.StringIO(), color_system=None)
    assert (console.width >= _ALL_COLUMNS) is whole
    console.print(table(bill, whole=whole))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert all(len(line) <= columns for line in shown.splitlines())
    for line in bill.lines:
        assert [row for row in shown.splitlines() if line.item.what in row and f"{line.usd:,.2f}" in row]
    assert ("quantity" in shown) is whole
