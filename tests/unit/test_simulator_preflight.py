"""What is looked at before the first device connects."""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ops.errors import UserError
from simulator.run.engine import run
from simulator.run.preflight import check_identities, ensure_descriptors
from simulator.run.workers import worker_count
from simulator.scenario.config import SimulatorConfig


@dataclass(frozen=True)
class Identity:
    thing_name: str
    certificate_file: Path
    key_file: Path
    root_ca_file: Path


def issue(folder: Path, name: str, *, days: int = 1) -> Identity:
    """A pair of files in the form that every CA makes; here it has signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    end = datetime.now(UTC) + timedelta(days=days)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(end - timedelta(days=3)).not_valid_after(end).sign(key, hashes.SHA256())
    identity = Identity(name, folder / f"{name}.pem", folder / f"{name}.key", folder / "root.pem")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    identity.certificate_file.write_bytes(pem)
    identity.root_ca_file.write_bytes(pem)
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(identity.key_file, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(encoded)
    return identity


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return issue(tmp_path, "device-1")


def test_a_good_identity_passes(identity: Identity) -> None:
    check_identities([identity])


def test_a_certificate_that_does_not_match_its_key_names_both_files(identity: Identity, tmp_path: Path) -> None:
    other = issue(tmp_path, "device-2")
    mixed = replace(identity, key_file=other.key_file)
    with pytest.raises(UserError, match=r"device-1\.pem does not match its key .*device-2\.key"):
        check_identities([other, mixed])


@pytest.mark.parametrize("which", ["certificate_file", "key_file", "root_ca_file"])
def test_a_missing_or_broken_file_is_named(identity: Identity, which: str) -> None:
    file: Path = getattr(identity, which)
    file.write_text("-----BEGIN NOTHING-----")
    with pytest.raises(UserError, match=f"^{file}: is no "):
        check_identities([identity])
    file.unlink()
    with pytest.raises(UserError, match=f"^{file}: the .* cannot be read: No such file"):
        check_identities([identity])


def test_an_expired_certificate_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"device-1\.pem expired on 20\d\d-\d\d-\d\d \d\d:\d\d UTC: issue device-1 anew"
    ):
        check_identities([issue(tmp_path, "device-1", days=-1)])


def test_a_bad_identity_ends_a_run_before_it_begins(identity: Identity, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not match its key"):
        run(
            SimulatorConfig(),
            [replace(identity, key_file=issue(tmp_path, "device-2").key_file)],
            "192.0.2.1",  # documentation only: nobody must try to reach it
            8883,
            stop=Event(),
        )


def test_a_fleet_of_no_devices_is_none() -> None:
    with pytest.raises(UserError, match="no devices"):
        run(SimulatorConfig(), [], "localhost", 8883, stop=Event())


@pytest.fixture
def open_file_limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_of_open_files_is_raised_as_far_as_needed(open_file_limits: tuple[int, int]) -> None:
    hard = open_file_limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    ensure_descriptors(100)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, hard)
    ensure_descriptors(300)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (364, hard)


def test_more_devices_than_descriptors_says_how_many_are_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    # The hard limit itself cannot be raised again, so it is not lowered for a test.
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(
        UserError, match=r"^5000 devices need 5064 file descriptors .* have 4096: at most 4032 devices are possible"
    ):
        ensure_descriptors(5000)
    ensure_descriptors(8064, workers=2)
    with pytest.raises(UserError, match=r"each of 2 workers may .* 8064 devices are possible; .*, or `--workers 3`"):
        ensure_descriptors(8066, workers=2)


def test_workers_are_as_many_as_cores_and_devices_are_good_for() -> None:
    found = [worker_count(None, devices, cores) for devices, cores in [(10_000, 2), (10_000, 8), (1_200, 16), (10, 16)]]
    assert found == [1, 4, 2, 1]
    assert [worker_count(wanted, 3, 2) for wanted in (1, 2, 8)] == [1, 2, 3]
