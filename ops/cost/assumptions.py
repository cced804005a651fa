"""What no template and no setting says: each figure in one place, with where it comes from."""

from dataclasses import dataclass

HOURS_PER_MONTH = 730.0
"""As AWS's own calculator reckons."""
DAYS_PER_MONTH = HOURS_PER_MONTH / 24
SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
GIB = 2**30
BILLED_BYTES = 5 * 1024
"""IoT Core and Firehose bill each message, rule, action and record in steps of 5 KB.
https://aws.amazon.com/iot-core/pricing/additional-details/ and https://aws.amazon.com/firehose/pricing/"""


@dataclass(frozen=True)
class Assumptions:
    """Measured where we could, taken from the manual where it says, else conservative."""

    basic_ingest: bool = True
    """Devices publish to `$aws/rules/...`, as the simulator does: no charge for the message itself."""
    reconnects_per_device_per_day: float = 1.0
    registry_operations_per_device_per_month: float = 1.0
    """Provisioning and certificate rotation, spread over the year."""

    rule_adds_bytes: int = 99
    """`device_id`, `received_at`, `stamp` and the separator, as the rule and Firehose add them; measured."""
    compression_ratio: float = 6.0
    """Bytes of records to bytes of gzip. The simulator's payloads: 6.3 at gzip's level 1, 8.1 at level 6; uniformly
    random values: 5.9 at level 6. Firehose does not say which level it uses."""
    firehose_writers: int = 1
    """Objects written at a time. Firehose may use more for a stream of more than about 1 MiB/s."""
    put_requests_per_multipart_object: int = 3
    """Create, one part, complete: with an interval under 60 s Firehose uploads in parts.
    https://docs.aws.amazon.com/firehose/latest/dev/buffering-hints.html"""

    pollers_per_queue: int = 5
    """Lambda's least for a queue whose event source has a maximum concurrency.
    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html"""
    long_poll_seconds: int = 20

    loader_milliseconds_per_object: float = 150.0
    """S3's first byte, and the round trips of a transaction over TLS; generous."""
    loader_readings_per_second: float = 100_000.0
    """Per vCPU. Measured here: 300,000 in a local Lambda, database and loader on two shared cores."""
    mib_per_vcpu: float = 1769.0
    """https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html"""
    scheduled_milliseconds: float = 1000.0
    """Of a function that runs on a schedule, beside what it does per object."""
    swept_objects_per_second: float = 3000.0
    objects_per_listing: int = 1000

    loader_log_bytes: int = 2000
    """Per invocation with one object: a line per object, the metrics, Lambda's own three lines; measured 1,328 for the
    first two (tests/unit/test_cost.py measures again), 310 for Lambda's, and 26 for each event."""
    scheduled_log_bytes: int = 2000
    stored_log_ratio: float = 0.15
    """CloudWatch stores logs compressed: https://aws.amazon.com/cloudwatch/pricing/, example 3."""
    database_log_bytes_per_day: int = 50_000_000
    """PostgreSQL, pgBackRest and the system, as the agent sends them."""
    flow_log_records_per_minute: int = 120
    flow_log_record_bytes: int = 140
    access_log_record_bytes: int = 700

    secret_reads_per_function_per_day: float = 24.0
    """At each connect: when Lambda replaces an environment, or after a fault."""
    kms_calls_left_by_bucket_key: float = 0.01
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-key.html: up to 99 % fewer."""
    endpoint_bytes_per_month: int = GIB
    """Secrets and queue messages that pass the interface endpoints."""

    copy_bytes_per_row: int = 108
    """PostgreSQL's binary COPY of one reading (lambdas/processor/binary_copy.py)."""
    row_bytes: int = 195
    """Table and unique index, before columnstore; measured on TimescaleDB with 1,000,000 readings."""
    wal_bytes_per_row: int = 300
    """Measured 233 on load; the rest for columnstore."""
    backup_compression_ratio: float = 2.5
    """Of rows and WAL by pgBackRest's zst; what is in columnstore is compressed already."""
    columnstore_ratio: float = 12.0
    """Measured 14 with the simulator's readings (fleet bench storage); other sensors are noisier."""
    rowstore_days: float = 7.0
    """Before columnstore."""
    wal_segment_bytes: int = 16 * 2**20
    wal_segments_per_day_at_least: int = 1440
    """archive_timeout of 60 s."""


DEFAULT = Assumptions()
