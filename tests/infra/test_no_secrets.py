"""No secret stands in a template, in what is uploaded, or in what git keeps."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from infra.packaging import function_package
from ops.paths import ROOT
from tests.infra.templates import ENVIRONMENTS, synthesised

PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{32}")
ACCESS_KEY = re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
SECRET_NAMES = re.compile(r"password|passphrase|secretstring$|token$|apikey|accesskey|privatekey", re.IGNORECASE)


def literals(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a template with the name of the property that it stands under."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from literals(child, key)
    elif isinstance(value, list):
        for child in value:
            yield from literals(child, name)
    elif isinstance(value, str):
        yield name, value


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_no_property_that_is_called_a_secret_has_a_literal_value(environment: str) -> None:
    template = synthesised(environment, pager_secret="iot-alerts/pager", alert_email="ops@example.com")
    for layer, body in template.stacks.items():
        for name, value in literals(body["Resources"]):
            if SECRET_NAMES.search(name) and name != "GenerateStringKey":
                assert value.startswith("{{resolve:secretsmanager:"), f"{layer}: {name}"
        text = json.dumps(body).encode()
        assert not PRIVATE_KEY.search(text)
        assert not ACCESS_KEY.search(text)


def test_environment_variables_name_secrets_by_arn_and_hold_none() -> None:
    functions = synthesised("prod").everywhere("AWS::Lambda::Function")
    assert functions
    for name, body in functions.items():
        for variable, value in body["Properties"].get("Environment", {}).get("Variables", {}).items():
            assert not SECRET_NAMES.search(variable), f"{name}: {variable}"
            if "SECRET" in variable:
                assert variable.endswith("_ARN"), f"{name}: {variable}"
                assert isinstance(value, dict), f"{name}: {variable} is no reference"


@pytest.mark.parametrize("folder", ["processor", "migrator", "rotation", "watch"])
def test_no_key_is_uploaded_with_a_function(folder: str) -> None:
    for path in function_package(folder, "aws").rglob("*"):
        if path.is_file():
            assert path.suffix not in {".key", ".p12"}, path.name
            assert not PRIVATE_KEY.search(path.read_bytes()), path.name


def test_git_keeps_no_key() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        path = ROOT / name
        if path.is_file():
            content = path.read_bytes()
            assert not PRIVATE_KEY.search(content), name
            assert not ACCESS_KEY.search(content), name
