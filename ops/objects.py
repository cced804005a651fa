"""The newest raw objects, each with what the ledger says of it."""

from typing import NamedTuple

from infra.names import RAW_PREFIX
from infra.settings import load
from ops.aws import outputs, session_for
from ops.target import database


class ListedObject(NamedTuple):
    """One object in S3; the counts are empty while the ledger does not have it."""

    key: str
    size_bytes: int
    state: str
    readings: int | str = ""
    rows: int | str = ""
    duplicates: int | str = ""
    quarantined: int | str = ""


def newest(environment: str, count: int) -> list[ListedObject]:
    """The `count` newest objects, newest first. Raises UserError when the environment cannot be reached."""
    aws = session_for(environment)
    bucket = outputs(aws, load(environment).names.stack("ingest"))["BucketName"]
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=RAW_PREFIX)
    listed = sorted(
        ((entry["LastModified"], entry["Key"], entry["Size"]) for page in pages for entry in page.get("Contents", ())),
        reverse=True,
    )[:count]
    with database(environment, application_name="fleet objects") as connection:
        ledger = {
            row[0]: row[1:]
            for row in connection.execute(
                "SELECT key, coalesce(reason, status), readings, rows, duplicates, quarantined FROM ingest.objects "
                "WHERE bucket = %s AND key = ANY(%s) ORDER BY object_id",
                (bucket, [key for _, key, _ in listed]),
            )
        }
    return [ListedObject(key, size, *ledger.get(key, ("not loaded",))) for _, key, size in listed]
