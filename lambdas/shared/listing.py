"""What lies in S3: the raw objects, a page at a time, and the key prefixes that stand for a span of hours."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

EVERYTHING = "year="
"""What the key of every raw object begins with."""
_HOUR = timedelta(hours=1)
_NOT_READABLE_AT_ONCE = frozenset({"GLACIER", "DEEP_ARCHIVE"})


class Listed(NamedTuple):
    """One version of one object, as S3 lists it."""

    key: str
    version_id: str
    """Empty in a bucket without versions, as in S3's events and hence in the ledger."""
    size_bytes: int
    arrived_at: datetime
    """S3's LastModified."""
    latest: bool
    archived: bool
    """In a storage class that must be restored before it can be read."""


class Marker(NamedTuple):
    """Where a listing stopped."""

    key: str
    version_id: str
    deleted: bool = False
    """The latest version of that key is a delete marker: what follows of it is not there."""


def pages(
    s3: Any, bucket: str, prefix: str, after: Marker | None = None
) -> Iterator[tuple[list[Listed], Marker | None]]:
    """The object versions under `prefix` in the order of keys, newest version first, with the place to go on from.

    A page is at most 1000 versions, and memory is bounded by it. An object that was deleted (its latest version is a
    delete marker) is not there, nor are its older versions.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectVersions.html
    """
    deleted = after.key if after is not None and after.deleted else None
    while True:
        request = {"Bucket": bucket, "Prefix": prefix}
        if after is not None:
            request |= {"KeyMarker": after.key}
            if after.version_id:
                request |= {"VersionIdMarker": after.version_id}
        answer = s3.list_object_versions(**request)
        # A marker that is the latest of its key comes before the key's versions, on this page or on the one before.
        gone = {entry["Key"] for entry in answer.get("DeleteMarkers", ()) if entry["IsLatest"]} | {deleted}
        after = None
        if answer["IsTruncated"]:
            key = answer["NextKeyMarker"]
            after = Marker(key, answer.get("NextVersionIdMarker", ""), key in gone)
            deleted = key if after.deleted else None
        yield [_listed(entry) for entry in answer.get("Versions", ()) if entry["Key"] not in gone], after
        if after is None:
            return


def _listed(entry: dict[str, Any]) -> Listed:
    version_id = entry["VersionId"]
    return Listed(
        key=entry["Key"],
        version_id="" if version_id == "null" else version_id,
        size_bytes=entry["Size"],
        arrived_at=entry["LastModified"].astimezone(UTC),
        latest=entry["IsLatest"],
        archived=entry.get("StorageClass") in _NOT_READABLE_AT_ONCE,
    )


def hour_prefixes(start: datetime, end: datetime) -> list[str]:
    """The fewest key prefixes that together are the hours from `start` to `end`; hours that are touched count whole.

    Whole days, months and years are one prefix each. Keys carry the UTC hour in which Firehose took in the oldest record
    of an object: https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html
    """
    at = start.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    end = end.astimezone(UTC)
    prefixes = []
    while at < end:
        year = at.replace(month=1, day=1, hour=0)
        month, day = at.replace(day=1, hour=0), at.replace(hour=0)
        next_year = year.replace(year=at.year + 1)
        next_month = (month + timedelta(days=32)).replace(day=1)
        next_day = day + timedelta(days=1)
        if at == year and next_year <= end:
            prefixes.append(f"year={at:%Y}/")
            at = next_year
        elif at == month and next_month <= end:
            prefixes.append(f"year={at:%Y}/month={at:%m}/")
            at = next_month
        elif at == day and next_day <= end:
            prefixes.append(f"year={at:%Y}/month={at:%m}/day={at:%d}/")
            at = next_day
        else:
            prefixes.append(f"year={at:%Y}/month={at:%m}/day={at:%d}/hour={at:%H}/")
            at += _HOUR
    return prefixes
