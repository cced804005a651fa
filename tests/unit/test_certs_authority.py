"""The device CA: what it issues is what a TLS server that demands client certificates accepts."""

import hashlib
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from certs import pem
from certs.authority import DeviceAuthority
from ops.errors import UserError


@pytest.fixture
def authority(tmp_path: Path) -> DeviceAuthority:
    return DeviceAuthority.load_or_create(tmp_path / "store")


def issue(authority: DeviceAuthority, name: str = "device-00001", days: int = 30) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue(name, days)[0].encode())


def verify_as_client(certificate: x509.Certificate, ca: x509.Certificate) -> None:
    """As a TLS server does, with the strict rules of the web for the CA; a device needs no subject alternative name."""
    device = ExtensionPolicy.permit_all().require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, None)
    policy = (
        PolicyBuilder()
        .store(Store([ca]))
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=device)
    )
    policy.build_client_verifier().verify(certificate, [])


def test_a_device_certificate_verifies_against_its_ca(authority: DeviceAuthority) -> None:
    verify_as_client(issue(authority), authority.certificate)


def test_a_device_certificate_does_not_verify_against_another_ca(authority: DeviceAuthority, tmp_path: Path) -> None:
    other = DeviceAuthority.load_or_create(tmp_path / "other")
    with pytest.raises(VerificationError):
        verify_as_client(issue(authority), other.certificate)
    assert authority.certificate.subject != other.certificate.subject


def test_the_ca_certificate_is_one_for_ten_years_that_signs_devices_and_no_other_ca(authority: DeviceAuthority) -> None:
    ca = authority.certificate
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert ca.not_valid_after_utc - datetime.now(UTC) > timedelta(days=3649)
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)


def test_a_device_certificate_says_whose_it_is_and_that_it_is_a_client(authority: DeviceAuthority) -> None:
    certificate = issue(authority)
    extensions = certificate.extensions
    assert pem.common_name(certificate) == "device-00001"
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    ca_id = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == ca_id
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier != ca_id


def test_a_device_certificate_is_valid_from_a_few_minutes_ago_for_the_days_asked_for(
    authority: DeviceAuthority,
) -> None:
    certificate, now = issue(authority, days=30), datetime.now(UTC)
    assert timedelta(minutes=1) < now - certificate.not_valid_before_utc < timedelta(minutes=10)
    assert timedelta(days=29, hours=23) < certificate.not_valid_after_utc - now <= timedelta(days=30)


def test_no_device_certificate_outlives_the_ca(authority: DeviceAuthority) -> None:
    assert issue(authority, days=20_000).not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_the_key_is_p256_in_pkcs8_and_fits_its_certificate(authority: DeviceAuthority) -> None:
    certificate_text, key_text = authority.issue("device-00001", 30)
    key = serialization.load_pem_private_key(key_text.encode(), password=None)
    assert key_text.startswith("-----BEGIN PRIVATE KEY-----")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert pem.matches(x509.load_pem_x509_certificate(certificate_text.encode()), key)


def test_serial_numbers_and_keys_are_not_repeated(authority: DeviceAuthority) -> None:
    issued = [issue(authority) for _ in range(5)]
    assert len({certificate.serial_number for certificate in issued}) == 5
    assert len({pem.certificate_id(certificate) for certificate in issued}) == 5


def test_the_certificate_id_is_the_sha256_of_the_der_form(authority: DeviceAuthority) -> None:
    certificate = issue(authority)
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert pem.certificate_id(certificate) == hashlib.sha256(der).hexdigest()


def test_the_ca_is_made_once(tmp_path: Path, authority: DeviceAuthority) -> None:
    assert DeviceAuthority.load_or_create(tmp_path / "store").certificate == authority.certificate
    assert stat.S_IMODE((tmp_path / "store" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700


def test_the_key_is_not_in_the_representation(authority: DeviceAuthority) -> None:
    assert "key" not in repr(authority)


def test_a_ca_that_was_cut_off_after_its_key_is_completed_with_that_key(
    tmp_path: Path, authority: DeviceAuthority
) -> None:
    (tmp_path / "store" / "ca.pem").unlink()
    again = DeviceAuthority.load_or_create(tmp_path / "store")
    assert again.key.private_numbers() == authority.key.private_numbers()
    verify_as_client(issue(again), again.certificate)


def test_a_ca_without_its_key_issues_nothing(tmp_path: Path, authority: DeviceAuthority) -> None:
    (tmp_path / "store" / "ca.key").unlink()
    with pytest.raises(UserError, match=r"ca\.key is missing.*restore it") as refusal:
        DeviceAuthority.load_or_create(tmp_path / "store")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "store" / "ca.key").exists()


def test_a_ca_with_the_key_of_another_issues_nothing(tmp_path: Path, authority: DeviceAuthority) -> None:
    DeviceAuthority.load_or_create(tmp_path / "other")
    (tmp_path / "other" / "ca.key").replace(tmp_path / "store" / "ca.key")
    with pytest.raises(UserError, match=r"ca\.pem does not match the key .*ca\.key"):
        DeviceAuthority.load_or_create(tmp_path / "store")


def test_a_device_certificate_cannot_stand_in_for_the_ca(tmp_path: Path, authority: DeviceAuthority) -> None:
    certificate, key = authority.issue("device-00001", 30)
    (tmp_path / "store" / "ca.pem").write_text(certificate)
    (tmp_path / "store" / "ca.key").write_text(key)
    with pytest.raises(UserError, match="not the certificate of a CA"):
        DeviceAuthority.load_or_create(tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "days", "line"),
    [
        ("a/b", 30, "no thing name"),
        ("x" * 65, 30, "65 characters.*up to 64"),
        ("device-00001", 0, "validity of 0 days"),
    ],
)
def test_what_cannot_be_issued_is_refused(authority: DeviceAuthority, name: str, days: int, line: str) -> None:
    with pytest.raises(UserError, match=line):
        authority.issue(name, days)
