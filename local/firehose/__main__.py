"""The Firehose process: `python -m local.firehose FOLDER MQTT_PORT`, with the emulator's AWS_* environment."""

import gzip
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import boto3
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from local.firehose.keys import object_key
from local.firehose.spool import Batch, Spool, delivered
from local.firehose.taps import TOPIC, Stream, describe_stream, open_taps

READY = "ready"
_TICK_SECONDS = 0.05
_RECONCILE_SECONDS = 2.0


class Delivery:
    """From a tapped message to an object in S3."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._s3 = boto3.client("s3")
        self._iot = boto3.client("iot")
        self._firehose = boto3.client("firehose")
        self._streams: dict[str, tuple[Stream, Spool]] = {}
        self._taps: dict[str, tuple[Spool, bytes]] = {}

    def reconcile(self) -> None:
        """Follows what is deployed: new rules are tapped, a rule replaced by a deployment is tapped again."""
        taps = open_taps(self._iot)
        for stream, _ in taps.values():
            deployed = describe_stream(self._firehose, stream)
            if stream not in self._streams or self._streams[stream][0] != deployed:
                if stream in self._streams:
                    self.deliver(everything=True)
                spool = Spool(
                    self._folder / "spool" / stream,
                    size_bytes=deployed.size_bytes,
                    interval_seconds=deployed.interval_seconds,
                )
                self._streams[stream] = (deployed, spool)
        self._taps = {topic: (self._streams[stream][1], separator) for topic, (stream, separator) in taps.items()}

    def receive(self, topic: str, payload: bytes) -> None:
        """Takes in a record. The broker is sent its acknowledgement only after this has returned."""
        if topic not in self._taps:
            self.reconcile()
        spool, separator = self._taps[topic]
        spool.append(payload + separator)

    def deliver(self, *, everything: bool = False) -> None:
        """Puts what is due into S3."""
        for stream, spool in list(self._streams.values()):
            for batch in spool.due(everything=everything):
                self._put(stream, batch)

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


def connect(folder: Path, port: int, delivery: Delivery) -> tuple[mqtt5.Client, threading.Event]:
    """An MQTT session that survives this process, subscribed at QoS 1 to every tap, and the event of its end.

    Raises TimeoutError when the broker does not answer.
    """
    connected, stopped = threading.Event(), threading.Event()
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
        on_lifecycle_connection_success=lambda _: connected.set(),
        on_lifecycle_stopped=lambda _: stopped.set(),
    )
    client.start()
    if not connected.wait(20):
        raise TimeoutError("no MQTT connection to the emulator within 20 s")
    subscription = mqtt5.Subscription(topic_filter=f"{TOPIC}/#", qos=mqtt5.QoS.AT_LEAST_ONCE)
    client.subscribe(mqtt5.SubscribePacket(subscriptions=[subscription])).result(10)
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
    reconciled = time.monotonic()
    while not stop.wait(_TICK_SECONDS):
        try:
            delivery.deliver()
            if time.monotonic() - reconciled > _RECONCILE_SECONDS:
                delivery.reconcile()
                reconciled = time.monotonic()
        except Exception as error:  # the emulator is away: what is spooled waits for it
            print(f"firehose: waiting: {type(error).__name__}: {error}", flush=True)
            stop.wait(1.0)
    client.stop()
    stopped.wait(5)
    delivery.deliver(everything=True)


if __name__ == "__main__":
    main()
