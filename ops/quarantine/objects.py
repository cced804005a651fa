"""Redrives objects that were rejected whole: each is loaded again, under the id that it has."""

from contextlib import closing
from datetime import datetime
from typing import Any

from lambdas.processor.limits import Limits
from lambdas.processor.load import reload_rejected
from lambdas.processor.raw_object import ObjectVersion
from ops.quarantine.outcome import Outcome, Tally
from ops.quarantine.pipeline import ArchivedObjectError, Opened, Pipeline


def redrive_object(pipeline: Pipeline, object_id: int, *, now: datetime, dry_run: bool = False) -> Tally:
    """Loads one rejected object again; one that is still broken stays rejected, with its reason of today.

    A dry run does the same and rolls back. Raises psycopg.Error and botocore's errors, with nothing changed.
    """
    row = pipeline.database.execute(
        "SELECT reason, bucket, key, version_id, size_bytes FROM ingest.objects "
        "WHERE object_id = %s AND status = 'rejected'",
        [object_id],
    ).fetchone()
    if row is None:
        return Tally([Outcome("object", "", "resolved already")])
    reason, *version = row
    opened: list[Opened] = []

    def open_object() -> Any:
        opened.append(pipeline.open(ObjectVersion(*version)))
        return closing(opened[-1].body)

    def limits() -> Limits:
        return pipeline.rules.limits(arrived_at=opened[-1].arrived_at, now=now)

    try:
        with pipeline.database.transaction(force_rollback=dry_run):
            outcome = reload_rejected(pipeline.database, object_id, open_object, limits)
    except ArchivedObjectError as error:
        return Tally([Outcome("object", reason, "stays", str(error))])
    if outcome is None:
        return Tally([Outcome("object", reason, "resolved already")])
    if outcome.status == "rejected":
        return Tally([Outcome("object", reason, "stays", outcome.reason or "")])
    counts = {"row": outcome.rows, "duplicate": outcome.duplicates, "stays": outcome.quarantined}
    tally = Tally([Outcome("object", reason, "loaded")])
    for became, number in counts.items():
        if number:
            because = "quarantined as lines of their own" if became == "stays" else ""
            tally[Outcome("object", reason, became, because)] += number  # type: ignore[arg-type] # the keys above
    return tally
