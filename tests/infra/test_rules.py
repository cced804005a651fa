"""cdk-nag's rule packs over every environment: clean, with exceptions that are counted and say why."""

import json
from collections import Counter
from pathlib import Path

import pytest

from infra.settings import load
from ops.documents.waivers import waivers
from ops.synthesis import held_to_rules

VARIANTS = {
    "dev": {},
    "staging": {},
    "prod": {},
    "prod with an external database": {"database": "external"},
    "prod without its instance": {"database_instance": "absent"},
    "prod with a replica, a pager, Slack and GitHub": {
        "account": "111122223333",
        "region": "eu-west-1",
        "replica_region": "eu-central-1",
        "pager_secret": "iot-alerts/pager",
        "alert_email": "ops@example.com",
        "slack_workspace_id": "T0000000",
        "slack_channel_id": "C0000000",
        "github_repository": "acme/fleet",
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_environment_keeps_the_rules_or_says_why_not(variant: str, tmp_path: Path) -> None:
    held_to_rules(load(variant.split(maxsplit=1)[0], VARIANTS[variant]), tmp_path)
    report = json.loads((tmp_path / "validation-report.json").read_text())
    conclusions = {plugin["pluginName"]: plugin["conclusion"] for plugin in report["pluginReports"]}
    assert conclusions.items() >= {"AwsSolutions": "success", "NIST.800.53.R5": "success"}.items()
    assert set(conclusions.values()) == {"success"}


def test_the_exceptions_are_these_many_and_each_has_a_reason(tmp_path: Path) -> None:
    held_to_rules(load("prod"), tmp_path)
    found = waivers(tmp_path)
    ours = [waiver for waiver in found if not waiver.rule.startswith("F")]  # CDK's own, of its own constructs
    assert Counter(waiver.rule.partition("[")[0] for waiver in ours) == {
        "AwsSolutions-IAM5": 15,
        "AwsSolutions-S1": 1,
        "AwsSolutions-SMG4": 1,
        "NIST.800.53.R5-CloudWatchAlarmAction": 41,
        "NIST.800.53.R5-EC2EBSInBackupPlan": 1,
        "NIST.800.53.R5-EC2InstancesInVPC": 1,
        "NIST.800.53.R5-IAMNoInlinePolicy": 14,
        "NIST.800.53.R5-LambdaConcurrency": 8,
        "NIST.800.53.R5-LambdaDLQ": 8,
        "NIST.800.53.R5-LambdaInsideVPC": 1,
        "NIST.800.53.R5-S3BucketLoggingEnabled": 1,
        "NIST.800.53.R5-S3BucketReplicationEnabled": 4,
        "NIST.800.53.R5-S3DefaultEncryptionKMS": 1,
        "NIST.800.53.R5-SecretsManagerRotationEnabled": 1,
    }
    for waiver in ours:
        assert len(waiver.reason.split()) >= 5, waiver
        assert waiver.reason.endswith("."), waiver
        assert "false positive" not in waiver.reason.lower()
        assert waiver.construct.count("/") >= 1, "a whole stack is not excepted"
