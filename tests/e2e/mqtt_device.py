"""An MQTT 5 client that can try what it should not, and says what came of it."""

import queue
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from awscrt import io, mqtt5

from certs.store import DeviceIdentity
from local.emulator import HOST
from local.state import Emulator

_SECONDS = 30.0
CONNECTED = "connected"


@dataclass(frozen=True)
class Will:
    """A message that the broker is to publish when the client is gone."""

    topic: str
    payload: bytes


class Device:
    """A client that was started: `outcome` is `connected`, or what the broker or the handshake said."""

    def __init__(self, client: mqtt5.Client, outcome: str, ended: "Future[str]", received: "queue.Queue[Any]") -> None:
        self._client = client
        self.outcome = outcome
        self._ended = ended
        self._received = received

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """Publishes at QoS 1; the reason code of the acknowledgement, or of the end of the connection."""
        packet = mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=retain)
        return self._first(self._client.publish(packet), lambda done: done.puback.reason_code.name)

    def subscribe(self, topic_filter: str) -> str:
        """Subscribes at QoS 1; the reason code of the acknowledgement, or of the end of the connection."""
        packet = mqtt5.SubscribePacket([mqtt5.Subscription(topic_filter, mqtt5.QoS.AT_LEAST_ONCE)])
        return self._first(self._client.subscribe(packet), lambda suback: suback.reason_codes[0].name)

    def received(self, seconds: float = _SECONDS) -> tuple[str, bytes]:
        """Waits for the next message: topic and payload. Raises queue.Empty when none comes."""
        packet = self._received.get(timeout=seconds)
        return packet.topic, packet.payload

    def _first(self, operation: "Future[Any]", name: Any) -> str:
        answer: Future[str] = Future()

        def settle(text: str) -> None:
            if not answer.done():
                answer.set_result(text)

        self._ended.add_done_callback(lambda ended: settle(f"disconnected: {ended.result()}"))
        operation.add_done_callback(
            lambda done: settle(f"failed: {done.exception()}") if done.exception() else settle(name(done.result()))
        )
        return answer.result(_SECONDS)


@contextmanager
def device(
    emulator: Emulator,
    identity: DeviceIdentity,
    *,
    client_id: str,
    with_certificate: bool = True,
    will: Will | None = None,
) -> Iterator[Device]:
    """A client with the identity's certificate, or none, that has tried to connect once; it is stopped at the end."""
    tls = (
        io.TlsContextOptions.create_client_with_mtls_from_path(str(identity.certificate_file), str(identity.key_file))
        if with_certificate
        else io.TlsContextOptions()
    )
    tls.override_default_trust_store_from_path(ca_filepath=str(identity.root_ca_file))
    outcome: Future[str] = Future()
    ended: Future[str] = Future()
    stopped: Future[None] = Future()
    received: queue.Queue[Any] = queue.Queue()

    def settle(future: "Future[str]", text: str) -> None:
        if not future.done():
            future.set_result(text)

    def failed(data: mqtt5.LifecycleConnectFailureData) -> None:
        settle(outcome, data.connack_packet.reason_code.name if data.connack_packet else str(data.exception))

    def disconnected(data: mqtt5.LifecycleDisconnectData) -> None:
        settle(ended, data.disconnect_packet.reason_code.name if data.disconnect_packet else str(data.exception))

    last_words = will and mqtt5.PublishPacket(topic=will.topic, payload=will.payload, qos=mqtt5.QoS.AT_LEAST_ONCE)
    client = mqtt5.Client(
        mqtt5.ClientOptions(
            host_name=HOST,
            port=emulator.mqtt_port,
            tls_ctx=io.ClientTlsContext(tls),
            connect_options=mqtt5.ConnectPacket(
                client_id=client_id,
                keep_alive_interval_sec=30,
                will=last_words,
                will_delay_interval_sec=0 if will else None,
            ),
            # A client that was turned away would try again, and fail what it still waits for only then.
            min_reconnect_delay_ms=60_000,
            max_reconnect_delay_ms=60_000,
            on_publish_callback_fn=lambda data: received.put(data.publish_packet),
            on_lifecycle_event_connection_success_fn=lambda _: settle(outcome, CONNECTED),
            on_lifecycle_event_connection_failure_fn=failed,
            on_lifecycle_event_disconnection_fn=disconnected,
            on_lifecycle_event_stopped_fn=lambda _: stopped.set_result(None),
        )
    )
    client.start()
    try:
        yield Device(client, outcome.result(_SECONDS), ended, received)
    finally:
        client.stop()
        stopped.result(_SECONDS)
