"""`fleet certs`, with the real store and moto."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner, Result

from certs import pem
from certs.cli import app
from certs.endpoint import amazon_root_cas
from certs.names import thing_names
from certs.store import IdentityStore
from ops.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


class Registry:
    """Stands for the database's registry of devices: all there is of a device is whether it is in service."""

    def __init__(self) -> None:
        self.said: list[tuple[str, tuple[str, ...], bool]] = []
        self.fault: str | None = None

    def set_active(self, env: str, names: Sequence[str], *, active: bool) -> int:
        if self.fault:
            raise UserError(self.fault)
        self.said.append((env, tuple(names), active))
        return len(names)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    fake = ModuleType("ops.devices.service")
    fake.set_active = registry.set_active  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ops.devices.service", fake)
    return registry


@pytest.fixture
def iot(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """AWS as `ops.aws.session_for` would reach it, with the names of every environment deployed."""
    with mock_aws(config={"iot": {"use_valid_cert": True}}):
        session = boto3.session.Session(region_name="eu-west-1")
        fake = ModuleType("ops.aws")
        fake.session_for = lambda _env: session  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ops.aws", fake)
        client = session.client("iot")
        for suffix in ("", "-dev"):
            client.create_thing_type(thingTypeName=f"IoTDevice{suffix}")
            client.create_policy(policyName=f"IoTDevicePolicy{suffix}", policyDocument="{}")
        yield client


def run(folder: Path, *arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", str(folder)], input=answer)


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def things(iot: Any) -> list[str]:
    return sorted(thing["thingName"] for thing in iot.list_things()["things"])


def test_issue_then_issue_again(folder: Path) -> None:
    assert done(run(folder, "issue", "--device-count", "3")) == f"issued 3, kept 0 in {folder}\n"
    assert done(run(folder, "issue", "--device-count", "4")) == f"issued 1, kept 3 in {folder}\n"
    assert done(run(folder, "issue", "pump-7")) == f"issued 1, kept 0 in {folder}\n"
    assert IdentityStore(folder).things() == [*thing_names(4), "pump-7"]


def test_list_shows_each_certificate_and_what_is_wrong_with_it(folder: Path) -> None:
    done(run(folder, "issue", "-n", "2"))
    identities = IdentityStore(folder)
    certificate_id = pem.certificate_id(identities.certificate("device-00001"))
    identities.key_file("device-00002").unlink()
    shown = done(run(folder, "list"))
    assert certificate_id[:16] in shown
    assert [line.split()[-2] for line in shown.splitlines() if "device-00001" in line] == ["good"]
    assert "half written" in shown
    assert "device-00003" not in shown
    assert "missing" in done(run(folder, "list", "device-00003"))


def test_check_names_each_bad_file_and_fails(folder: Path) -> None:
    done(run(folder, "issue", "-n", "3"))
    assert done(run(folder, "check")) == f"3 of 3 identities in {folder} are good\n"
    identities = IdentityStore(folder)
    identities.key_file("device-00001").unlink()
    identities.certificate_file("device-00003").write_text("x")
    result = run(folder, "check")
    assert result.exit_code == 2
    assert result.stdout == f"1 of 3 identities in {folder} are good\n"
    assert len(result.stderr.splitlines()) == 2
    assert "device-00001.key is missing" in result.stderr
    assert "device-00003.pem holds no PEM certificate" in result.stderr


def test_register_then_unregister_a_fleet(folder: Path, iot: Any, registry: Registry) -> None:
    shown = done(run(folder, "register", "-n", "3", "--env", "dev"))
    assert shown == "registered in dev: 3 created, 0 as they were, 0 repaired\n3 in service again in the registry\n"
    done(run(folder, "register", "-n", "3", "--env", "dev"))
    names = tuple(thing_names(3))
    assert registry.said == [("dev", names, True)]  # whatever was as it was is left alone
    assert things(iot) == thing_names(3)
    assert {thing["thingTypeName"] for thing in iot.list_things()["things"]} == {"IoTDevice-dev"}
    assert (folder / "root-ca.pem").read_text() == amazon_root_cas()
    shown = done(run(folder, "unregister", "-n", "3", "--env", "dev", "--yes"))
    assert shown == "unregistered in dev: 3 removed, 0 were not there\n3 out of service in the registry\n"
    assert registry.said[1:] == [("dev", names, False)]
    assert things(iot) == []
    assert IdentityStore(folder).things() == thing_names(3)


def test_the_local_broker_keeps_the_root_that_fleet_up_wrote(folder: Path, iot: Any) -> None:
    IdentityStore(folder).write_root_ca("the emulator's")
    done(run(folder, "register", "-n", "1"))
    assert (folder / "root-ca.pem").read_text() == "the emulator's"


def test_what_the_registry_is_to_be_told_later(folder: Path, iot: Any, registry: Registry) -> None:
    done(run(folder, "register", "-n", "2", "--env", "dev"))
    registry.fault = "cannot connect to the database at 10.0.0.1:5432: timeout expired"
    result = run(folder, "unregister", "device-00001", "--yes", "--env", "dev")
    assert done(result) == "unregistered in dev: 1 removed, 0 were not there\n"
    assert result.stderr == (
        f"the registry does not know ({registry.fault}): later, for each, "
        "fleet devices update device-00001 --inactive --env dev\n"
    )
    assert "update THING --inactive --env dev" in run(folder, "unregister", "-n", "2", "--yes", "--env", "dev").stderr


def test_unregister_asks_first(folder: Path, iot: Any) -> None:
    done(run(folder, "register", "-n", "3"))
    result = run(folder, "unregister", "-n", "3", answer="n\n")
    assert result.exit_code == 1
    assert "Delete 3 things, device-00001 to device-00003, from AWS IoT Core of local?" in result.output
    assert things(iot) == thing_names(3)
    done(run(folder, "unregister", "device-00002", "--discard-keys", answer="y\n"))
    assert things(iot) == ["device-00001", "device-00003"]
    assert IdentityStore(folder).things() == ["device-00001", "device-00003"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("issue", "--device-count", "0"), "device count of 0"),
        (("issue", "a/b"), "no thing name"),
        (("issue", "-n", "1", "--validity-days", "0"), "validity of 0 days"),
        (("check",), "no device CA"),
        (("list",), "no device CA"),
        (("register", "--env", "moon"), "unknown environment 'moon'"),
        (("register", "-n", "1", "--concurrency", "0"), "concurrency of 0"),
    ],
)
def test_a_bad_option_is_a_user_error(folder: Path, iot: Any, arguments: tuple[str, ...], line: str) -> None:
    result = run(folder, *arguments)
    assert isinstance(result.exception, UserError)
    assert line in str(result.exception)
    assert things(iot) == []


def test_the_module_is_light_to_import() -> None:
    """`fleet --help` shows these commands too: it must not wait for boto3."""
    code = "import sys, certs.cli; print([name for name in ('boto3', 'botocore', 'certifi') if name in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
