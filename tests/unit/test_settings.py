"""Settings and names: what is right, and the one line for what is not."""

import pytest

from infra.settings import ENVIRONMENTS, load
from ops.errors import UserError


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_has_usable_settings(environment: str) -> None:
    assert load(environment).environment == environment


def test_values_from_the_command_line_are_typed() -> None:
    settings = load("dev", {"buffer_interval_seconds": "0", "account": "111122223333", "retain_data": "true"})
    assert (settings.buffer_interval_seconds, settings.account, settings.retain_data) == (0, "111122223333", True)


@pytest.mark.parametrize(
    ("environment", "overrides", "line"),
    [
        (None, {}, "no environment given"),
        ("", {}, "no environment given"),
        ("production", {}, "unknown environment 'production'"),
        ("dev", {"buffer_interval_seconds": "901"}, "buffer_interval_seconds is '901'; expected `int` <= 900"),
        ("dev", {"buffer_interval_seconds": "-1"}, "buffer_interval_seconds is '-1'; expected `int` >= 0"),
        ("dev", {"buffer_size_mib": "0"}, "buffer_size_mib is '0'"),
        ("dev", {"loader_max_concurrency": "1"}, "loader_max_concurrency is '1'"),
        ("dev", {"account": "42"}, "account is '42'"),
        ("dev", {"region": "Ireland"}, "region is 'Ireland'"),
        ("dev", {"log_retention_days": "8"}, "log_retention_days is '8'"),
        (
            "dev",
            {"expire_after_days": "30"},
            "expire_after_days is 30; it must be greater than archive_after_days (30)",
        ),
        ("dev", {"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_what_is_not_usable_is_one_line(environment: str | None, overrides: dict[str, str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        load(environment, overrides)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prod_and_local_carry_no_suffix_and_the_others_their_own() -> None:
    assert load("prod").names.loader == load("local").names.loader == "iot-telemetry-processor"
    assert load("dev").names.loader == "iot-telemetry-processor-dev"
    assert load("staging").names.rule == "TelemetryToFirehose_staging", "IoT allows no hyphen in a rule's name"
    assert load("dev").names.basic_ingest_topic == "$aws/rules/TelemetryToFirehose_dev/iot/telemetry-dev"
    assert load("prod").names.bucket("111122223333", "us-east-1") == "iot-telemetry-bucket-111122223333-us-east-1"
