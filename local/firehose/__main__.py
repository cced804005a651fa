"""The Firehose process: `python -m local.firehose FOLDER MQTT_PORT`, with the emulator's AWS_* environment."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from local.firehose import CLIENT_ID, READY
from local.firehose.delivery import Delivery

_TICK_SECONDS = 0.05
_RECONCILE_SECONDS = 2.0
_SUBSCRIBED = "subscribed"
_FILTER = "local/#"
"""One, since the broker tries each on every message: that of the taps, and that of the twins."""


def follow(delivery: Delivery, stop: threading.Event) -> None:
    """Reconciles until `stop`, beside the deliveries: several requests, each of which may wait for the emulator."""
    while not stop.wait(_RECONCILE_SECONDS):
        try:
            delivery.reconcile()
        except Exception as error:
            print(f"firehose: waiting: {type(error).__name__}: {error}", flush=True)


class Connection:
    """An MQTT session that survives this process, subscribed at QoS 1 to what taps and twins write."""

    def __init__(self, folder: Path, port: int, receive: Callable[[str, bytes], None]) -> None:
        self._subscribed = folder / _SUBSCRIBED
        self._connected, self._stopped = threading.Event(), threading.Event()
        self._rejoined: list[bool] = []
        # A session of another folder's process, or with another filter, is not ours to go on with.
        ours = self._subscribed.exists() and self._subscribed.read_text() == _FILTER
        behavior = mqtt5.ClientSessionBehaviorType
        self._client = mqtt5_client_builder.mtls_from_path(
            str(folder / "firehose.pem"),
            str(folder / "firehose.key"),
            endpoint="127.0.0.1",
            port=port,
            ca_filepath=str(folder / "root-ca.pem"),
            client_id=CLIENT_ID,
            session_behavior=behavior.REJOIN_ALWAYS if ours else behavior.REJOIN_POST_SUCCESS,
            session_expiry_interval_sec=3600,
            keep_alive_interval_sec=30,
            on_publish_received=lambda data: receive(data.publish_packet.topic, data.publish_packet.payload),
            on_lifecycle_connection_success=self._on_connected,
            on_lifecycle_stopped=lambda _: self._stopped.set(),
        )

    def start(self) -> None:
        """Connects and subscribes. Raises TimeoutError when the broker does not answer."""
        self._client.start()
        if not self._connected.wait(20):
            raise TimeoutError("no MQTT connection to the emulator within 20 s")
        # The emulator takes a filter that the session has for one more subscription, and delivers everything twice.
        if self._rejoined[0]:
            return
        subscription = mqtt5.Subscription(topic_filter=_FILTER, qos=mqtt5.QoS.AT_LEAST_ONCE)
        self._client.subscribe(mqtt5.SubscribePacket(subscriptions=[subscription])).result(10)
        self._subscribed.write_text(_FILTER)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Hands a message to the client, which keeps it until there is a connection; what is refused is said."""
        packet = mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS(qos))
        self._client.publish(packet).add_done_callback(lambda done: _say_refused(topic, done))

    def stop(self) -> None:
        """Ends the connection and leaves the session, for the next process."""
        self._client.stop()
        self._stopped.wait(5)

    def _on_connected(self, data: mqtt5.LifecycleConnectSuccessData) -> None:
        self._rejoined.append(data.negotiated_settings.rejoined_session)
        self._connected.set()


def _say_refused(topic: str, done: "Future[mqtt5.PublishCompletionData]") -> None:
    error = done.exception()
    acknowledgement = None if error else done.result().puback
    reason = error or (acknowledgement and acknowledgement.reason_code >= 0x80 and acknowledgement.reason_code.name)
    if reason:
        print(f"firehose: a message was not republished to {topic}: {reason}", flush=True)


def main() -> None:
    """Runs until SIGTERM, then delivers what is buffered."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # With this set, every TLS context would parse the whole bundle it names.
    os.environ.pop("SSL_CERT_FILE", None)
    # A lambda, since each of the two needs the other: nothing is received before the connection is started.
    connection = Connection(folder, port, lambda *message: delivery.receive(*message))  # noqa: PLW0108
    delivery = Delivery(folder, connection.publish)
    delivery.reconcile()
    connection.start()
    (folder / READY).write_text("ready")
    print("firehose: delivering", flush=True)
    threading.Thread(target=follow, args=(delivery, stop), name="follow", daemon=True).start()
    while not stop.wait(_TICK_SECONDS):
        try:
            delivery.deliver()
        except Exception as error:  # the emulator is away: what is spooled waits for it
            print(f"firehose: waiting: {type(error).__name__}: {error}", flush=True)
            stop.wait(1.0)
    connection.stop()
    delivery.deliver(everything=True)


if __name__ == "__main__":
    main()
