"""The device CA: an EC P-256 key of our own that issues one client certificate per device."""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs import pem
from certs.files import PRIVATE, PUBLIC, locked, private_folder, write_file
from certs.names import valid_thing_name
from ops.errors import UserError

CA_CERTIFICATE, CA_KEY = "ca.pem", "ca.key"
CA_VALIDITY = timedelta(days=3650)
# A device whose clock runs a little behind must be able to use its certificate at once.
CLOCK_SKEW = timedelta(minutes=5)
# RFC 5280, appendix A.1: ub-common-name. AWS allows thing names of up to 128 characters.
COMMON_NAME_LIMIT = 64


@dataclass(frozen=True)
class DeviceAuthority:
    """The CA's certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load_or_create(cls, folder: Path) -> Self:
        """The CA in `folder` (`ca.pem`, `ca.key`), made now if there is none; safe to call from two processes at once.

        Raises:
            UserError: the key is missing while the certificate is there, the two do not match, the certificate has
                expired, or a file cannot be read or written.
        """
        certificate_file, key_file = folder / CA_CERTIFICATE, folder / CA_KEY
        private_folder(folder)
        with locked(folder / ".ca.lock"):
            if certificate_file.exists() and not key_file.exists():
                raise UserError(f"{key_file} is missing, so nothing can be issued: restore it, or use a new --store")
            # The key is written first: a key without a certificate is a CA that was about to be made.
            if not key_file.exists():
                key = ec.generate_private_key(ec.SECP256R1())
                write_file(key_file, pem.private_key_pem(key).encode(), mode=PRIVATE, durable=True)
            key = pem.read_private_key(key_file)
            if not certificate_file.exists():
                certificate = _self_signed(key, datetime.now(UTC))
                write_file(certificate_file, pem.certificate_pem(certificate).encode(), mode=PUBLIC, durable=True)
        certificate = pem.read_certificate(certificate_file)
        if not pem.matches(certificate, key):
            raise UserError(f"{certificate_file} does not match the key {key_file}: restore the pair from one backup")
        if not pem.is_ca(certificate):
            raise UserError(f"{certificate_file} is not the certificate of a CA: restore it, or use a new --store")
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise UserError(
                f"{certificate_file} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: use a new --store"
            )
        return cls(certificate, key)

    def issue(self, thing_name: str, validity_days: int) -> tuple[str, str]:
        """A new key and a client certificate for it, as PEM: `(certificate, key)`.

        It is never valid for longer than the CA itself.

        Raises:
            UserError: the thing name is not one, or is too long for a common name; the validity is below one day.
        """
        valid_thing_name(thing_name)
        if len(thing_name) > COMMON_NAME_LIMIT:
            raise UserError(
                f"{thing_name} has {len(thing_name)} characters, and a certificate takes names of up to"
                f" {COMMON_NAME_LIMIT}: use a shorter name"
            )
        if validity_days < 1:
            raise UserError(f"a validity of {validity_days} days is none: use 1 or more")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(thing_name, key, datetime.now(UTC), timedelta(days=validity_days))
        return pem.certificate_pem(certificate), pem.private_key_pem(key)

    def _sign(
        self, thing_name: str, key: ec.EllipticCurvePrivateKey, now: datetime, validity: timedelta
    ) -> x509.Certificate:
        # The same identifier that `_self_signed` put into the CA's own certificate.
        ca_key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _certificate_builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, thing_name)]), key, now)
            .issuer_name(self.certificate.subject)
            .not_valid_after(min(now + validity, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(ca_key_id, critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # A subject of its own for every CA: AWS cannot tell two registered CAs of one subject apart.
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Fleetledger"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Fleetledger device CA {secrets.token_hex(4)}"),
        ]
    )
    builder = (
        _certificate_builder(name, key, now)
        .issuer_name(name)
        .not_valid_after(now + CA_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
    )
    return builder.sign(key, hashes.SHA256())


def _certificate_builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.CertificateBuilder:
    """What the CA's certificate and a device's have in common."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def key_usage(*, digital_signature: bool = False, signs_certificates: bool = False) -> x509.KeyUsage:
    """The key usage extension of a certificate that signs data, or certificates and revocation lists."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
