"""The broker's address and root CA."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from cryptography import x509
from moto import mock_aws

from certs import pem
from certs.authority import DeviceAuthority
from certs.endpoint import amazon_root_cas, data_endpoint, write_trust_anchor
from certs.store import IdentityStore
from ops.errors import UserError


def test_the_amazon_roots_are_four_and_nothing_else() -> None:
    roots = x509.load_pem_x509_certificates(amazon_root_cas().encode())
    assert [pem.common_name(root) for root in roots] == [f"Amazon Root CA {number}" for number in (1, 2, 3, 4)]
    for root in roots:
        assert pem.issued_by(root, root)
        assert root.not_valid_after_utc > datetime.now(UTC)
    # The fingerprint of Amazon Root CA 1 as browsers and operating systems list it.
    assert pem.certificate_id(roots[0]) == "8ecde6884f3d87b1125ba31ac3fcb13d7016de7f57cc904fe1cb97c6ae98196e"


def test_openssl_takes_the_roots_as_its_trust() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=amazon_root_cas())
    assert context.cert_store_stats()["x509_ca"] == 4


def test_a_root_of_the_right_name_and_another_key_is_not_taken(tmp_path: Path) -> None:
    impostor = DeviceAuthority.load_or_create(tmp_path / "ca")
    certificate, _ = impostor.issue("Amazon_Root_CA_1", 30)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(certificate + amazon_root_cas().partition("-----END CERTIFICATE-----")[2])
    with pytest.raises(UserError, match=r"bundle\.pem lacks Amazon Root CA 1: upgrade certifi"):
        amazon_root_cas(bundle)
    with pytest.raises(UserError, match=r"absent\.pem cannot be read"):
        amazon_root_cas(tmp_path / "absent.pem")


def test_the_trust_anchor_is_written_without_what_surrounds_it(tmp_path: Path) -> None:
    ca = pem.certificate_pem(DeviceAuthority.load_or_create(tmp_path / "ca").certificate)
    identities = IdentityStore(tmp_path / "store")
    write_trust_anchor(identities, f"# Broker\n{ca}\nend of file")
    assert identities.root_ca_file.read_text() == ca
    write_trust_anchor(identities, amazon_root_cas())
    assert identities.root_ca_file.read_text() == amazon_root_cas()


def test_what_is_no_root_ca_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    authority = DeviceAuthority.load_or_create(tmp_path / "ca")
    identities = IdentityStore(tmp_path / "store")
    write_trust_anchor(identities, pem.certificate_pem(authority.certificate))
    before = identities.root_ca_file.read_text()
    bad = {
        "": "no PEM certificate in it",
        "<html>404</html>": "no PEM certificate in it",
        "-----BEGIN CERTIFICATE-----\nzz\n-----END CERTIFICATE-----": "not a PEM certificate",
        "-----BEGIN CERTIFICATE-----\nzzé": "not a PEM certificate",
        authority.issue("device-00001", 30)[0]: "CN=device-00001 is not a CA",
    }
    for text, line in bad.items():
        with pytest.raises(UserError, match=line):
            write_trust_anchor(identities, text)
    assert identities.root_ca_file.read_text() == before


def test_the_data_endpoint_is_that_of_amazon_trust_services() -> None:
    with mock_aws():
        assert "-ats.iot.eu-west-1." in data_endpoint(boto3.client("iot", region_name="eu-west-1"))


def test_an_endpoint_that_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client(
        "iot",
        region_name="eu-west-1",
        endpoint_url="http://127.0.0.1:9",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(UserError, match=r"AWS IoT cannot be asked .*127\.0\.0\.1:9") as refusal:
        data_endpoint(client)
    assert "\n" not in str(refusal.value)
