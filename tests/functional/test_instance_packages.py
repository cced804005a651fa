"""The instance installs exactly what the manifest in its bucket lists: a wrong sum or a missing file stops it."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.session import AwsSession
from local.state import Emulator
from tests.functional.instance_sandbox import SCRIPTS, Instance, Metadata, bare_instance, metadata_service

_CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: nobody <nobody@example.com>
Depends: {depends}
Description: for a test
"""


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    """The instance's metadata service."""
    with metadata_service() as service:
        yield service


@pytest.fixture
def instance(tmp_path: Path, metadata: Metadata, emulator: Emulator, aws: AwsSession) -> Instance:
    """An instance with an empty bucket for its packages."""
    made = bare_instance(tmp_path, metadata, emulator.port, {"admin": "admin", "loader": "loader"})
    bucket = f"packages-{os.getpid()}-{hashlib.sha256(bytes(tmp_path)).hexdigest()[:8]}"
    aws.client("s3").create_bucket(Bucket=bucket)
    made.settings["PACKAGES_BUCKET"] = bucket
    return made


def _package(folder: Path, name: str, *, version: str = "1.0", depends: str = "") -> Path:
    tree = folder / f"{name}-tree" / "DEBIAN"
    tree.mkdir(parents=True)
    control = _CONTROL.format(name=name, version=version, depends=depends).replace("Depends: \n", "")
    (tree / "control").write_text(control)
    deb = folder / f"{name}_{version}_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(tree.parent), str(deb)], check=True, capture_output=True
    )
    shutil.rmtree(tree.parent)
    return deb


def _upload(aws: AwsSession, bucket: str, debs: list[Path]) -> str:
    manifest = "".join(f"{hashlib.sha256(deb.read_bytes()).hexdigest()}  {deb.name}\n" for deb in debs)
    for deb in debs:
        aws.client("s3").put_object(Bucket=bucket, Key=deb.name, Body=deb.read_bytes())
    aws.client("s3").put_object(Bucket=bucket, Key="SHA256SUMS", Body=manifest.encode())
    return manifest


def _fetch(instance: Instance) -> subprocess.CompletedProcess[str]:
    (instance.root / "state").mkdir(exist_ok=True)
    return instance.bash('fetch_packages "$STATE_FOLDER/packages"')


def test_an_empty_bucket_says_what_fills_it(instance: Instance) -> None:
    done = _fetch(instance)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: s3://{instance.settings['PACKAGES_BUCKET']}/SHA256SUMS cannot be read: collect_packages.sh makes the "
        "folder to upload (docs/database.md, Software)"
    )


@pytest.mark.parametrize("fault", ["changed", "absent", "manifest"])
def test_what_is_not_as_the_manifest_says_is_not_installed(
    instance: Instance, aws: AwsSession, tmp_path: Path, fault: str
) -> None:
    bucket = instance.settings["PACKAGES_BUCKET"]
    manifest = _upload(aws, bucket, [_package(tmp_path, "one"), _package(tmp_path, "two")])
    client = aws.client("s3")
    match fault:
        case "changed":
            client.put_object(Bucket=bucket, Key="two_1.0_all.deb", Body=b"something else")
        case "absent":
            client.delete_object(Bucket=bucket, Key="two_1.0_all.deb")
        case "manifest":
            client.put_object(Bucket=bucket, Key="SHA256SUMS", Body=manifest.replace("two_", "../two_").encode())
    done = _fetch(instance)
    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert "two_1.0_all.deb" in error


