"""Why devices cannot connect, found out step by step: name, TCP, TLS, then the device's certificate.

The MQTT client itself says only that TLS failed, and says it late: after a failed handshake it blinds itself for up to
30 seconds. So the way to the broker is tried once before a fleet sets out, and a refused certificate is looked into after.
"""

import socket
import ssl

from ops.errors import UserError
from simulator.mqtt.identity import DeviceIdentityLike
from simulator.scenario.endpoint import Endpoint

TIMEOUT_SECONDS = 5.0


def check_way(endpoint: Endpoint, identity: DeviceIdentityLike) -> None:
    """See that the endpoint can be reached and is a TLS server that the identity's root CA vouches for.

    Whether it takes the device's own certificate is not looked at: others may be taken. Raises `UserError`.
    """
    with _connect(endpoint) as plain:
        try:
            _tls_context(endpoint, identity).wrap_socket(plain, server_hostname=endpoint.host).close()
        except ssl.SSLCertVerificationError as error:
            raise UserError(
                f"{endpoint}: the server's certificate is not trusted with {identity.root_ca_file} "
                f"({error.verify_message.rstrip('.')}): that file must hold the root CA of this very endpoint"
            ) from error
        except TimeoutError as error:
            raise UserError(
                f"{endpoint}: accepts connections, but gives no answer in TLS within {TIMEOUT_SECONDS:g} s: "
                "is it the port of MQTT over TLS?"
            ) from error
        except OSError as error:  # SSLError and ConnectionError among them
            reason = _reason(error)
            if "alert" not in reason:
                raise UserError(
                    f"{endpoint}: does not speak TLS ({reason}): is it the port of MQTT over TLS?"
                ) from error


def explain_refusal(endpoint: Endpoint, identity: DeviceIdentityLike, told: str) -> str:
    """One line on why the broker does not take this device. `told` is what the MQTT client said of it.

    Raises `UserError` where the device does not get as far as that.
    """
    check_way(endpoint, identity)
    try:
        with (
            _connect(endpoint) as plain,
            _tls_context(endpoint, identity).wrap_socket(plain, server_hostname=endpoint.host) as tls,
        ):
            tls.sendall(_connect_packet(identity.thing_name))
            answer = tls.recv(256)
    except TimeoutError:
        return f"{endpoint}: gives no answer in MQTT within {TIMEOUT_SECONDS:g} s"
    except OSError as error:
        # With TLS 1.3 a client's certificate is refused only after the handshake is over for the client.
        reason = _reason(error)
    else:
        if len(answer) < 4 or answer[0] >> 4 != 2:
            reason = "it closed the connection without an answer"
        elif answer[3]:
            reason = f"CONNACK 0x{answer[3]:02x}"
        else:
            return f"{endpoint}: devices could not connect ({told}), but it takes {identity.thing_name} now: try again"
    return (
        f"{endpoint}: refuses {identity.certificate_file} ({reason}): the certificate is not registered or not active "
        f"there, or its policy does not allow {identity.thing_name} to connect; see `fleet certs`"
    )


def _connect(endpoint: Endpoint) -> socket.socket:
    try:
        return socket.create_connection((endpoint.host, endpoint.port), TIMEOUT_SECONDS)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            f"{endpoint}: the host name does not resolve: check it; "
            "your account's own is told by `aws iot describe-endpoint --endpoint-type iot:Data-ATS`"
        ) from error
    except ConnectionRefusedError as error:
        raise UserError(
            f"{endpoint}: the connection is refused, nothing listens there: check host and port, or `fleet status`"
        ) from error
    except TimeoutError as error:
        raise UserError(
            f"{endpoint}: no answer within {TIMEOUT_SECONDS:g} s: check host and port, and any firewall between"
        ) from error
    except OSError as error:
        raise UserError(f"{endpoint}: cannot be reached: {_reason(error)}") from error


def _tls_context(endpoint: Endpoint, identity: DeviceIdentityLike) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(identity.root_ca_file)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    if endpoint.port == 443:
        # https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html: on 443, MQTT is told from HTTPS by ALPN.
        context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    return context


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or "connection closed"
    return str(reason).replace("_", " ").lower()


def _connect_packet(client_id: str) -> bytes:
    """MQTT 5 CONNECT with a clean start: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901033"""
    name = client_id.encode()
    body = b"\x00\x04MQTT\x05\x02" + (60).to_bytes(2) + b"\x00" + len(name).to_bytes(2) + name
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
    return b"\x10" + length + body
