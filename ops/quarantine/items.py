"""What waits for an operator: its kinds, its ids, and the filters by which it is chosen. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from ops.errors import UserError
from ops.times import parse_time

Kind = Literal["line", "object", "event", "message", "rule-error"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KINDS_IN_DATABASE: frozenset[Kind] = frozenset({"line", "object", "message"})

_NUMBER = re.compile(r"[0-9]{1,18}")
_SQS_MESSAGE_ID = re.compile(r"[0-9A-Za-z-]{1,100}")


@dataclass(frozen=True, order=True)
class ItemId:
    """`line-12`, `object-7`, `message-3` (ids of the database), `event-<id>`, `rule-error-<id>` (SQS message ids)."""

    kind: Kind
    key: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.key}"

    @property
    def number(self) -> int:
        """The id in the database, of the kinds that have one."""
        return int(self.key)


def parse_id(text: str) -> ItemId:
    """Reads an id as `list` prints it. Raises UserError when it is none."""
    for kind in KINDS:
        key = text.removeprefix(f"{kind}-")
        pattern = _NUMBER if kind in KINDS_IN_DATABASE else _SQS_MESSAGE_ID
        if key != text and pattern.fullmatch(key):
            return ItemId(kind, str(int(key)) if kind in KINDS_IN_DATABASE else key)
    raise UserError(
        f"{text!r} is no id: use one that fleet quarantine list prints, such as line-12, object-7, message-3 "
        "or event-<SQS message id>"
    )


@dataclass(frozen=True)
class Item:
    """One thing that waits, or (`resolution`) what was done with it."""

    id: ItemId
    at: datetime
    """Since when: quarantined, rejected, or sent to the queue whose dead letter it is."""
    reason: str
    device: str | None = None
    object_id: int | None = None
    bucket: str | None = None
    key: str | None = None
    version_id: str | None = None
    line: int | None = None
    element: int | None = None
    size_bytes: int | None = None
    resolution: str | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values: the id with its kind, times as ISO 8601, nothing that is not known."""
        values = {"id": str(self.id), "kind": self.id.kind, **{k: v for k, v in vars(self).items() if k != "id"}}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in values.items()
            if value is not None
        }


@dataclass(frozen=True)
class Filter:
    """Which items are meant; None means all."""

    kinds: frozenset[Kind] = frozenset(KINDS)
    reason: str | None = None
    """A reason, or what it begins with before a colon."""
    device: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None
    """Key of an S3 object."""
    resolved: bool = False
    """Also what has been redriven or discarded."""

    @property
    def chooses(self) -> bool:
        """Whether it leaves anything out, and so is a choice somebody made."""
        return self != Filter(resolved=self.resolved)

    def matches(self, item: Item) -> bool:
        """The same choice as the database makes, for what lies in a queue."""
        return (
            item.id.kind in self.kinds
            and (self.reason is None or item.reason == self.reason or item.reason.startswith(self.reason + ":"))
            and (self.device is None or item.device == self.device)
            and (self.key is None or item.key == self.key)
            and (self.since is None or item.at >= self.since)
            and (self.until is None or item.at < self.until)
        )


def parse_filter(
    *,
    kinds: list[str] | None,
    reason: str | None,
    device: str | None,
    since: str | None,
    until: str | None,
    key: str | None,
    now: datetime,
    resolved: bool = False,
) -> Filter:
    """A filter from the command line's options. Raises UserError when a value is not usable."""
    for kind in kinds or []:
        if kind not in KINDS:
            raise UserError(f"--kind {kind}: use one of {', '.join(KINDS)}")
    chosen = Filter(
        kinds=frozenset(kind for kind in KINDS if kind in kinds) if kinds else frozenset(KINDS),
        reason=reason,
        device=device,
        since=parse_time(since, "--from", now) if since else None,
        until=parse_time(until, "--to", now) if until else None,
        key=_key(key) if key else None,
        resolved=resolved,
    )
    if chosen.since and chosen.until and chosen.since >= chosen.until:
        raise UserError(f"--from {since} is not before --to {until}: nothing can be in between")
    return chosen


def _key(text: str) -> str:
    """An object's key, also when it is given as s3://BUCKET/KEY."""
    return text.removeprefix("s3://").partition("/")[2] if text.startswith("s3://") else text
