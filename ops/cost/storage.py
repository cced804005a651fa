"""S3: the raw objects through their life, their copy in another region, and the requests on the way."""

from collections.abc import Iterator

from infra.settings import Settings
from ops.cost.assumptions import DAYS_PER_MONTH, GIB, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed
from ops.cost.pipeline import Load, Pipeline, raw_bucket

_GLACIER_INDEX_BYTES = 32 * 1024
_STANDARD_INDEX_BYTES = 8 * 1024
"""Beside each archived object, billed at Glacier's and at Standard's rate: https://aws.amazon.com/s3/pricing/"""
_PUT = "s3.usd_per_thousand_put_requests"
_STANDARD = "s3.usd_per_gib_month_standard"


def s3_items(
    settings: Settings, deployed: Deployed, pipeline: Pipeline, load: Load, assumptions: Assumptions
) -> Iterator[Item]:
    """The raw bucket, once as much expires in a day as arrives."""
    # Firehose uploads in parts when it may not wait a minute.
    requests = assumptions.put_requests_per_multipart_object if pipeline.buffer_interval_seconds < 60 else 1
    yield Item("S3", f"objects put ({requests} requests each)", requests * load.objects / 1e3, _PUT)
    yield Item("S3", "objects read by the loader", load.objects / 1e3, "s3.usd_per_thousand_get_requests")
    listings = _listings_per_month(settings, load, assumptions)
    yield Item("S3", "listed by the sweeper", listings / 1e3, _PUT)
    yield from _kept(pipeline, load)
    yield from _replicated(deployed, pipeline, load)


def archived(pipeline: Pipeline, load: Load) -> bool:
    """Whether the lifecycle rule takes effect on objects of this size."""
    life = pipeline.lifecycle
    return life.archive_after_days is not None and load.object_bytes > life.smallest_archived_bytes


def swept_objects_per_month(settings: Settings, load: Load) -> float:
    """Objects that the sweeper looks at: those of the last hours each time, all of them once a day."""
    per_day = load.objects / DAYS_PER_MONTH
    recent = per_day * settings.sweep_lookback_hours / 24 * (24 * 60 / settings.sweep_interval_minutes)
    whole = per_day * min(settings.retention_days, settings.expire_after_days)
    return (recent + whole) * DAYS_PER_MONTH


def _listings_per_month(settings: Settings, load: Load, assumptions: Assumptions) -> float:
    return swept_objects_per_month(settings, load) / assumptions.objects_per_listing


def _kept(pipeline: Pipeline, load: Load) -> Iterator[Item]:
    life = pipeline.lifecycle
    objects_per_day = load.objects / DAYS_PER_MONTH
    standard_days = life.expire_after_days
    if archived(pipeline, load):
        standard_days = min(life.archive_after_days or 0.0, life.expire_after_days)
        glacier_objects = objects_per_day * (life.expire_after_days - standard_days)
        transitions = load.objects if glacier_objects else 0.0
        yield Item("S3", "moved to Glacier", transitions / 1e3, "s3.usd_per_thousand_transitions_to_glacier")
        glacier = glacier_objects * (load.object_bytes + _GLACIER_INDEX_BYTES)
        yield Item("S3", "kept in Glacier", glacier / GIB, "s3.usd_per_gib_month_glacier")
        yield Item("S3", "index of Glacier", glacier_objects * _STANDARD_INDEX_BYTES / GIB, _STANDARD)
    standard = objects_per_day * standard_days * load.object_bytes
    yield Item("S3", f"kept in Standard ({standard_days:.0f} days)", standard / GIB, _STANDARD)


def _replicated(deployed: Deployed, pipeline: Pipeline, load: Load) -> Iterator[Item]:
    """A copy elsewhere costs its request, the way and its storage, all reckoned at this region's rates.

    https://aws.amazon.com/s3/pricing/, "Replication". Glacier does not come into it: copies are kept in Standard.
    """
    configuration = raw_bucket(deployed).at("ReplicationConfiguration", "Rules") or []
    copies = sum(rule.get("Status") == "Enabled" for rule in configuration)
    if not copies:
        return
    yield Item("S3", "copied to another region", copies * load.objects / 1e3, _PUT)
    moved = copies * load.objects * load.object_bytes / GIB
    yield Item("S3", "on the way to another region", moved, "s3.usd_per_gib_to_another_region")
    kept = moved / DAYS_PER_MONTH * pipeline.lifecycle.expire_after_days
    yield Item("S3", "kept in another region", kept, _STANDARD)
