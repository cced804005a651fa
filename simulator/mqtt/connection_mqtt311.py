"""MQTT 3.1.1 over mutual TLS, for brokers and policies that know nothing newer: the same link on another client.

Two things differ: this protocol's PUBACK cannot say no, and the client cannot close without DISCONNECT, so a device that
goes abruptly says goodbye all the same and has no last will. https://awslabs.github.io/aws-crt-python/api/mqtt.html
"""

from concurrent.futures import Future
from functools import partial
from typing import Any

from awscrt import io, mqtt

from simulator.devices.envelope import Message
from simulator.devices.link import Listener, error_name, refusal
from simulator.mqtt.connection import (
    ACK_TIMEOUT_SECONDS,
    KEEP_ALIVE_SECONDS,
    PING_TIMEOUT_SECONDS,
    RECONNECT_SECONDS,
    Broker,
    Will,
)
from simulator.mqtt.identity import DeviceIdentityLike
from simulator.mqtt.publishing import keep_thread_state

_QOS = mqtt.QoS.AT_LEAST_ONCE


class Mqtt311Link:
    """One device's connection."""

    def __init__(
        self, broker: Broker, identity: DeviceIdentityLike, listener: Listener, index: int, will: Will | None
    ) -> None:
        self._broker = broker
        self._identity = identity
        self._listener = listener
        self._index = index
        self._will = will
        self._topic = broker.topic_of(identity)
        self._connection: Any = None
        self._is_up = False

    def start(self) -> None:
        """Connect; where the first attempt fails the listener is told that the link has stopped."""
        try:
            if self._connection is None:
                self._connection = self._make_connection()
            self._connection.connect().add_done_callback(self._first_attempt_ended)
        except Exception as error:  # awscrt raises AwsCrtError, RuntimeError and OSError alike
            self._listener.on_refused(self._index, error_name(error))
            self._listener.on_stopped(self._index)

    def publish(self, message: Message) -> None:
        """Send at QoS 1; the listener is told once what came of it."""
        if not self._is_up:  # the client would keep it and send it some time
            self._listener.on_completed(message, "not connected")
            return
        future, _ = self._connection.publish(self._topic, message.payload, _QOS)
        future.add_done_callback(partial(_completed, self._listener, message))

    def send(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1; the listener is told once what came of it."""
        if not self._is_up:
            self._listener.on_sent(self._index, "not connected")
            return
        self._connection.publish(topic, payload, _QOS)[0].add_done_callback(self._sent)

    def subscribe(self, topic: str) -> None:
        """Subscribe at QoS 1; the listener is told once what came of it."""
        if not self._is_up:
            self._listener.on_sent(self._index, "not connected")
            return
        self._connection.subscribe(topic, _QOS)[0].add_done_callback(self._sent)

    def stop(self, *, abrupt: bool = False) -> None:
        """Send DISCONNECT and close the connection."""
        self._is_up = False
        if self._connection is None:
            self._listener.on_stopped(self._index)
            return
        self._connection.disconnect().add_done_callback(self._stopped)

    def _make_connection(self) -> mqtt.Connection:
        options = io.TlsContextOptions.create_client_with_mtls_from_path(
            str(self._identity.certificate_file), str(self._identity.key_file)
        )
        options.override_default_trust_store_from_path(None, str(self._identity.root_ca_file))
        endpoint = self._broker.endpoint
        if endpoint.port == 443:
            options.alpn_list = ["x-amzn-mqtt-ca"]
        connection = mqtt.Connection(
            mqtt.Client(self._broker.bootstrap, io.ClientTlsContext(options)),
            host_name=endpoint.host,
            port=endpoint.port,
            client_id=self._identity.thing_name,
            clean_session=True,
            on_connection_interrupted=self._interrupted,
            on_connection_success=self._succeeded,
            on_connection_failure=self._failed,
            reconnect_min_timeout_secs=RECONNECT_SECONDS[0],
            reconnect_max_timeout_secs=RECONNECT_SECONDS[1],
            keep_alive_secs=KEEP_ALIVE_SECONDS,
            ping_timeout_ms=PING_TIMEOUT_SECONDS * 1000,
            protocol_operation_timeout_ms=ACK_TIMEOUT_SECONDS * 1000,
            will=None if self._will is None else mqtt.Will(self._will[0], _QOS, self._will[1], False),
            socket_options=self._broker.socket_options,
            disable_metrics=True,
        )
        if self._will is not None:
            connection.on_message(self._received)
        return connection

    # From the Common Runtime's threads.

    def _succeeded(self, **_: object) -> None:
        keep_thread_state()
        self._is_up = True
        self._listener.on_connected(self._index)

    def _failed(self, callback_data: mqtt.OnConnectionFailureData, **_: object) -> None:
        keep_thread_state()
        self._listener.on_refused(self._index, refusal(callback_data.error))

    def _interrupted(self, **_: object) -> None:
        self._is_up = False
        self._listener.on_disconnected(self._index)

    def _first_attempt_ended(self, future: "Future[Any]") -> None:
        error = future.exception()
        if error is not None:
            self._listener.on_refused(self._index, refusal(error))
            self._listener.on_stopped(self._index)

    def _stopped(self, _: "Future[Any]") -> None:
        self._listener.on_stopped(self._index)

    def _sent(self, future: "Future[Any]") -> None:
        error = future.exception()
        self._listener.on_sent(self._index, None if error is None else error_name(error))

    def _received(self, topic: str, payload: bytes, **_: object) -> None:
        self._listener.on_message(self._index, topic, payload)


def _completed(listener: Listener, message: Message, future: "Future[Any]") -> None:
    error = future.exception()
    listener.on_completed(message, None if error is None else error_name(error))
