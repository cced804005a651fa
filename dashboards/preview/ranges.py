"""Which ranges of time are worth showing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from dashboards.reading.macros import MacroError, parse_interval
from ops.errors import UserError

_SHORT = timedelta(minutes=30)
_UNITS = (("d", timedelta(days=1), "day"), ("h", timedelta(hours=1), "hour"), ("m", timedelta(minutes=1), "minute"))


@dataclass(frozen=True)
class Range:
    """The last so much time, as Grafana writes it: `5m`, `24h`, `30d`."""

    id: str

    @property
    def length(self) -> timedelta:
        """As a time."""
        return parse_interval(self.id)

    @property
    def is_short(self) -> bool:
        """Whether only a fleet that has just begun to send is worth it."""
        return self.length < _SHORT

    @property
    def title(self) -> str:
        """In words: `24 hours`."""
        # 24 hours are hours, and 30 days days, as they were written.
        unit, width, word = next((each for each in _UNITS if self.id.endswith(each[0])), _UNITS[-1])
        number = self.length / width
        return f"{number:g} {word}{'' if number == 1 else 's'}" if unit in self.id else self.id


SHORT = (Range("5m"), Range("15m"))
LONG = (Range("1h"), Range("24h"), Range("30d"))


def given(texts: Sequence[str]) -> list[Range]:
    """Ranges as a user writes them, the shortest first. Raises UserError."""
    found = []
    for text in dict.fromkeys(texts):
        chosen = Range(text)
        try:
            length = chosen.length
        except MacroError as error:
            raise UserError(f"--range {error}") from None
        if not timedelta(minutes=1) <= length <= timedelta(days=3660):
            raise UserError(f"--range {text}: give a range from 1m to 3660d, such as 1h, 24h or 30d")
        found.append(chosen)
    return sorted(found, key=lambda each: each.length)


def worth_showing(connection: psycopg.Connection, now: datetime) -> list[Range]:
    """1 hour, 24 hours and 30 days; before them a shorter one for a fleet that has not sent for longer than that."""
    first, _ = _heard(connection)
    young = [each for each in SHORT if first is not None and now - first < each.length]
    return [*young[:1], *LONG]


def fitting(connection: psycopg.Connection, ranges: Sequence[Range], now: datetime) -> Range:
    """The range to show first: all of a young fleet's readings, else the shortest in which there are any."""
    _, last = _heard(connection)
    reaching = [each for each in ranges if last is None or now - last < each.length]
    return reaching[0] if reaching else ranges[-1]


def _heard(connection: psycopg.Connection) -> tuple[datetime | None, datetime | None]:
    row = connection.execute("SELECT min(first_seen), max(timestamp) FROM device_latest").fetchone()
    return row if row else (None, None)
