"""A TLS handshake with a server that wants a client's certificate, by a client that has none."""

import socket
import ssl
import time

_RECEIVE_BYTES = 16 * 1024


class UnreachableError(Exception):
    """The server cannot be talked to; the message says how far it came."""


def handshake(host: str, port: int, *, context: ssl.SSLContext, deadline_seconds: float) -> float:
    """Connects, verifies the server's certificate for `host`, and returns after how many milliseconds.

    A server may refuse us for want of a certificate, which only one that has shown its own does: reachable all the same.
    Raises UnreachableError when the name, the connection, the certificate or the time is at fault.
    """
    started = time.monotonic()
    try:
        with _connect(host, port, started + deadline_seconds) as connection:
            _shake_hands(connection, host, context, started + deadline_seconds)
    except (OSError, UnreachableError) as error:  # TimeoutError, gaierror and SSLError are OSErrors
        raise UnreachableError(f"{host}:{port}: {type(error).__name__}: {error}") from error
    return (time.monotonic() - started) * 1000


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    fault: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(address)
        except OSError as error:
            connection.close()
            fault = error
        else:
            return connection
    raise fault or OSError("the name has no address")


def _shake_hands(connection: socket.socket, host: str, context: ssl.SSLContext, deadline: float) -> None:
    """Drives the handshake ourselves, so that one deadline holds for all of it and we see how far it came."""
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(received, to_send, server_hostname=host)
    while True:
        try:
            session.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError:
            # Up to TLS 1.2 the session has keys only after the server's certificate was verified; what the server refuses
            # then is us (RFC 5246, 7.4.6). In TLS 1.3 the client is done before the server can refuse it.
            cipher = session.cipher()
            if cipher is not None and cipher[1] != "TLSv1.3":
                return
            raise
        if to_send.pending:
            connection.settimeout(_left(deadline))
            connection.sendall(to_send.read())
        if done:
            return
        connection.settimeout(_left(deadline))
        data = connection.recv(_RECEIVE_BYTES)
        if not data:
            raise UnreachableError("the server hung up during the handshake")
        received.write(data)


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    return seconds
