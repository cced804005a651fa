"""A balance sheet: what there should be per device and hour, where it is, and the verdict. Pure."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

Source = Literal["sequence", "oracle"]


class HourOf(NamedTuple):
    """Of a device an hour, UTC."""

    device_id: str
    hour: datetime


@dataclass(frozen=True)
class Entry:
    """Readings: expected = rows + duplicates + quarantined + in flight + missing (by sequence without the duplicates)."""

    expected: int = 0
    rows: int = 0
    duplicates: int = 0
    quarantined: int = 0
    in_flight: int = 0
    missing: int = 0
    differing: int = 0

    def __add__(self, other: "Entry") -> "Entry":
        return Entry(*(a + b for a, b in zip(self.figures, other.figures, strict=True)))

    @property
    def figures(self) -> tuple[int, ...]:
        """In the order of the columns of ingest.balance."""
        return (
            self.expected, self.rows, self.duplicates, self.quarantined, self.in_flight, self.missing, self.differing,
        )  # fmt: skip

    @property
    def residual_ppm(self) -> float:
        """What is missing, in parts per million."""
        return 1_000_000 * self.missing / self.expected if self.expected else 0.0


@dataclass
class Sheet:
    """All that an audit found."""

    source: Source
    entries: dict[HourOf, Entry] = field(default_factory=dict)
    missing_readings: list[dict[str, Any]] = field(default_factory=list)
    """By the oracle only; sequence numbers tell how many, and of which device and hour."""
    differing_readings: list[dict[str, Any]] = field(default_factory=list)
    unexpected_rows: int = 0
    unexpected: list[dict[str, Any]] = field(default_factory=list)
    """The first of those rows."""
    unexpected_quarantined: list[dict[str, Any]] = field(default_factory=list)
    quarantine_reasons: dict[str, int] = field(default_factory=dict)
    in_doubt_arrived: int = 0
    in_doubt_absent: int = 0
    broken_in_doubt: int = 0
    refused_by_rule: int = 0
    """Acknowledged payloads that are no JSON and nowhere: the rule counts those (ParseError) and lets them go."""
    ledger_duplicates: int = 0
    unexplained_duplicates: int = 0
    not_judged: int = 0
    rule_errors: int = 0
    """Messages in the rule's error queue, whose content is not looked at."""
    rejected_objects: int = 0
    """Refused as a whole and waiting for an operator: readings that are missing may be in them."""
    cross_check: dict[str, float] | None = None
    """Figures of AWS's own metrics; None where there are none."""

    def add(self, key: HourOf, entry: Entry) -> None:
        """Adds to a device's hour."""
        self.entries[key] = self.entries.get(key, Entry()) + entry

    @property
    def total(self) -> Entry:
        """Of all devices and hours."""
        return sum(self.entries.values(), Entry())

    @property
    def accounted_for(self) -> bool:
        """Nothing is missing, nothing differs, and nothing is there that nobody sent."""
        total = self.total
        return not (total.missing or total.differing or self.unexpected_rows or self.unexpected_quarantined)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        total = self.total
        plain = asdict(self)
        del plain["entries"]
        return {
            **plain,
            "accounted_for": self.accounted_for,
            "total": {**asdict(total), "residual_ppm": total.residual_ppm},
            "hours": [
                {"device_id": key.device_id, "hour": key.hour, **asdict(entry), "residual_ppm": entry.residual_ppm}
                for key, entry in sorted(self.entries.items())
            ],
        }