def test_apt_takes_what_is_asked_for_and_what_that_needs(instance: Instance, aws: AwsSession, tmp_path: Path) -> None:
    _upload(
        aws,
        instance.settings["PACKAGES_BUCKET"],
        [
            _package(tmp_path, "fleet-server", depends="fleet-library (>= 1.0)"),
            _package(tmp_path, "fleet-library", version="1.1"),
            _package(tmp_path, "fleet-unasked"),
        ],
    )
    assert _fetch(instance).returncode == 0
    configuration = tmp_path / "apt.conf"
    # This machine's own packages and caches stay out of it.
    configuration.write_text(
        f'Dir::State "{tmp_path}/apt";\nDir::Cache "{tmp_path}/apt";\nDir::State::status "/dev/null";\n'
        'APT::Sandbox::User "";\n'
    )
    (tmp_path / "apt" / "archives" / "partial").mkdir(parents=True)
    done = instance.bash(
        'folder=$STATE_FOLDER/packages; index_packages "$folder"; local_apt "$folder" update;'
        ' local_apt "$folder" --simulate install fleet-server',
        APT_CONFIG=str(configuration),
    )
    assert done.returncode == 0, done.stderr
    installed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("Inst ")}
    assert installed == {"fleet-server", "fleet-library"}


def test_a_manifest_that_is_installed_is_not_fetched_again(instance: Instance, aws: AwsSession, tmp_path: Path) -> None:
    _upload(aws, instance.settings["PACKAGES_BUCKET"], [_package(tmp_path, "one")])
    state = instance.root / "state"
    assert _fetch(instance).returncode == 0
    assert (state / "packages" / "one_1.0_all.deb").exists()
    shutil.copy(state / "packages" / "SHA256SUMS", state / "installed.SHA256SUMS")
    assert _fetch(instance).returncode == 0
    assert not (state / "packages" / "one_1.0_all.deb").exists()


_APT_GET = """\
#!/bin/bash
case " $* " in
  *" --print-uris "*)
    echo "'file:/pool/postgresql-17_17.6-1+pg_arm64.deb' postgresql-17_17.6-1+pg_arm64.deb 10 SHA256:0"
    echo "'file:/pool/libx%2b%2b_2%3a1.0_arm64.deb' libx++_2%3a1.0_arm64.deb 10 SHA256:0" ;;
  *" download "*)
    for package in "${@:3}"; do
      name=${package/=/_}
      echo "$package" >"${name//:/%3a}_arm64.deb"
    done ;;
esac
"""


@pytest.fixture
def collector(tmp_path: Path) -> dict[str, str]:
    """An environment that looks like Ubuntu 24.04 arm64; apt-get offers two packages with names that need care."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apt-get").write_text(_APT_GET)
    (tools / "apt-cache").write_text("#!/bin/bash\n")
    (tools / "dpkg").write_text("#!/bin/bash\necho arm64\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "os-release").write_text('ID=ubuntu\nVERSION_ID="24.04"\n')
    return os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "OS_RELEASE": str(tmp_path / "os-release")}


def _collect(environment: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPTS / "collect_packages.sh", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_packages_are_collected_under_names_that_need_no_escaping(collector: dict[str, str], tmp_path: Path) -> None:
    agent = _package(tmp_path, "amazon-cloudwatch-agent")
    done = _collect(collector, tmp_path / "packages", agent)
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (tmp_path / "packages").iterdir())
    assert found == [
        "SHA256SUMS",
        "amazon-cloudwatch-agent_1.0_all.deb",
        "libx--_2-3a1.0_arm64.deb",
        "postgresql-17_17.6-1-pg_arm64.deb",
    ]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "packages", check=True)
    again = _collect(collector, tmp_path / "packages", agent)
    assert again.returncode == 1
    assert again.stderr.endswith("is not empty: give a new folder\n")


def test_packages_are_collected_on_the_instances_own_kind_of_machine(collector: dict[str, str], tmp_path: Path) -> None:
    agent = _package(tmp_path, "amazon-cloudwatch-agent")
    wrong_file = _collect(collector, tmp_path / "packages", _package(tmp_path, "other"))
    assert "is not the CloudWatch agent's package" in wrong_file.stderr
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
    wrong_system = _collect(collector, tmp_path / "packages", agent)
    assert wrong_system.returncode == 1
    assert wrong_system.stderr == "error: this machine is debian 12 arm64: run it on Ubuntu 24.04 arm64\n"
