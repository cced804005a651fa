"""What is to be exported, from what was asked for. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Literal

from lambdas.shared.contract import METRICS
from ops.errors import UserError
from ops.export.tables import TABLES, Table
from ops.times import parse_time

Format = Literal["csv", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "parquet")


@dataclass(frozen=True)
class Order:
    """Rows of a table from `start`, which is included (None: from the first), to `end`, which is not."""

    table: Table
    start: datetime | None
    end: datetime
    devices: tuple[str, ...] = ()
    """Only these; empty: all, or those of `site`."""
    site: str | None = None
    metrics: tuple[str, ...] = ()
    """Only these; empty: all."""

    def facts(self) -> dict[str, str]:
        """The order in words, for the metadata of a file."""
        return {
            "table": self.table.name,
            "from": self.start.isoformat() if self.start else "",
            "to": self.end.isoformat(),
            "devices": ",".join(self.devices),
            "site": self.site or "",
            "metrics": ",".join(self.metrics),
        }


def parse_order(
    *,
    table: str,
    start: str | None,
    end: str,
    devices: Sequence[str] = (),
    site: str | None = None,
    metrics: Sequence[str] = (),
    now: datetime,
) -> Order:
    """The order that these options are. Raises UserError when one makes no sense."""
    if table not in TABLES:
        raise UserError(f"--table {table}: there is no such table: use {', '.join(TABLES)}")
    chosen = TABLES[table]
    known = [metric.name for metric in METRICS]
    for metric in metrics:
        if metric not in known:
            raise UserError(f"--metric {metric}: there is no such metric: use {', '.join(known)}")
    if metrics and chosen.metrics == "none":
        raise UserError(f"--metric does not go with --table {table}, which speaks of the device as a whole")
    if start is None and not chosen.whole_by_default:
        raise UserError(f"--table {table} needs --from: ISO 8601 (2026-11-21T10:00Z), or relative (-2h, -3d)")
    first = parse_time(start, "--from", now) if start is not None else None
    last = parse_time(end, "--to", now)
    if first is not None and first >= last:
        raise UserError(f"--from {start} is not before --to {end} ({_utc(first)}, {_utc(last)})")
    return Order(chosen, first, last, tuple(dict.fromkeys(devices)), site, tuple(dict.fromkeys(metrics)))


def parse_format(given: str | None, output: str) -> Format:
    """`given`, else what the name of the output ends in, else CSV. Raises UserError when there is no such format."""
    if given is None:
        return "parquet" if PurePath(output).suffix == ".parquet" else "csv"
    for known in FORMATS:
        if given == known:
            return known
    raise UserError(f"--format {given}: there is no such format: use {' or '.join(FORMATS)}")


def _utc(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
