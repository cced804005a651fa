"""The Firehose process: `python -m local.firehose FOLDER MQTT_PORT`, with the emulator's AWS_* environment."""

import gzip
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import boto3
from awscrt import mqtt5
from awsiot import mqtt5_client_builder
from botocore import handlers

from local.firehose.keys import object_key
from local.firehose.spool import Batch, Spool, delivered
from local.firehose.taps import TOPIC, Stream, describe_stream, open_taps

READY = "ready"
_TICK_SECONDS = 0.05
_RECONCILE_SECONDS = 2.0
_PUTS_AT_A_TIME = 8
"""The emulator answers a put when it gets round to it, which under load is late: several wait side by side."""


class Delivery:
    """From a tapped message to an object in S3."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._s3 = boto3.client("s3")
        # Without `Expect: 100-continue`, for whose answer a put would wait once more.
        self._s3.meta.events.unregister("before-call.s3", handlers.add_expect_header)
        self._iot = boto3.client("iot")
        self._firehose = boto3.client("firehose")
        self._streams: dict[str, tuple[Stream, Spool]] = {}
        self._taps: dict[str, tuple[Spool, bytes]] = {}
        self._reconciling, self._delivering = threading.Lock(), threading.Lock()
        self._puts = ThreadPoolExecutor(_PUTS_AT_A_TIME, thread_name_prefix="put")

    def reconcile(self) -> None:
        """Follows what is deployed: new rules are tapped, a rule replaced by a deployment is tapped again."""
        with self._reconciling:
            taps = open_taps(self._iot)
            for stream in {stream for stream, _ in taps.values()}:
                self._streams[stream] = self._follow(stream)
            self._taps = {topic: (self._streams[stream][1], separator) for topic, (stream, separator) in taps.items()}

    def _follow(self, stream: str) -> tuple[Stream, Spool]:
        deployed = describe_stream(self._firehose, stream)
        if stream in self._streams:
            _, spool = self._streams[stream]
            spool.resize(size_bytes=deployed.size_bytes, interval_seconds=deployed.interval_seconds)
        else:
            spool = Spool(
                self._folder / "spool" / stream,
                size_bytes=deployed.size_bytes,
                interval_seconds=deployed.interval_seconds,
            )
        return deployed, spool

    def receive(self, topic: str, payload: bytes) -> None:
        """Takes in a record. The broker is sent its acknowledgement only after this has returned.

        It would be sent after an exception as well, so one ends the process: the broker then keeps the record.
        """
        try:
            if topic not in self._taps:
                self.reconcile()
            spool, separator = self._taps[topic]
            spool.append(payload + separator)
        except Exception as error:
            print(f"firehose: a record cannot be kept: {type(error).__name__}: {error}", flush=True)
            os._exit(1)

    def deliver(self, *, everything: bool = False) -> None:
        """Puts what is due into S3."""
        with self._delivering:
            due = [
                (stream, batch)
                for stream, spool in list(self._streams.values())
                for batch in spool.due(everything=everything)
            ]
            for _ in self._puts.map(self._put, *zip(*due, strict=True)) if due else ():
                pass

    def _put(self, stream: Stream, batch: Batch) -> None:
        records = batch.file.read_bytes()
        at = datetime.fromtimestamp(batch.first_record_at, UTC)
        self._s3.put_object(
            Bucket=stream.bucket,
            Key=object_key(stream.prefix, stream.name, at, batch.unique, gzip=stream.gzip),
            # Level 1: this process stands for a service that takes none of this machine's time.
            Body=gzip.compress(records, compresslevel=1) if stream.gzip else records,
            ContentType="application/octet-stream",
        )
        delivered(batch)


def follow(delivery: Delivery, stop: threading.Event) -> None:
    """Reconciles until `stop`, beside the deliveries: several requests, each of which may wait for the emulator."""
    while not stop.wait(_RECONCILE_SECONDS):
        try:
            delivery.reconcile()
        except Exception as error:
            print(f"firehose: waiting: {type(error).__name__}: {error}", flush=True)


def connect(folder: Path, port: int, delivery: Delivery) -> tuple[mqtt5.Client, threading.Event]:
    """An MQTT session that survives this process, subscribed at QoS 1 to every tap, and the event of its end.

    Raises TimeoutError when the broker does not answer.
    """
    connected, stopped = threading.Event(), threading.Event()
    rejoined: list[bool] = []

    def on_connected(data: mqtt5.LifecycleConnectSuccessData) -> None:
        rejoined.append(data.negotiated_settings.rejoined_session)
        connected.set()

    client = mqtt5_client_builder.mtls_from_path(
        str(folder / "firehose.pem"),
        str(folder / "firehose.key"),
        endpoint="127.0.0.1",
        port=port,
        ca_filepath=str(folder / "root-ca.pem"),
        client_id="local-firehose",
        session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
        session_expiry_interval_sec=3600,
        keep_alive_interval_sec=30,
        on_publish_received=lambda data: delivery.receive(data.publish_packet.topic, data.publish_packet.payload),
        on_lifecycle_connection_success=on_connected,
        on_lifecycle_stopped=lambda _: stopped.set(),
    )
    client.start()
    if not connected.wait(20):
        raise TimeoutError("no MQTT connection to the emulator within 20 s")
    # The emulator takes a filter that the session has for one more subscription, and delivers everything twice.
    subscribed = folder / "subscribed"
    if rejoined[0] and subscribed.exists():
        return client, stopped
    subscription = mqtt5.Subscription(topic_filter=f"{TOPIC}/#", qos=mqtt5.QoS.AT_LEAST_ONCE)
    client.subscribe(mqtt5.SubscribePacket(subscriptions=[subscription])).result(10)
    subscribed.touch()
    return client, stopped


def main() -> None:
    """Runs until SIGTERM, then delivers what is buffered."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # With this set, every TLS context would parse the whole bundle it names.
    os.environ.pop("SSL_CERT_FILE", None)
    delivery = Delivery(folder)
    delivery.reconcile()
    client, stopped = connect(folder, port, delivery)
    (folder / READY).write_text("ready")
    print("firehose: delivering", flush=True)
    threading.Thread(target=follow, args=(delivery, stop), name="follow", daemon=True).start()
    while not stop.wait(_TICK_SECONDS):
        try:
            delivery.deliver()
        except Exception as error:  # the emulator is away: what is spooled waits for it
            print(f"firehose: waiting: {type(error).__name__}: {error}", flush=True)
            stop.wait(1.0)
    client.stop()
    stopped.wait(5)
    delivery.deliver(everything=True)


if __name__ == "__main__":
    main()
