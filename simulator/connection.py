"""The one place that talks MQTT: a client of the AWS Common Runtime per device, MQTT 5 over mutual TLS, QoS 1.

https://awslabs.github.io/aws-crt-python/api/mqtt5.html
"""

import ctypes
import threading
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from awscrt import io, mqtt5
from awsiot import mqtt5_client_builder

from simulator.endpoint import Endpoint
from simulator.envelope import Message
from simulator.identity import DeviceIdentityLike

KEEP_ALIVE_SECONDS = 60
"""AWS IoT takes 30 to 1200."""
PING_TIMEOUT_SECONDS = 20
CONNECT_TIMEOUT_SECONDS = 5
CONNACK_TIMEOUT_SECONDS = 15
ACK_TIMEOUT_SECONDS = 30
RECONNECT_SECONDS = (1, 30)
"""Shortest and longest pause before another attempt; AWS IoT takes one connect per second and client id."""


class Listener(Protocol):
    """Who is told what becomes of a link, from threads of the Common Runtime. Nothing here may wait."""

    def on_connected(self, index: int) -> None:
        """The connection has been accepted."""

    def on_refused(self, index: int, reason: str) -> None:
        """An attempt to connect has failed; another one follows by itself."""

    def on_disconnected(self, index: int) -> None:
        """The connection is gone; another attempt follows by itself."""

    def on_stopped(self, index: int) -> None:
        """`stop` has taken effect."""

    def on_completed(self, message: Message, failure: str | None) -> None:
        """An attempt to publish has been acknowledged, or has failed for this reason."""


class Broker:
    """What all connections to one broker share."""

    def __init__(self, endpoint: Endpoint, *, topic: str, unthrottled: bool) -> None:
        event_loops = io.EventLoopGroup(1)
        self._bootstrap = io.ClientBootstrap(event_loops, io.DefaultHostResolver(event_loops))
        self._socket_options = io.SocketOptions()
        self._socket_options.connect_timeout_ms = CONNECT_TIMEOUT_SECONDS * 1000
        self._endpoint = endpoint
        self._topic = topic
        self._flow_control = (
            mqtt5.ExtendedValidationAndFlowControlOptions.NONE
            if unthrottled
            else mqtt5.ExtendedValidationAndFlowControlOptions.AWS_IOT_CORE_DEFAULTS
        )

    def link(self, identity: DeviceIdentityLike, listener: Listener, index: int) -> "MqttLink":
        """A connection for one device, not yet started."""
        options = mqtt5.ClientOptions(
            host_name=self._endpoint.host,
            port=self._endpoint.port,
            bootstrap=self._bootstrap,
            socket_options=self._socket_options,
            connect_options=mqtt5.ConnectPacket(
                client_id=identity.thing_name, keep_alive_interval_sec=KEEP_ALIVE_SECONDS
            ),
            session_behavior=mqtt5.ClientSessionBehaviorType.CLEAN,
            extended_validation_and_flow_control_options=self._flow_control,
            # Nothing is left to a queue we cannot see: what a lost connection interrupts comes back, and is sent again.
            offline_queue_behavior=mqtt5.ClientOperationQueueBehaviorType.FAIL_ALL_ON_DISCONNECT,
            # The other modes may try again at once; this one never before the shortest pause.
            retry_jitter_mode=mqtt5.ExponentialBackoffJitterMode.DECORRELATED,
            min_reconnect_delay_ms=RECONNECT_SECONDS[0] * 1000,
            max_reconnect_delay_ms=RECONNECT_SECONDS[1] * 1000,
            ping_timeout_ms=PING_TIMEOUT_SECONDS * 1000,
            connack_timeout_ms=CONNACK_TIMEOUT_SECONDS * 1000,
            ack_timeout_sec=ACK_TIMEOUT_SECONDS,
        )
        return MqttLink(identity, options, f"{self._topic}/{identity.thing_name}", listener, index)


