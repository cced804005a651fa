"""The probe against real TLS servers on this machine, with authorities of the test's own."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from moto import mock_aws

from lambdas.probe import handler as handlers
from lambdas.probe.handshake import UnreachableError, handshake

HOST = "localhost"
DEADLINE_SECONDS = 5.0
Serve = Callable[[socket.socket], None]


class Authority:
    """A certificate authority, and certificates for a server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
        self.certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))

    def trust(self) -> ssl.SSLContext:
        """Of a client that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.certificate.public_bytes(serialization.Encoding.PEM).decode())
        return context

    def server(
        self,
        *,
        name: str = HOST,
        lifetime: timedelta = timedelta(days=1),
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        wants_certificate: bool = True,
    ) -> ssl.SSLContext:
        """Of a server with a certificate for `name`, that wants one of its clients, as AWS IoT Core does."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, x509.SubjectAlternativeName([x509.DNSName(name)]), lifetime)
        path = self._folder / f"{name}-{version.name}-{id(key)}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(path)
        if wants_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.certificate.public_bytes(serialization.Encoding.PEM).decode())
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        lifetime: timedelta = timedelta(days=1),
    ) -> x509.Certificate:
        ends = datetime.now(UTC) + lifetime
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(ends - timedelta(days=2))
            .not_valid_after(ends)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )


class Server:
    """Listens on a free port of `localhost` and serves each connection in a thread."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._over.is_set():
            with suppress(OSError):
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve_one, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve_one(self, connection: socket.socket) -> None:
        with suppress(OSError):  # ssl.SSLError among them
            self._serve(connection)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._connections):
            each.close()


def tls(context: ssl.SSLContext) -> Serve:
    """Shakes hands and hangs up."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection.dup(), server_side=True) as session, suppress(OSError):
            session.recv(1)

    return serve


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def listen() -> Iterator[Callable[[Serve], int]]:
    """Starts servers, which are gone when the test is over; returns the port."""
    with ExitStack() as running:
        yield lambda serve: running.enter_context(Server(serve)).port


def reach(port: int, authority: Authority, deadline_seconds: float = DEADLINE_SECONDS) -> float:
    return handshake(HOST, port, context=authority.trust(), deadline_seconds=deadline_seconds)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("wants_certificate", [True, False])
def test_a_server_that_shows_its_certificate_is_reached_even_if_it_wants_ours(
    authority: Authority, listen: Callable[[Serve], int], version: ssl.TLSVersion, wants_certificate: bool
) -> None:
    port = listen(tls(authority.server(version=version, wants_certificate=wants_certificate)))
    assert 0 < reach(port, authority) < DEADLINE_SECONDS * 1000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_with_a_wrong_certificate_is_not_reached(
    authority: Authority, listen: Callable[[Serve], int], version: ssl.TLSVersion, tmp_path: Path
) -> None:
    wrong = {
        "certificate verify failed: self-signed certificate|unable to get": Authority(tmp_path).server(version=version),
        "Hostname mismatch": authority.server(name="elsewhere.test", version=version),
        "certificate has expired": authority.server(lifetime=-timedelta(hours=1), version=version),
    }
    for reason, context in wrong.items():
        with pytest.raises(UnreachableError, match=reason):
            reach(listen(tls(context)), authority)


def test_the_probe_trusts_only_whom_the_system_trusts_and_speaks_no_tls_older_than_1_2(
    authority: Authority, listen: Callable[[Serve], int]
) -> None:
    context = handlers._trust()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    port = listen(tls(authority.server()))
    with pytest.raises(UnreachableError, match="certificate verify failed"):
        handshake(HOST, port, context=context, deadline_seconds=DEADLINE_SECONDS)


