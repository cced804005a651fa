"""The pipeline as deployed, and the load it carries: plain values, so that one of them can be changed to compare."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from infra.names import RAW_PREFIX
from infra.settings import Settings
from ops.cost.assumptions import BILLED_BYTES, SECONDS_PER_MONTH, Assumptions
from ops.cost.deployed import Deployed, Resource
from ops.errors import UserError

_128_KIB = 128 * 1024
_NEVER_DAYS = 3650.0
"""What never expires is reckoned as it will be after ten years."""
_ENVELOPE_BYTES = len('{"readings":[]}') - 1
"""Beside the readings and a comma for each."""


@dataclass(frozen=True)
class Lifecycle:
    """What becomes of a raw object with time."""

    archive_after_days: float | None
    """Days until it moves to Glacier Flexible Retrieval; None: never."""
    smallest_archived_bytes: float
    """Objects up to this size stay where they are. S3's own default is 128 KiB:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/lifecycle-transition-general-considerations.html"""
    expire_after_days: float
    """Days until its last byte is gone, the time as a noncurrent version included."""


@dataclass(frozen=True)
class Pipeline:
    """Of the template, what the cost of a reading depends on."""

    actions: int
    """Of the rule, each executed for each message."""
    batch_mode: bool
    """Firehose gets each member of an array as a record of its own."""
    buffer_interval_seconds: float
    buffer_size_bytes: float
    gzip: bool
    lifecycle: Lifecycle
    loader_memory_mib: int
    loader_architecture: str


@dataclass(frozen=True)
class Load:
    """What passes in a month."""

    readings: float
    messages: float
    message_bytes: int
    record_bytes: int
    records: float
    objects: float
    object_readings: float
    object_bytes: float
    """In S3."""

    @property
    def message_units(self) -> float:
        """Steps of 5 KB that IoT Core counts."""
        return self.messages * ceil(self.message_bytes / BILLED_BYTES)

    @property
    def firehose_bytes(self) -> float:
        """Bytes that Firehose bills: each record rounded up to 5 KB."""
        return self.records * ceil(self.record_bytes / BILLED_BYTES) * BILLED_BYTES


def load_of(settings: Settings, pipeline: Pipeline, assumptions: Assumptions) -> Load:
    """What the fleet of the settings sends through the pipeline."""
    per_message = settings.readings_per_message
    message_bytes = settings.reading_bytes
    if per_message > 1:
        message_bytes = _ENVELOPE_BYTES + per_message * (settings.reading_bytes + 1)
    per_record = 1 if pipeline.batch_mode else per_message
    record_bytes = (settings.reading_bytes if pipeline.batch_mode else message_bytes) + assumptions.rule_adds_bytes
    records_per_second = settings.readings_per_second / per_record
    writers = assumptions.firehose_writers
    filled_seconds = pipeline.buffer_size_bytes * writers / (records_per_second * record_bytes)
    # No object without a record; an interval of 0 means as soon as Firehose can, which is about a second.
    object_seconds = max(
        min(max(pipeline.buffer_interval_seconds, 1.0), filled_seconds) / writers, 1 / records_per_second
    )
    object_records = records_per_second * object_seconds
    ratio = assumptions.compression_ratio if pipeline.gzip else 1.0
    return Load(
        readings=settings.readings_per_second * SECONDS_PER_MONTH,
        messages=settings.readings_per_second * SECONDS_PER_MONTH / per_message,
        message_bytes=message_bytes,
        record_bytes=record_bytes,
        records=records_per_second * SECONDS_PER_MONTH,
        objects=SECONDS_PER_MONTH / object_seconds,
        object_readings=object_records * per_record,
        object_bytes=object_records * record_bytes / ratio,
    )


