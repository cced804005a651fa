"""CSV and JSON files of devices or sites: read and checked as a whole before anything is done with them."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.devices.fields import Kind
from ops.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One row of a file. Columns that it does not name stay as they are in the registry."""

    where: str
    """File and line."""
    values: dict[str, Any]


@dataclass(frozen=True)
class Contents:
    """What a file holds, and what is wrong with it, a line of text per fault."""

    entries: list[Entry]
    faults: list[str]


def read_file(path: Path, kind: Kind) -> Contents:
    """The rows of a .csv or .json file. Raises UserError when it cannot be read at all, or holds none."""
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".json"}:
        raise UserError(f"{path}: its name must end in .csv or .json, by which its form is known")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start + 1:,}): save it as UTF-8; nothing was imported"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    columns = ", ".join(kind.fields)
    if not text.strip():
        raise UserError(f"{path} is empty: the columns of {kind.table} are {columns}")
    rows = _csv_rows(path, text, kind) if suffix == ".csv" else _json_rows(path, text)
    contents = _checked(rows, kind)
    if not contents.entries and not contents.faults:
        raise UserError(f"{path} has no {kind.table}: nothing to import")
    return contents


_Rows = Iterator[tuple[str, list[tuple[str, object]]]]


def _csv_rows(path: Path, text: str, kind: Kind) -> _Rows:
    """Where each row is, and its columns and cells. Raises UserError where the form breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader)]
        _check_header(path, header, kind)
        line = reader.line_num + 1
        for cells in reader:
            if cells:  # a blank line has none
                where = f"{path} line {line}"
                if len(cells) != len(header):
                    raise UserError(
                        f"{where}: {len(cells)} cells, and the first line names {len(header)} columns: a text with a comma "
                        "in it needs double quotes around it; nothing was imported"
                    )
                yield where, list(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} line {line}: {error}: nothing was imported") from None


def _check_header(path: Path, header: list[str], kind: Kind) -> None:
    where = f"{path} line 1"
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise UserError(f"{where}: the columns must be separated by commas")
    for number, name in enumerate(header, start=1):
        if name not in kind.fields:
            raise UserError(
                f"{where}, column {number} ({name or 'without a name'}): {kind.unknown(name)}; nothing was imported"
            )
        if header.index(name) != number - 1:
            raise UserError(f"{where}, column {number}: {name} is there twice")
    if kind.key not in header:
        raise UserError(f"{where}: there is no column {kind.key}: the first line must name the columns")


def _json_rows(path: Path, text: str) -> _Rows:
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)
    at, line, counted = _skip_space(text, 0), 1, 0
    if text[at] != "[":
        raise UserError(f"{path}: it must be an array of objects, [{{...}}, {{...}}]")
    at = _skip_space(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        where = f"{path} line {line}"
        try:
            found, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {error.lineno} column {error.colno}: {error.msg}: no JSON") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: {error}: no JSON that could be imported") from None
        if not isinstance(found, _Pairs):
            raise UserError(f"{where}: each element must be an object {{...}}")
        yield where, [(name, value.plain() if isinstance(value, _Pairs) else _plain(value)) for name, value in found]
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
            if text[at : at + 1] != "]":
                continue
        if text[at : at + 1] != "]" or text[at - 1] == ",":
            line = 1 + text.count("\n", 0, at)
            raise UserError(
                f"{path} line {line} column {at - text.rfind(chr(10), 0, at)}: expected ',' or ']': no JSON"
            )
    if text[at + 1 :].strip():
        raise UserError(f"{path} line {1 + text.count(chr(10), 0, at + 1)}: there is more after the array")


class _Pairs(list[tuple[str, Any]]):
    """An object of the file, with members that are there twice still there twice."""

    def plain(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in self}


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return value.plain()
    return [_plain(element) for element in value] if isinstance(value, list) else value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number in JSON")


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in " \t\r\n":
        at += 1
    return at


def _checked(rows: _Rows, kind: Kind) -> Contents:
    """The typed rows. What is wrong with one does not hide what is wrong with the next."""
    entries: list[Entry] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    for where, cells in rows:
        values: dict[str, Any] = {}
        for column, cell in cells:
            place = f"{where}, column {column}"
            if column in values:
                faults.append(f"{place}: it is there twice")
            elif column not in kind.fields:
                faults.append(f"{place}: {kind.unknown(column)}")
            else:
                try:
                    values[column] = kind.read(column, cell)
                except ValueError as error:
                    values[column] = None
                    faults.append(f"{place} is {_shown(cell)}: {error}")
        key = values.get(kind.key)
        if kind.key not in values:
            faults.append(f"{where}: there is no {kind.key}")
        elif key in seen:
            faults.append(f"{where}, column {kind.key}: {key} is on {seen[key]} already")
        elif key is not None:
            seen[key] = where.rpartition(" line ")[1].strip() + " " + where.rpartition(" line ")[2]
            entries.append(Entry(where, values))
    return Contents(entries, faults)


def _shown(cell: object) -> str:
    text = json.dumps(cell, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:60] + "..."