class MqttLink:
    """One device's connection."""

    def __init__(
        self, identity: DeviceIdentityLike, options: mqtt5.ClientOptions, topic: str, listener: Listener, index: int
    ) -> None:
        self._identity = identity
        self._options = options
        self._topic = topic
        self._listener = listener
        self._index = index
        self._client: Any = None

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost, until `stop`."""
        index, listener = self._index, self._listener
        self._options.on_lifecycle_event_connection_success_fn = partial(_connected, listener, index)
        self._options.on_lifecycle_event_connection_failure_fn = partial(_refused, listener, index)
        self._options.on_lifecycle_event_disconnection_fn = partial(_disconnected, listener, index)
        self._options.on_lifecycle_event_stopped_fn = partial(_stopped, listener, index)
        try:
            self._client = mqtt5_client_builder.mtls_from_path(
                str(self._identity.certificate_file),
                str(self._identity.key_file),
                endpoint=self._options.host_name,
                ca_filepath=str(self._identity.root_ca_file),
                client_options=self._options,
                enable_metrics_collection=False,
            )
            self._client.start()
        except Exception as error:  # awscrt raises AwsCrtError, RuntimeError and OSError alike
            self._client = None
            listener.on_refused(index, _name(error))

    def publish(self, message: Message) -> None:
        """Send at QoS 1; the listener is told once what came of it."""
        packet = mqtt5.PublishPacket(topic=self._topic, payload=message.payload, qos=mqtt5.QoS.AT_LEAST_ONCE)
        try:
            future = self._client.publish(packet)
        except Exception as error:
            self._listener.on_completed(message, _name(error))
            return
        future.add_done_callback(partial(_completed, self._listener, message))

    def stop(self) -> None:
        """Send DISCONNECT and close the connection."""
        if self._client is None:
            self._listener.on_stopped(self._index)
            return
        self._client.stop(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION))


# How AWS IoT turns away a certificate that it does not know or allow, as the Common Runtime words it.
_REFUSED_WITHOUT_ANSWER = {
    "AWS_IO_SOCKET_CLOSED",
    "AWS_ERROR_MQTT_UNEXPECTED_HANGUP",
    "AWS_IO_TLS_ERROR_ALERT_RECEIVED",
}

_this_thread = threading.local()


def _keep_thread_state() -> None:
    """Keep Python's state of this Common Runtime thread between callbacks.

    Each callback from C otherwise creates and destroys one, which costs more than the callback itself. An unpaired
    `PyGILState_Ensure` is enough; what it leaves behind when the thread ends is a few hundred bytes per run.
    """
    if not hasattr(_this_thread, "kept"):
        _this_thread.kept = True
        ctypes.pythonapi.PyGILState_Ensure()


def _connected(listener: Listener, index: int, _: mqtt5.LifecycleConnectSuccessData) -> None:
    _keep_thread_state()
    listener.on_connected(index)


def _refused(listener: Listener, index: int, data: mqtt5.LifecycleConnectFailureData) -> None:
    _keep_thread_state()
    connack = data.connack_packet
    if connack is not None and connack.reason_code:
        reason = f"CONNACK {connack.reason_code.name}"
    else:
        reason = _name(data.exception)
        if reason in _REFUSED_WITHOUT_ANSWER:
            reason = "closed without an answer: not registered, not active, or not allowed by its policy"
    listener.on_refused(index, reason)


def _disconnected(listener: Listener, index: int, _: mqtt5.LifecycleDisconnectData) -> None:
    listener.on_disconnected(index)


def _stopped(listener: Listener, index: int, _: mqtt5.LifecycleStoppedData) -> None:
    listener.on_stopped(index)


def _completed(listener: Listener, message: Message, future: "Future[mqtt5.PublishCompletionData]") -> None:
    error = future.exception()
    if error is not None:
        listener.on_completed(message, _name(error))
        return
    reason = future.result().puback.reason_code
    # Below 0x80 the broker has it: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901124
    if reason is not None and reason < 0x80:
        listener.on_completed(message, None)
    else:
        listener.on_completed(message, f"PUBACK {'of an unknown reason' if reason is None else reason.name}")


def _name(error: BaseException) -> str:
    return str(getattr(error, "name", "")) or repr(error)
