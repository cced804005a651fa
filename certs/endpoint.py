"""Where devices connect to, and the root CA by which they know that it is the right broker."""

import hashlib
import ssl
from pathlib import Path

import certifi
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from certs import pem
from certs.registry import IoTClient, fault
from certs.store import IdentityStore
from ops.errors import UserError

# SHA-256 of each root's public key, as published by https://www.amazontrust.com/repository/ . IoT Core's Data-ATS
# endpoints chain to 1 (RSA) or 3 (EC); 2 and 4 are reserved for later by
# https://docs.aws.amazon.com/iot/latest/developerguide/server-authentication.html
_AMAZON_ROOT_KEYS = {
    "Amazon Root CA 1": "fbe3018031f9586bcbf41727e417b7d1c45c2f47f93be372a17b96b50757d5a2",
    "Amazon Root CA 2": "7f4296fc5b6a4e3b35d3c369623e364ab1af381d8fa7121533c9d6c633ea2461",
    "Amazon Root CA 3": "36abc32656acfc645c61b71613c4bf21c787f5cabbee48348d58597803d7abc9",
    "Amazon Root CA 4": "f7ecded5c66047d28ed6466b543c40e0743abe81d109254dcf845d4c2c7853c5",
}
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def data_endpoint(iot_client: IoTClient) -> str:
    """The host that devices of this account and region connect to (`iot:Data-ATS`, MQTT over TLS on port 8883).

    The emulator answers with a host of no use: use its own host and port there.

    Raises:
        UserError: AWS IoT does not answer, or refuses.
    """
    try:
        return str(iot_client.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"])
    except (ClientError, BotoCoreError) as error:
        raise fault(error, "the data endpoint") from error


def amazon_root_cas(bundle: Path | None = None) -> str:
    """Amazon Root CA 1 to 4 as PEM, from the certifi package: no network, and nothing else that certifi trusts.

    Raises:
        UserError: the bundle cannot be read or lacks one of the four, known by its public key.
    """
    bundle = bundle or Path(certifi.where())
    try:
        blocks = _pem_blocks(bundle.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{bundle} cannot be read ({error.strerror}): install certifi again") from error
    found = {}
    for block in blocks:
        # Most of the bundle is not Amazon's: parsing it all would cost time, and warnings about odd certificates.
        if b"Amazon Root CA" in ssl.PEM_cert_to_DER_cert(block):
            certificate = x509.load_pem_x509_certificate(block.encode("ascii"))
            found[_key_hash(certificate)] = block
    missing = [name for name, key_hash in _AMAZON_ROOT_KEYS.items() if key_hash not in found]
    if missing:
        raise UserError(f"{bundle} lacks {', '.join(missing)}: upgrade certifi")
    return "".join(f"{found[key_hash]}\n" for key_hash in _AMAZON_ROOT_KEYS.values())


def write_trust_anchor(store: IdentityStore, text: str) -> None:
    """Make `text`, one or more CA certificates as PEM, what the devices of this store trust as their broker's root.

    For AWS that is `amazon_root_cas()`; for the emulator what it serves at `/_ministack/iot/ca.pem`.

    Raises:
        UserError: it is not PEM, holds a certificate that is no CA's, or cannot be written.
    """
    blocks = _pem_blocks(text)
    try:
        certificates = [x509.load_pem_x509_certificate(block.encode("ascii")) for block in blocks]
    except ValueError as error:
        raise UserError("the broker's root CA is not a PEM certificate: pass the one its endpoint chains to") from error
    if not certificates:
        raise UserError("the broker's root CA has no PEM certificate in it: pass the one its endpoint chains to")
    for certificate in certificates:
        if not pem.is_ca(certificate):
            subject = certificate.subject.rfc4514_string()
            raise UserError(f"{subject} is not a CA, so no broker can be known by it: pass the root it chains to")
    store.write_root_ca("".join(f"{block}\n" for block in blocks))


def _pem_blocks(text: str) -> list[str]:
    return [f"{_BEGIN}{part.partition(_END)[0]}{_END}" for part in text.split(_BEGIN)[1:]]


def _key_hash(certificate: x509.Certificate) -> str:
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(certificate.public_key().public_bytes(*form)).hexdigest()
