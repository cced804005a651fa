"""What the environments cost as deployed: within their budgets, the pipeline under its target, docs/costs.md of today."""

import re
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from infra.settings import load
from ops.cost.assumptions import DEFAULT
from ops.cost.bill import TARGET_READINGS_PER_SECOND, TARGET_USD_PER_MILLION, Bill, price
from ops.cost.choices import Prod
from ops.cost.deployed import Deployed
from ops.cost.metrics import INSTANCE_METRICS, LAMBDA_METRICS
from ops.cost.prices import load_prices
from ops.cost.usage import readings_per_month, unknown_kinds, usage
from ops.paths import ROOT
from tests.infra.templates import synthesised

ON_AWS = ("dev", "staging", "prod")
PRICES = load_prices("us-east-1")


def templates(environment: str, **overrides: str) -> dict[str, Any]:
    return synthesised(environment, **overrides).stacks


def bill_of(environment: str, **overrides: str) -> Bill:
    settings = load(environment, overrides)
    return price(usage(settings, templates(environment, **overrides)), PRICES, readings_per_month(settings))


@cache
def prod() -> Prod:
    return Prod(load("prod"), templates("prod"), PRICES)


@pytest.mark.parametrize("environment", ON_AWS)
def test_an_environment_costs_less_than_its_budget(environment: str) -> None:
    budget = load(environment).budget_dollars_per_month
    assert budget is not None
    bill = bill_of(environment)
    assert bill.usd < budget, f"${bill.usd:,.2f} a month"
    # A budget so large that it would never speak is none: Budgets tells of what was not reckoned with.
    assert bill.usd > budget / 3


def test_the_pipeline_of_prod_keeps_its_target() -> None:
    assert load("prod").readings_per_second == TARGET_READINGS_PER_SECOND
    bill = bill_of("prod")
    assert bill.per_million(bill.pipeline_usd) < TARGET_USD_PER_MILLION


def test_the_target_is_lost_by_small_objects_archived_or_by_small_messages() -> None:
    """The test above notices what it is there to notice."""
    pipeline = replace(prod().pipeline, buffer_interval_seconds=1.0)
    moved = replace(pipeline, lifecycle=replace(pipeline.lifecycle, smallest_archived_bytes=0.0))
    for bill in (prod().bill(pipeline=moved), prod().bill(per_message=5)):
        assert bill.per_million(bill.pipeline_usd) > TARGET_USD_PER_MILLION
    broker = prod().bill(assumptions=replace(DEFAULT, basic_ingest=False))
    assert broker.per_million(broker.pipeline_usd) > TARGET_USD_PER_MILLION


@pytest.mark.parametrize("environment", ON_AWS)
def test_every_type_of_resource_is_reckoned_or_known_to_be_free(environment: str) -> None:
    assert unknown_kinds(templates(environment)) == []


def test_the_pipeline_is_read_from_the_template() -> None:
    settings, pipeline = load("prod"), prod().pipeline
    assert pipeline.buffer_interval_seconds == settings.buffer_interval_seconds
    assert pipeline.buffer_size_bytes == settings.buffer_size_mib * 2**20
    assert pipeline.loader_memory_mib == settings.loader_memory_mib
    assert (pipeline.loader_architecture, pipeline.gzip, pipeline.batch_mode, pipeline.actions) == (
        "arm64",
        True,
        False,
        1,
    )
    life = pipeline.lifecycle
    assert life.archive_after_days == settings.archive_after_days
    assert life.expire_after_days == settings.expire_after_days + 30  # as a noncurrent version


def test_what_is_changed_in_the_settings_changes_the_bill() -> None:
    overrides = {
        "loader_memory_mib": "3072",
        "expire_after_days": "3000",
        "log_retention_days": "731",
        "database_instance_type": "r7g.2xlarge",
        "database_volume_gib": "2000",
        "backup_retention_days": "90",
        "devices": "100000",
        "endpoint_zones": "1",
    }
    changed, as_is = bill_of("prod", **overrides), bill_of("prod")
    for service in ("Lambda", "S3", "CloudWatch logs", "EC2", "EBS", "Backups", "IoT Core"):
        assert changed.of(service) > 1.05 * as_is.of(service), service
    assert changed.of("VPC") < as_is.of("VPC")


def test_what_is_added_to_the_template_changes_the_bill() -> None:
    stacks = {name: deepcopy(template) for name, template in templates("prod").items()}
    stacks["network"]["Resources"]["Another"] = {
        "Type": "AWS::EC2::VPCEndpoint",
        "Properties": {"VpcEndpointType": "Interface", "SubnetIds": [{"Ref": "A"}]},
    }
    settings = load("prod")
    bill = price(usage(settings, stacks), PRICES, readings_per_month(settings))
    assert bill.usd - bill_of("prod").usd == pytest.approx(730 * 0.01)


def test_an_external_database_has_no_instance_and_no_backups() -> None:
    bill = bill_of("prod", database="external")
    assert bill.of("EC2", "EBS", "Backups") == 0
    assert bill.usd < bill_of("prod").usd


def test_each_metric_that_the_functions_emit_is_billed() -> None:
    """In the sources: what is a metric's name to Powertools is in the list that the bill counts."""
    listed = {name for names in LAMBDA_METRICS.values() for name in names}
    emitted = set()
    for path in (ROOT / "lambdas").rglob("*.py"):
        emitted |= set(re.findall(r"add_metric\(\s*(?:name=)?\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert emitted, "no metric found: does the pattern still fit?"
    assert emitted <= listed


def test_alarms_watch_no_custom_metric_that_is_not_billed() -> None:
    listed = {name for names in LAMBDA_METRICS.values() for name in names} | set(INSTANCE_METRICS)
    for alarm in Deployed(templates("prod")).of_type("AWS::CloudWatch::Alarm"):
        metrics = [stat["MetricStat"]["Metric"] for stat in alarm.at("Metrics") or [] if "MetricStat" in stat]
        for metric in metrics or [alarm.properties]:
            if str(metric.get("Namespace")).startswith("Fleetledger"):
                assert metric["MetricName"] in listed, alarm.logical_id
