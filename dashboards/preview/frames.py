"""Rows of a query as Grafana's PostgreSQL data source makes them into fields.

Rules: https://grafana.com/docs/grafana/latest/datasources/postgres/query-editor/ (time series: a column `time`; texts in
other columns name the series).
"""

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from dashboards.preview.data import Cell, Column, Frame, Series, SeriesFrame, TableFrame
from dashboards.reading.macros import Fill

Rows = Sequence[Sequence[Any]]
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(at: datetime | date) -> int:
    """Since the epoch; a day, and a time without a zone, is UTC's."""
    if not isinstance(at, datetime):
        at = datetime(at.year, at.month, at.day)
    return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // _MILLISECOND


def table_frame(ref_id: str, names: Sequence[str], rows: Rows) -> TableFrame:
    """Columns as they are."""
    return TableFrame(ref_id, [_column(name, [row[n] for row in rows]) for n, name in enumerate(names)])


def series_frame(
    ref_id: str, names: Sequence[str], rows: Rows, *, fill: Fill | None = None, begin: int = 0, end: int = 0
) -> Frame:
    """A series per column of numbers, and, where texts name series, per text. Without a column of times: a table.

    `begin` and `end`, in milliseconds, say which buckets `fill` is to fill.
    """
    columns = [_column(name, [row[n] for row in rows]) for n, name in enumerate(names)]
    times = next((each for each in columns if each.name in ("time", "__time")), None)
    times = times or next((each for each in columns if each.type == "time"), None)
    if times is None:
        return TableFrame(ref_id, columns)
    labels = [each for each in columns if each.type == "string" and any(value is not None for value in each.values)]
    # A column of nothing but NULL is a series without values, and no label.
    numbers = [each for each in columns if each is not times and each not in labels]
    groups: dict[str, list[int]] = {}
    for row in range(len(rows)):
        if times.values[row] is not None:
            groups.setdefault(" ".join(str(label.values[row]) for label in labels), []).append(row)
    stamps: list[list[int]] = []
    series: list[Series] = []
    # Where all columns are empty, their names still stand in the legend.
    for label, members in (groups or {"": []}).items():
        at = [int(times.values[row] or 0) for row in members]
        for column in numbers:
            values = [_number(column.values[row]) for row in members]
            own, filled = _fill(at, values, fill, begin, end) if fill else (at, values)
            if own not in stamps:
                stamps.append(own)
            name = " ".join(filter(None, (column.name if not labels or len(numbers) > 1 else "", label)))
            series.append(Series(name, stamps.index(own), filled))
    return SeriesFrame(ref_id, stamps, series)


def _column(name: str, values: Sequence[Any]) -> Column:
    known = next((value for value in values if value is not None), None)
    if isinstance(known, bool):
        return Column(name, "boolean", list(values))
    if isinstance(known, int | float | Decimal):
        return Column(name, "number", [_rounded(value) for value in values])
    if isinstance(known, timedelta):
        return Column(name, "number", [None if value is None else value.total_seconds() for value in values])
    if isinstance(known, date):
        return Column(name, "time", [None if value is None else milliseconds(value) for value in values])
    return Column(name, "string", [_text(value) for value in values])


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)


def _rounded(value: Any) -> Cell:
    """Nine digits say more than a screen can show, and keep a page small."""
    if value is None or isinstance(value, int):
        return value
    number = float(value)
    return float(f"{number:.9g}") if math.isfinite(number) else None


def _number(value: Cell) -> float | int | None:
    return None if isinstance(value, str) else value


def _fill(
    times: list[int], values: list[float | int | None], fill: Fill, begin: int, end: int
) -> tuple[list[int], list[float | int | None]]:
    width = fill.interval // _MILLISECOND
    known = dict(zip(times, values, strict=True))
    every = sorted({*range(begin - begin % width, end + 1, width), *times})
    filled: list[float | int | None] = []
    for at in every:
        missing = {"null": None, "value": fill.value, "previous": filled[-1] if filled else None}[fill.mode]
        filled.append(known.get(at, missing))
    return every, filled
