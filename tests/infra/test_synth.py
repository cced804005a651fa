"""The real `cdk` command line: every environment without credentials, cfn-lint, and one clear line for bad input."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ops.paths import ROOT
from tests.infra.templates import ENVIRONMENTS

CDK = ROOT / "node_modules" / ".bin" / "cdk"


def cdk(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs cdk as on a machine that has never heard of AWS."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "CDK_DISABLE_VERSION_CHECK": "1",
    }
    return subprocess.run(
        [CDK, *arguments, "--app", f"{shlex.quote(sys.executable)} app.py", "--no-color"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_synthesises_without_credentials_and_passes_cfn_lint(
    environment: str, tmp_path: Path
) -> None:
    done = cdk("synth", "--quiet", "-c", f"env={environment}", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    templates = sorted(tmp_path.glob("*.template.json"))
    assert templates
    lint = subprocess.run(
        [Path(sys.executable).parent / "cfn-lint", *templates], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no environment given: add -c env=NAME, where NAME is one of local, dev, staging, prod"),
        (["-c", "env=prdo"], "unknown environment 'prdo': it is one of local, dev, staging, prod"),
        (["-c", "env=dev", "-c", "retention_days=many"], "settings of 'dev': retention_days is 'many'; expected `int`"),
    ],
)
def test_bad_input_is_one_line_without_a_traceback(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = cdk("synth", "--quiet", *arguments, "--output", str(tmp_path))
    assert done.returncode != 0
    assert f"fleetledger: {line}" in done.stderr
    assert "Traceback" not in done.stderr
