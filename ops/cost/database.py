"""The self-hosted database: its instance, its volumes, its backups. An external one is billed by whoever runs it."""

from collections.abc import Iterator
from typing import Any

from infra.settings import Settings
from ops.cost.assumptions import DAYS_PER_MONTH, GIB, HOURS_PER_MONTH, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed, Resource

_GP3_IOPS = 3000
_GP3_MIB_PER_SECOND = 125
"""What a gp3 volume has without further payment: https://aws.amazon.com/ebs/pricing/"""
_DEFAULT_ROOT_GIB = 8
_FULL_EVERY_DAYS = 7


def instance_items(deployed: Deployed) -> Iterator[Item]:
    """Instances by the hour."""
    for instance in deployed.of_type("AWS::EC2::Instance"):
        kind = _instance_type(deployed, instance)
        yield Item("EC2", f"{kind}, on demand", HOURS_PER_MONTH, f"ec2.usd_per_hour_of_{kind}")


def volume_items(deployed: Deployed) -> Iterator[Item]:
    """Volumes: size, and what IOPS and throughput they have beyond a gp3 volume's own."""
    for name, volume in _volumes(deployed):
        size = float(volume.get("Size") or volume.get("VolumeSize") or _DEFAULT_ROOT_GIB)
        yield Item("EBS", f"{name} volume", size, "ebs.usd_per_gib_month_gp3")
        iops = max(0, int(volume.get("Iops") or 0) - _GP3_IOPS)
        yield Item("EBS", f"{name} volume, IOPS over {_GP3_IOPS}", iops, "ebs.usd_per_iops_month_gp3")
        throughput = max(0, int(volume.get("Throughput") or 0) - _GP3_MIB_PER_SECOND)
        what = f"{name} volume, throughput over {_GP3_MIB_PER_SECOND} MiB/s"
        yield Item("EBS", what, throughput, "ebs.usd_per_mib_per_second_month_gp3")


def backup_items(settings: Settings, deployed: Deployed, assumptions: Assumptions) -> Iterator[Item]:
    """Backups in S3: a full one each week, a differential one on the other days, and the WAL since the oldest full.

    As infra/instance/backup.sh takes them, until pgBackRest forgets them and the bucket forgets what was deleted.
    """
    if not deployed.of_type("AWS::EC2::Instance"):
        return
    # Time based retention keeps the full backup that is older than the period, too; all go when the next one is done.
    days = settings.backup_retention_days + _FULL_EVERY_DAYS + _days_after_deletion(settings, deployed)
    fulls = days / _FULL_EVERY_DAYS
    as_rows, in_columnstore = _table_bytes(settings, assumptions)
    full = as_rows / assumptions.backup_compression_ratio + in_columnstore
    full = min(full, settings.database_volume_gib * GIB)
    rows_per_day = settings.readings_per_second * 86_400
    # Each differential backup has everything since the full one: one day's rows, two days' ...
    changed_days = sum(range(1, _FULL_EVERY_DAYS))
    differential = changed_days * rows_per_day * assumptions.row_bytes / assumptions.backup_compression_ratio
    wal_per_day = rows_per_day * assumptions.wal_bytes_per_row
    wal = days * wal_per_day / assumptions.backup_compression_ratio
    standard = "s3.usd_per_gib_month_standard"
    yield Item("Backups", f"full, weekly, {days:.0f} days", fulls * full / GIB, standard)
    yield Item("Backups", "differential, daily", fulls * differential / GIB, standard)
    yield Item("Backups", "WAL", wal / GIB, standard)
    segments = max(wal_per_day / assumptions.wal_segment_bytes, assumptions.wal_segments_per_day_at_least)
    yield Item("Backups", "WAL segments put", segments * DAYS_PER_MONTH / 1e3, "s3.usd_per_thousand_put_requests")


def database_bytes(settings: Settings, assumptions: Assumptions) -> float:
    """What the readings of the retention take on the volume."""
    return sum(_table_bytes(settings, assumptions))


def _table_bytes(settings: Settings, assumptions: Assumptions) -> tuple[float, float]:
    """The last days as rows with their index, the rest in columnstore."""
    per_day = settings.readings_per_second * 86_400 * assumptions.row_bytes
    as_rows = min(assumptions.rowstore_days, settings.retention_days)
    return per_day * as_rows, per_day * (settings.retention_days - as_rows) / assumptions.columnstore_ratio


def _days_after_deletion(settings: Settings, deployed: Deployed) -> float:
    """How long the backup bucket keeps what pgBackRest has deleted."""
    name = settings.names.backup_bucket("", "").rstrip("-")
    for bucket in deployed.of_type("AWS::S3::Bucket"):
        if name in str(bucket.at("BucketName")):
            rules = bucket.at("LifecycleConfiguration", "Rules") or []
            return max((_noncurrent_days(rule) for rule in rules), default=0.0)
    return 0.0


def _noncurrent_days(rule: dict[str, Any]) -> float:
    return float(rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays", 0))


def _instance_type(deployed: Deployed, instance: Resource) -> str:
    if kind := instance.at("InstanceType"):
        return str(kind)
    template = deployed.target(instance.at("LaunchTemplate"), instance.stack)
    return str(template.at("LaunchTemplateData", "InstanceType")) if template else "unknown"


def _volumes(deployed: Deployed) -> Iterator[tuple[str, dict[str, Any]]]:
    for volume in deployed.of_type("AWS::EC2::Volume"):
        yield "data", dict(volume.properties)
    for instance in deployed.of_type("AWS::EC2::Instance"):
        template = deployed.target(instance.at("LaunchTemplate"), instance.stack)
        mappings = instance.at("BlockDeviceMappings")
        if mappings is None and template is not None:
            mappings = template.at("LaunchTemplateData", "BlockDeviceMappings")
        for mapping in mappings or [{}]:
            yield "root", dict(mapping.get("Ebs", {}))
