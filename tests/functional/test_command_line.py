"""Bad input to `fleet` is one clear line and exit code 2, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops.paths import ROOT

FLEET = Path(sys.executable).parent / "fleet"


def fleet(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line with nothing running, no AWS settings, and the terminal wide."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "COLUMNS": "300",
        "FLEET_LOCAL_FOLDER": str(folder),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return subprocess.run(
        [FLEET, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["simulate", "--duration", "1"], "the local environment is not running: start it with fleet up"),
        (["objects"], "the local environment is not running: start it with fleet up"),
        (["objects", "--env", "nope"], "unknown environment 'nope': it is one of local, dev, staging, prod"),
        (["objects", "--env", "prod"], "no AWS region: set AWS_REGION"),
        (["simulate", "--env", "dev", "--duration", "1"], "no AWS region: set AWS_REGION"),
        (["simulate", "--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["simulate", "--interval", "0"], "--interval"),
        (["up", "--database", "oracle"], "--database oracle: use auto, debian or docker"),
        (["up", "--port", "99999"], "99999 is not a port"),
        (["up", "--database-url", "nonsense"], "the database URL is not readable"),
        (["demo", "--json", "nowhere/demo.json"], "the folder is not writable or does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = fleet(tmp_path / "local", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert fleet(tmp_path / "local", "down").returncode == 0


def test_a_folder_that_is_not_writable_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fleet(tmp_path / "file" / "local", "up")
    assert done.returncode == 2
    assert "cannot write in" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
