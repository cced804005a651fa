"""MQTT 5 over mutual TLS: a client of the AWS Common Runtime per device, QoS 1. MQTT 3.1.1 is in connection_mqtt311.

https://awslabs.github.io/aws-crt-python/api/mqtt5.html
"""

from concurrent.futures import Future
from functools import partial
from typing import Any

from awscrt import io, mqtt5
from awsiot import mqtt5_client_builder

from simulator.devices.envelope import Message
from simulator.devices.link import Listener, error_name, refusal
from simulator.mqtt.identity import DeviceIdentityLike
from simulator.mqtt.publishing import Publish, keep_thread_state, publisher
from simulator.scenario.endpoint import Endpoint

KEEP_ALIVE_SECONDS = 60
"""AWS IoT takes 30 to 1200."""
PING_TIMEOUT_SECONDS = 20
CONNECT_TIMEOUT_SECONDS = 5
CONNACK_TIMEOUT_SECONDS = 15
ACK_TIMEOUT_SECONDS = 30
RECONNECT_SECONDS = (1, 30)
"""Shortest and longest pause before another attempt; AWS IoT takes one connect per second and client id."""

Will = tuple[str, bytes]
"""Topic and payload."""


class Broker:
    """What all connections to one broker share."""

    def __init__(self, endpoint: Endpoint, *, topic: str, unthrottled: bool) -> None:
        # One loop: its callbacks need Python's lock, and a second loop would only wait for it.
        event_loops = io.EventLoopGroup(1)
        self.endpoint = endpoint
        self.bootstrap = io.ClientBootstrap(event_loops, io.DefaultHostResolver(event_loops))
        self.socket_options = io.SocketOptions()
        self.socket_options.connect_timeout_ms = CONNECT_TIMEOUT_SECONDS * 1000
        self._topic = topic
        # AWS's are 100 publishes/s and 512 KB/s per connection.
        self._flow_control = (
            mqtt5.ExtendedValidationAndFlowControlOptions.NONE
            if unthrottled
            else mqtt5.ExtendedValidationAndFlowControlOptions.AWS_IOT_CORE_DEFAULTS
        )

    def topic_of(self, identity: DeviceIdentityLike) -> str:
        """Where the device publishes its telemetry."""
        return f"{self._topic}/{identity.thing_name}"

    def link(self, identity: DeviceIdentityLike, listener: Listener, index: int, will: Will | None) -> "MqttLink":
        """A connection for one device, not yet started."""
        options = mqtt5.ClientOptions(
            host_name=self.endpoint.host,
            port=self.endpoint.port,
            bootstrap=self.bootstrap,
            socket_options=self.socket_options,
            connect_options=mqtt5.ConnectPacket(
                client_id=identity.thing_name,
                keep_alive_interval_sec=KEEP_ALIVE_SECONDS,
                will=None if will is None else mqtt5.PublishPacket(topic=will[0], payload=will[1], qos=_QOS),
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
            # Only for a device that subscribes to something; others are spared the callback.
            on_publish_callback_fn=None if will is None else partial(_received, listener, index),
        )
        return MqttLink(identity, options, self.topic_of(identity), listener, index)


_QOS = mqtt5.QoS.AT_LEAST_ONCE


class MqttLink:
    """One device's connection."""

    publish: Publish
    """Sends a message at QoS 1; the listener is told once what came of it."""

    def __init__(
        self, identity: DeviceIdentityLike, options: mqtt5.ClientOptions, topic: str, listener: Listener, index: int
    ) -> None:
        self._identity = identity
        self._options = options
        self._topic = topic
        self._listener = listener
        self._index = index
        self._client: Any = None
        self.publish = self._publish_nowhere

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost, until `stop`."""
        try:
            if self._client is None:
                self._client = self._make_client()
                self.publish = publisher(self._client, self._topic, self._listener)
            self._client.start()
        except Exception as error:  # awscrt raises AwsCrtError, RuntimeError and OSError alike
            self._client = None
            self._listener.on_refused(self._index, error_name(error))

    def send(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 1; the listener is told once what came of it."""
        self._control(lambda: self._client.publish(mqtt5.PublishPacket(topic=topic, payload=payload, qos=_QOS)))

    def subscribe(self, topic: str) -> None:
        """Subscribe at QoS 1; the listener is told once what came of it."""
        packet = mqtt5.SubscribePacket(subscriptions=[mqtt5.Subscription(topic, _QOS)])
        self._control(lambda: self._client.subscribe(packet))

    def stop(self, *, abrupt: bool = False) -> None:
        """Close the connection; after a DISCONNECT, unless abruptly."""
        if self._client is None:
            self._listener.on_stopped(self._index)
        elif abrupt:
            self._client.stop()
        else:
            self._client.stop(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION))

    def _publish_nowhere(self, message: Message) -> None:
        self._listener.on_completed(message, "not connected")

    def _make_client(self) -> mqtt5.Client:
        index, listener, options = self._index, self._listener, self._options
        options.on_lifecycle_event_connection_success_fn = partial(_connected, listener, index)
        options.on_lifecycle_event_connection_failure_fn = partial(_refused, listener, index)
        options.on_lifecycle_event_disconnection_fn = partial(_disconnected, listener, index)
        options.on_lifecycle_event_stopped_fn = partial(_stopped, listener, index)
        return mqtt5_client_builder.mtls_from_path(
            str(self._identity.certificate_file),
            str(self._identity.key_file),
            endpoint=options.host_name,
            ca_filepath=str(self._identity.root_ca_file),
            client_options=options,
            enable_metrics_collection=False,
        )

    def _control(self, act: Any) -> None:
        try:
            future: Future[Any] = act()
        except Exception as error:
            self._listener.on_sent(self._index, error_name(error))
            return
        future.add_done_callback(partial(_sent, self._listener, self._index))


def _connected(listener: Listener, index: int, _: mqtt5.LifecycleConnectSuccessData) -> None:
    keep_thread_state()
    listener.on_connected(index)


def _refused(listener: Listener, index: int, data: mqtt5.LifecycleConnectFailureData) -> None:
    keep_thread_state()
    connack = data.connack_packet
    if connack is not None and connack.reason_code:
        listener.on_refused(index, f"CONNACK {connack.reason_code.name}")
    else:
        listener.on_refused(index, refusal(data.exception))


def _disconnected(listener: Listener, index: int, _: mqtt5.LifecycleDisconnectData) -> None:
    listener.on_disconnected(index)


def _stopped(listener: Listener, index: int, _: mqtt5.LifecycleStoppedData) -> None:
    listener.on_stopped(index)


def _received(listener: Listener, index: int, data: mqtt5.PublishReceivedData) -> None:
    packet = data.publish_packet
    payload = packet.payload
    listener.on_message(index, packet.topic, payload.encode() if isinstance(payload, str) else payload or b"")


def _sent(listener: Listener, index: int, future: "Future[Any]") -> None:
    error = future.exception()
    if error is not None:
        listener.on_sent(index, error_name(error))
        return
    result = future.result()
    codes = result.reason_codes if isinstance(result, mqtt5.SubackPacket) else [result.puback.reason_code]
    refused = [code for code in codes if code is None or code >= 0x80]
    listener.on_sent(index, f"refused: {refused[0]}" if refused else None)
