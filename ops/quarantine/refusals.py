"""What the database knows of refused things: the view ingest.refusals, chosen by filter or id, and marked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from lambdas.shared.quarantine import MAX_RAW_BYTES
from ops.quarantine.items import KINDS_IN_DATABASE, Filter, Item, ItemId, Kind
from ops.quarantine.outcome import Outcome, Tally

_BATCH = 5_000
_COLUMNS = sql.SQL(
    "kind, id, at, reason, device_id, object_id, bucket, key, version_id, line, element, size_bytes, "
    "resolution, resolved_at, resolved_by, note"
)


@dataclass
class Chosen:
    """Ids of the database, lines by their object."""

    lines: dict[int, list[int]] = field(default_factory=dict)
    objects: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.lines.values())) + len(self.objects) + len(self.messages)

    def add(self, kind: str, number: int, object_id: int | None) -> None:
        """Adds one."""
        if kind == "line" and object_id is not None:
            self.lines.setdefault(object_id, []).append(number)
        else:
            (self.objects if kind == "object" else self.messages).append(number)


def condition(chosen: Filter) -> tuple[sql.Composable, list[object]]:
    """The filter as a condition on ingest.refusals, with its parameters."""
    parts: list[tuple[str, list[object]]] = [("kind = ANY(%s)", [sorted(chosen.kinds & KINDS_IN_DATABASE)])]
    if not chosen.resolved:
        parts.append(("resolution IS NULL", []))
    if chosen.reason is not None:
        parts.append(("(reason = %s OR starts_with(reason, %s))", [chosen.reason, f"{chosen.reason}:"]))
    for test, value in (
        ("device_id = %s", chosen.device),
        ("key = %s", chosen.key),
        ("at >= %s", chosen.since),
        ("at < %s", chosen.until),
    ):
        if value is not None:
            parts.append((test, [value]))
    return (
        sql.SQL(" AND ").join(sql.SQL(text) for text, _ in parts),
        [value for _, values in parts for value in values],
    )


def listed(database: psycopg.Connection, chosen: Filter, limit: int | None) -> list[Item]:
    """The newest items first."""
    where, parameters = condition(chosen)
    query = sql.SQL("SELECT {} FROM ingest.refusals WHERE {} ORDER BY at DESC, id DESC LIMIT %s")
    return [_item(row) for row in database.execute(query.format(_COLUMNS, where), [*parameters, limit])]


def count(database: psycopg.Connection, chosen: Filter) -> int:
    """How many items the filter matches."""
    where, parameters = condition(chosen)
    query = sql.SQL("SELECT count(*) FROM ingest.refusals WHERE {}").format(where)
    row = database.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0


def choose(database: psycopg.Connection, chosen: Filter, limit: int | None) -> Chosen:
    """The ids that the filter matches, oldest first."""
    where, parameters = condition(chosen)
    query = sql.SQL("SELECT kind, id, object_id FROM ingest.refusals WHERE {} ORDER BY at, id LIMIT %s").format(where)
    found = Chosen()
    for kind, number, object_id in database.execute(query, [*parameters, limit]):
        found.add(kind, number, object_id)
    return found


def with_ids(database: psycopg.Connection, ids: Iterable[ItemId]) -> list[Item]:
    """The items with these ids, resolved or not; one that does not exist is not among them."""
    wanted: dict[Kind, list[int]] = {}
    for identifier in ids:
        wanted.setdefault(identifier.kind, []).append(identifier.number)
    query = sql.SQL("SELECT {} FROM ingest.refusals WHERE kind = %s AND id = ANY(%s)").format(_COLUMNS)
    return [
        _item(row) for kind, numbers in wanted.items() for row in database.execute(query, [kind, list(set(numbers))])
    ]


def _item(row: TupleRow) -> Item:
    kind, number, *rest = row
    return Item(ItemId(kind, str(number)), *rest)


@dataclass(frozen=True)
class Kept:
    """The text of a line or message, and whether that is all of it."""

    raw: str
    raw_bytes: int
    payload: bytes | None

    @property
    def whole(self) -> bytes | None:
        """Every byte, or None when it was cut, or bytes in it were escaped."""
        if self.payload is not None:
            return self.payload
        # Escapes only lengthen a text, and beyond the limit it was cut.
        text = self.raw.encode()
        return text if self.raw_bytes <= MAX_RAW_BYTES and len(text) == self.raw_bytes else None


def kept(database: psycopg.Connection, identifier: ItemId) -> Kept | None:
    """What is kept of a line or message."""
    row = database.execute(
        "SELECT raw, raw_bytes, payload FROM ingest.quarantine WHERE quarantine_id = %s", [identifier.number]
    ).fetchone()
    return Kept(*row) if row else None


def discard(
    database: psycopg.Connection, kind: Kind, numbers: Sequence[int], *, by: str, note: str | None, dry_run: bool
) -> Tally:
    """Marks waiting lines and messages, or rejected objects, as given up; nothing is deleted, no count changes."""
    table, key = ("objects", "object_id") if kind == "object" else ("quarantine", "quarantine_id")
    statement = sql.SQL(
        "UPDATE ingest.{} SET resolution = 'discarded', resolved_at = clock_timestamp(), resolved_by = %s, note = %s "
        "WHERE {} = ANY(%s) AND resolution IS NULL {} RETURNING reason"
    ).format(
        sql.Identifier(table),
        sql.Identifier(key),
        sql.SQL("AND status = 'rejected'" if kind == "object" else ""),
    )
    tally = Tally()
    for start in range(0, len(numbers), _BATCH):
        with database.transaction(force_rollback=dry_run):
            for (reason,) in database.execute(statement, [by, note, list(numbers[start : start + _BATCH])]):
                tally[Outcome(kind, reason, "discarded")] += 1
    if already := len(numbers) - tally.total():
        tally[Outcome(kind, "", "resolved already")] += already
    return tally
