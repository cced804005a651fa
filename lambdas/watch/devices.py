"""Which devices are offline, and how long readings take from AWS IoT Core to the table: pure."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_LONG = timedelta(hours=1)
_STALE = timedelta(hours=1)
"""How old what is remembered of a device may become: it is only asked of one that has been silent for a day."""
_DAY = timedelta(days=1)
_LOOK_BACK_AT_MOST = timedelta(days=30)


class Contact(NamedTuple):
    """The last that was heard of a device."""

    device_id: str
    at: datetime
    """When AWS IoT Core received its newest reading; never in the future."""
    loaded_at: datetime | None
    """When that reading was loaded."""


@dataclass(frozen=True)
class Presence:
    """How many devices there are, and how many of them are silent."""

    known: int
    offline: int
    offline_over_an_hour: int

    @property
    def offline_percent(self) -> float:
        """Of the known devices; 0 when none is known."""
        return 100 * self.offline / self.known if self.known else 0.0


def presence(last_seen: Iterable[datetime], now: datetime, offline_after: timedelta) -> Presence:
    """Counts devices by when each was last seen."""
    silences = [now - at for at in last_seen]
    return Presence(
        known=len(silences),
        offline=sum(silence > offline_after for silence in silences),
        offline_over_an_hour=sum(silence > _LONG for silence in silences),
    )


def in_service(
    last_seen: Mapping[str, datetime], retired: Mapping[str, datetime], inactive: Set[str]
) -> dict[str, datetime]:
    """When each device was last seen, without those that were retired and have been silent since, or are not active."""
    return {
        device_id: at
        for device_id, at in last_seen.items()
        if device_id not in inactive and (device_id not in retired or at > retired[device_id])
    }


def look_back_to(now: datetime, remembered: Mapping[str, datetime]) -> datetime:
    """Since when readings are looked at for devices: a midnight, so that whole chunks count and no index entry is skipped.

    Yesterday's, or the day when the watch last saw a device, so that what came while it did not run is found.
    """
    watched = max(remembered.values(), default=now - _LOOK_BACK_AT_MOST)
    since = max(min(watched, now - _DAY), now - _LOOK_BACK_AT_MOST)
    return since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def to_remember(contacts: Sequence[Contact], remembered: Mapping[str, datetime]) -> list[Contact]:
    """Those that are new, or of which what is remembered has become stale: not every device every minute."""
    return [
        contact
        for contact in contacts
        if contact.device_id not in remembered or contact.at - remembered[contact.device_id] >= _STALE
    ]


def latency_seconds(contacts: Iterable[Contact], loaded_since: datetime, share: float = 0.95) -> float | None:
    """The 95th percentile, over devices, of the time from AWS IoT Core to the table, of each one's newest reading.

    Only those loaded since then; None when there is none. What a device kept to itself before it sent is not in it.
    """
    waits = sorted(
        max(0.0, (contact.loaded_at - contact.at).total_seconds())
        for contact in contacts
        if contact.loaded_at is not None and contact.loaded_at >= loaded_since
    )
    return waits[math.ceil(share * len(waits)) - 1] if waits else None
