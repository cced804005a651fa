"""What must be right before the first device connects: its files, and this process's limits."""

import resource
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ops.errors import UserError
from simulator.mqtt.identity import DeviceIdentityLike

_OWN_DESCRIPTORS = 64
"""Kept for everything but the devices' connections: event loops, log files, whatever the caller has open."""


def check_identities(identities: Sequence[DeviceIdentityLike]) -> None:
    """See that every device has a valid certificate, the key that belongs to it, and a root CA.

    Raises `UserError` for the first that has not.
    """
    roots_seen: set[Path] = set()
    for identity in identities:
        _check_pair(identity)
        if identity.root_ca_file not in roots_seen:
            roots_seen.add(identity.root_ca_file)
            _certificate(identity.root_ca_file, "root CA")


def _check_pair(identity: DeviceIdentityLike) -> None:
    certificate = _certificate(identity.certificate_file, f"certificate of {identity.thing_name}")
    try:
        key = serialization.load_pem_private_key(_read(identity.key_file, "private key"), password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise UserError(f"{identity.key_file}: is no unencrypted private key in PEM: issue the device anew") from error
    if _spki(certificate.public_key()) != _spki(key.public_key()):
        raise UserError(
            f"{identity.certificate_file} does not match its key {identity.key_file}: "
            f"restore the pair, or issue {identity.thing_name} anew"
        )
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise UserError(f"{identity.certificate_file} expired on {ended}: issue {identity.thing_name} anew")


def _certificate(file: Path, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_read(file, what))
    except ValueError as error:
        raise UserError(f"{file}: is no certificate in PEM, but should be the {what}") from error


def _read(file: Path, what: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: the {what} cannot be read: {error.strerror}") from error


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def ensure_descriptors(devices: int, workers: int = 1) -> None:
    """Raise the limit of open files, which each process has, to what its share of so many connections needs.

    Raises `UserError` when the hard limit does not allow it.
    """
    needed = -(-devices // workers) + _OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        each = max(0, hard - _OWN_DESCRIPTORS)
        more = f", or `--workers {-(-devices // each)}`" if each else ""
        processes = "this process" if workers == 1 else f"each of {workers} workers"
        raise UserError(
            f"{devices} devices need {needed} file descriptors and {processes} may have {hard}: at most "
            f"{each * workers} devices are possible; for more, root raises the limit (`ulimit -n {needed}`){more}"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