def test_a_refusal_before_the_server_has_shown_its_certificate_is_no_answer(
    authority: Authority, listen: Callable[[Serve], int]
) -> None:
    context = authority.server(version=ssl.TLSVersion.TLSv1_2)
    alert = bytes([21, 3, 3, 0, 2, 2, 40])  # a record of type alert: fatal, handshake_failure

    def refuse_at_once(connection: socket.socket) -> None:
        connection.recv(16 * 1024)
        connection.sendall(alert)

    def refuse_after_hello(connection: socket.socket) -> None:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(received, to_send, server_side=True)
        received.write(connection.recv(16 * 1024))
        with suppress(ssl.SSLWantReadError):
            session.do_handshake()
        head = to_send.read(5)
        connection.sendall(head + to_send.read(int.from_bytes(head[3:])) + alert)

    for serve in (refuse_at_once, refuse_after_hello):
        with pytest.raises(UnreachableError, match=r"(?i)handshake.failure"):
            reach(listen(serve), authority)


def test_a_port_on_which_nobody_listens_and_a_name_that_nobody_has(authority: Authority) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
            reach(nobody_listens.getsockname()[1], authority)
    with pytest.raises(UnreachableError, match=r"no\.such\.name\.invalid:8883: gaierror"):
        handshake("no.such.name.invalid", 8883, context=authority.trust(), deadline_seconds=DEADLINE_SECONDS)


def test_a_server_that_hangs_up_is_not_reached(authority: Authority, listen: Callable[[Serve], int]) -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(16 * 1024)
        connection.shutdown(socket.SHUT_RDWR)

    with pytest.raises(UnreachableError, match="hung up"):
        reach(listen(hang_up), authority)


def test_a_server_that_stalls_or_only_trickles_is_given_up_in_time(
    authority: Authority, listen: Callable[[Serve], int]
) -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(bytes([22, 3, 3, 64, 0]))  # the head of a record that is long in coming
        for _ in range(200):
            connection.sendall(b"\0")
            time.sleep(0.05)

    for serve in (lambda connection: None, trickle):
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="TimeoutError"):
            reach(listen(serve), authority, deadline_seconds=0.5)
        assert 0.4 < time.monotonic() - started < 2


# The handler.


@pytest.fixture
def emitted(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[int], dict[str, float]]]:
    """Invokes the handler, whose endpoint is localhost at a port, and reads its one document."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(handlers.metrics.provider, "service", "iot-telemetry-probe")
    monkeypatch.setattr(handlers, "_trust", authority.trust)
    handlers._endpoint.cache_clear()

    def invoke(port: int) -> dict[str, float]:
        monkeypatch.setattr(handlers, "_MQTT_PORT", port)
        handlers.handler({}, None)
        [document] = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
        [directive] = document["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("Fleetledger", [["service"]])
        assert document["service"] == "iot-telemetry-probe"
        return {metric["Name"]: document[metric["Name"]][0] for metric in directive["Metrics"]}

    yield invoke
    handlers._endpoint.cache_clear()


class Iot:
    """AWS IoT's control plane, as far as it is asked; it counts how often."""

    asked = 0

    def describe_endpoint(self, *, endpointType: str) -> dict[str, str]:  # noqa: N803 - AWS's spelling
        assert endpointType == "iot:Data-ATS"
        self.asked += 1
        return {"endpointAddress": HOST}


def test_the_endpoint_is_asked_for_once_and_again_when_it_cannot_be_reached(
    authority: Authority,
    listen: Callable[[Serve], int],
    emitted: Callable[[int], dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iot = Iot()
    monkeypatch.setattr(boto3, "client", lambda service, config: iot)
    port = listen(tls(authority.server()))
    for _ in range(2):
        found = emitted(port)
        assert found["IotReachable"] == 1
        assert 0 < found["IotHandshakeMilliseconds"] < 5000
    assert iot.asked == 1
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        assert emitted(nobody_listens.getsockname()[1]) == {"IotReachable": 0}
    assert emitted(port)["IotReachable"] == 1
    assert iot.asked == 2


def test_the_endpoint_is_that_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        assert handlers._endpoint.__wrapped__().endswith("-ats.iot.eu-west-1.amazonaws.com")
