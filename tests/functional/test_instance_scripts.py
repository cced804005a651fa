"""The instance's scripts and templates as text: what can be told without running them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.functional.instance_sandbox import SCRIPTS, SERVICE, Instance, Metadata, bare_instance, metadata_service

_SHELLCHECK = Path(shutil.which("shellcheck") or Path(__file__).parents[2] / ".venv" / "bin" / "shellcheck")


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    """The instance's metadata service."""
    with metadata_service() as service:
        yield service


@pytest.fixture
def instance(tmp_path: Path, metadata: Metadata) -> Instance:
    """An instance that calls nobody."""
    return bare_instance(tmp_path, metadata, 1, {"admin": "admin", "loader": "loader"})


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [*SCRIPTS.glob("*.sh"), *SCRIPTS.glob("lib/*.sh")]
    assert len(scripts) > 10
    done = subprocess.run(
        [_SHELLCHECK, "-x", "-P", SCRIPTS, *scripts], cwd=SCRIPTS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_no_script_evaluates_text() -> None:
    for script in SCRIPTS.rglob("*.sh"):
        assert not re.search(r"^\s*eval\b|\bset -x\b", script.read_text(), re.MULTILINE), script


def test_the_user_data_fits() -> None:
    """User data has 16 KB at most, and instance.env is in it too.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
    """
    assert (SCRIPTS / "start.sh").stat().st_size < 10_000


def test_systemd_takes_the_units(instance: Instance, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "postgres").write_text("#!/bin/sh\n")
    (programs / "postgres").chmod(0o755)
    done = instance.bash("write_units", BIN_FOLDER=str(programs), SYSTEMCTL="true")
    assert done.returncode == 0, done.stderr
    units = sorted((instance.root / "units").iterdir())
    assert len(units) == 7
    checked = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *units], capture_output=True, text=True, check=False
    )
    ours = [line for line in checked.stderr.splitlines() if "fleetledger" in line]
    assert ours == []
    assert checked.returncode == 0, checked.stderr


def test_the_agent_sends_each_metric_under_the_service_alone(instance: Instance) -> None:
    """By the agent's rules a roll-up is made only of a metric that has more dimensions than it, and dropping the original
    of one that has no more would drop the metric.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Agent-Configuration-File-Details.html
    """
    done = instance.bash('make_folder "$CONFIG_FOLDER" 0755 "$OS_USER"; start_agent', AGENT_CTL="true")
    assert done.returncode == 0, done.stderr
    config = json.loads((instance.root / "etc" / "cloudwatch-agent.json").read_text())
    metrics = config["metrics"]
    assert config["agent"]["omit_hostname"] is True
    assert metrics["namespace"] == "Fleetledger/Database"
    assert metrics["aggregation_dimensions"] == [["service"]]
    assert "append_dimensions" not in metrics
    memory, disk = metrics["metrics_collected"]["mem"], metrics["metrics_collected"]["disk"]
    assert memory["append_dimensions"] == disk["append_dimensions"] == {"service": SERVICE}
    assert "drop_original_metrics" not in memory
    assert disk["resources"] == [str(instance.volume)]
    assert disk["drop_original_metrics"] == ["disk_used_percent"]
    files = {each["file_path"]: each for each in config["logs"]["logs_collected"]["files"]["collect_list"]}
    assert f"{instance.root}/log/postgresql-*.log" in files
    assert {each["log_group_name"] for each in files.values()} == {f"/fleetledger/{SERVICE}"}


def test_a_template_without_a_value_is_an_error(instance: Instance, tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_text("one=@AWS_REGION@ two=@SOMETHING@\n")
    done = instance.bash(f"render {template} AWS_REGION")
    assert done.returncode == 1
    assert done.stderr == "error: template needs SOMETHING, which nobody gave it\n"


def test_repository_is_the_bucket_by_the_instances_role() -> None:
    text = (SCRIPTS / "templates" / "repository-s3.conf").read_text()
    options = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert options["repo1-type"] == "s3"
    assert options["repo1-s3-key-type"] == "auto"
    assert not {"repo1-s3-key", "repo1-s3-key-secret"} & options.keys()