def pipeline_of(deployed: Deployed) -> Pipeline:
    """The pipeline that the templates deploy. Raises UserError when they have none that could be reckoned."""
    rule = _telemetry_rule(deployed)
    stream = _only(deployed, "AWS::KinesisFirehose::DeliveryStream")
    actions = rule.at("TopicRulePayload", "Actions")
    bucket, loader = raw_bucket(deployed), loader_of(deployed)
    destination = stream.at("ExtendedS3DestinationConfiguration") or {}
    hints = destination.get("BufferingHints", {})
    return Pipeline(
        actions=len(actions),
        batch_mode=any(action.get("Firehose", {}).get("BatchMode") is True for action in actions),
        # https://docs.aws.amazon.com/firehose/latest/APIReference/API_BufferingHints.html
        buffer_interval_seconds=hints.get("IntervalInSeconds", 300),
        buffer_size_bytes=hints.get("SizeInMBs", 5) * 2**20,
        gzip=destination.get("CompressionFormat") == "GZIP",
        lifecycle=_lifecycle(bucket),
        loader_memory_mib=int(loader.at("MemorySize") or 128),
        loader_architecture=architecture(loader),
    )


def raw_bucket(deployed: Deployed) -> Resource:
    """The bucket that Firehose writes to."""
    stream = _only(deployed, "AWS::KinesisFirehose::DeliveryStream")
    bucket = deployed.target(stream.at("ExtendedS3DestinationConfiguration", "BucketARN"), stream.stack)
    if bucket is None:
        raise UserError("the template's Firehose stream writes to no bucket of these stacks: its cost is not known")
    return bucket


def object_queues(deployed: Deployed) -> list[Resource]:
    """The queues that the raw bucket announces its objects to."""
    bucket = raw_bucket(deployed)
    configured = bucket.at("NotificationConfiguration", "QueueConfigurations") or []
    return [queue for one in configured for queue in deployed.targets(one.get("Queue"), bucket.stack)]


def loader_of(deployed: Deployed) -> Resource:
    """The function that takes those queues' messages."""
    queues = object_queues(deployed)
    for mapping in deployed.of_type("AWS::Lambda::EventSourceMapping"):
        if deployed.target(mapping.at("EventSourceArn"), mapping.stack) in queues:
            function = deployed.target(mapping.at("FunctionName"), mapping.stack)
            if function is not None:
                return function
    raise UserError("no function of the template takes the messages about new objects: its cost is not known")


def architecture(function: Resource) -> str:
    """`arm64` or `x86_64`."""
    return str((function.at("Architectures") or ["x86_64"])[0])


def _telemetry_rule(deployed: Deployed) -> Resource:
    """The rule that hands messages to Firehose; what others cost is not reckoned: a last will is rare."""
    found = [
        rule
        for rule in deployed.of_type("AWS::IoT::TopicRule")
        if any("Firehose" in action for action in rule.at("TopicRulePayload", "Actions") or [])
    ]
    if len(found) != 1:
        raise UserError(f"the template has {len(found)} IoT rules with a Firehose action: the cost of one is reckoned")
    return found[0]


def _only(deployed: Deployed, kind: str) -> Resource:
    found = deployed.of_type(kind)
    if len(found) != 1:
        raise UserError(f"the template has {len(found)} resources of type {kind}: the cost of one is reckoned")
    return found[0]


def _lifecycle(bucket: Resource) -> Lifecycle:
    configuration: dict[str, Any] = bucket.at("LifecycleConfiguration") or {}
    archive: float | None = None
    expire = _NEVER_DAYS
    noncurrent = 0.0
    varies = configuration.get("TransitionDefaultMinimumObjectSize") == "varies_by_storage_class"
    smallest = 0.0 if varies else float(_128_KIB - 1)
    for rule in configuration.get("Rules", []):
        if rule.get("Status") != "Enabled" or not RAW_PREFIX.startswith(rule.get("Prefix", "")):
            continue
        for transition in [*rule.get("Transitions", []), *filter(None, [rule.get("Transition")])]:
            if transition["StorageClass"] != "GLACIER":
                raise UserError(f"storage class {transition['StorageClass']} of the raw bucket is not reckoned: add it")
            archive = float(transition["TransitionInDays"])
            # A filter of the rule takes the place of the default.
            smallest = float(rule.get("ObjectSizeGreaterThan", smallest))
        expire = min(expire, float(rule.get("ExpirationInDays", expire)))
        noncurrent = max(noncurrent, float(rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0)))
    if bucket.at("VersioningConfiguration", "Status") == "Enabled":
        # Expiry only hides the object behind a delete marker; it goes when its noncurrent versions expire.
        expire += noncurrent
    return Lifecycle(archive_after_days=archive, smallest_archived_bytes=smallest, expire_after_days=expire)
