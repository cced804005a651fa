"""From a message that a tap or a twin hands over to an object in S3, or to the topic where the rule wants it."""

import gzip
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import boto3
from awscrt.exceptions import AwsCrtError
from botocore import handlers

from local.firehose import republish
from local.firehose.keys import object_key
from local.firehose.republish import Republish
from local.firehose.spool import Batch, Spool, delivered
from local.firehose.taps import Stream, deployed_rules, describe_stream, open_taps

_PUTS_AT_A_TIME = 8
"""The emulator answers a put when it gets round to it, which under load is late: several wait side by side."""

Publish = Callable[[str, bytes, int], None]
"""Publishes a payload to a topic, at that quality of service, without waiting."""


class Delivery:
    """From a tapped message to an object in S3."""

    def __init__(self, folder: Path, publish: Publish) -> None:
        self._folder = folder
        self._publish = publish
        self._s3 = boto3.client("s3")
        # Without `Expect: 100-continue`, for whose answer a put would wait once more.
        self._s3.meta.events.unregister("before-call.s3", handlers.add_expect_header)
        self._iot = boto3.client("iot")
        self._firehose = boto3.client("firehose")
        self._streams: dict[str, tuple[Stream, Spool]] = {}
        self._taps: dict[str, tuple[Spool, bytes]] = {}
        self._republished: dict[str, Republish] = {}
        self._reconciling, self._delivering = threading.Lock(), threading.Lock()
        self._puts = ThreadPoolExecutor(_PUTS_AT_A_TIME, thread_name_prefix="put")

    def reconcile(self) -> None:
        """Follows what is deployed: new rules are tapped, a rule replaced by a deployment is tapped again."""
        with self._reconciling:
            rules = deployed_rules(self._iot)
            self._republished = self._republished | republish.follow(self._iot, rules)
            taps = open_taps(self._iot, rules)
            for stream in {stream for stream, _ in taps.values()}:
                self._streams[stream] = self._follow(stream)
            # Those of a rule that is gone stay: the broker may still have records of it.
            self._taps = self._taps | {
                topic: (self._streams[stream][1], separator) for topic, (stream, separator) in taps.items()
            }

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
        """Takes in a message. The broker is sent its acknowledgement only after this has returned.

        It would be sent after an exception as well, so one ends the process: the broker then keeps the message.
        """
        try:
            if topic not in self._taps and topic not in self._republished:
                self.reconcile()
            if topic in self._taps:
                spool, separator = self._taps[topic]
                spool.append(payload + separator)
            elif topic in self._republished:
                self._republish(self._republished[topic], payload)
            else:
                # It would come again and again, and end each process anew.
                print(f"firehose: dropped a message to {topic}: no deployed rule writes there", flush=True)
        except Exception as error:
            print(f"firehose: a message cannot be kept: {type(error).__name__}: {error}", flush=True)
            os._exit(1)

    def _republish(self, action: Republish, result: bytes) -> None:
        """As the rules engine does: what fails is lost, and said."""
        try:
            topic, payload = action.message(result)
            self._publish(topic, payload, action.qos)
        except (ValueError, AwsCrtError) as error:
            print(f"firehose: a message was not republished: {error}", flush=True)

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
