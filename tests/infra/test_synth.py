"""The real `cdk` command line: every environment without credentials, cfn-lint, and one clear line for bad input."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


def synthesise_and_lint(environment: str, folder: Path) -> str:
    """What cdk or cfn-lint has to say against an environment's templates; nothing when all is well."""
    done = cdk("synth", "--quiet", "-c", f"env={environment}", "--output", str(folder))
    if done.returncode != 0:
        return done.stderr or "cdk failed"
    templates = sorted(folder.glob("*.template.json"))
    if not templates:
        return "cdk wrote no template"
    lint = subprocess.run(
        [Path(sys.executable).parent / "cfn-lint", *templates], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return "" if lint.returncode == 0 else lint.stdout or "cfn-lint failed"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """All environments, two at a time: each command keeps one processor busy, and no more."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            environment: pool.submit(synthesise_and_lint, environment, tmp_path_factory.mktemp(environment))
            for environment in ENVIRONMENTS
        }


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_environment_synthesises_without_credentials_and_passes_cfn_lint(
    environment: str, complaints: dict[str, Future[str]]
) -> None:
    assert complaints[environment].result() == ""


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
