"""What a device or a site may be said to be: the columns that can be written, and the check of each. Pure."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

Check = Callable[[object], object]
"""Takes a value as a file or the command line has it; returns it typed, or raises ValueError with what is right."""

_MAX_TEXT = 800
"""Of an attribute's value: https://docs.aws.amazon.com/iot/latest/apireference/API_AttributePayload.html"""
_MAX_INTERVAL_SECONDS = 31 * 86_400
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Field:
    """A column. One that is not `optional` may be left out, but not be empty."""

    check: Check
    optional: bool = True

    def read(self, value: object) -> object:
        """The typed value; None where it is empty. Raises ValueError with what is right."""
        if value is None or (isinstance(value, str) and not value.strip()):
            if not self.optional:
                raise ValueError("it may not be empty")
            return None
        return self.check(value.strip() if isinstance(value, str) else value)


@dataclass(frozen=True)
class Kind:
    """A table of the registry."""

    table: str
    key: str
    fields: Mapping[str, Field]
    defaults: Mapping[str, object]
    """Of a new row, beside NULL; its name is its key."""

    def read(self, column: str, value: object) -> object:
        """The typed value of a column. Raises ValueError with what is right."""
        return self.fields[column].read(value)

    def unknown(self, column: str) -> str:
        """What is said of a column that there is not."""
        if close := get_close_matches(column, self.fields, n=1, cutoff=0.6):
            return f"there is no such column: did you mean {close[0]}?"
        return f"there is no such column: use {', '.join(self.fields)}"

    def new(self, key: str) -> dict[str, Any]:
        """A row of which nothing is known."""
        return dict.fromkeys(self.fields) | {self.key: key, "name": key} | dict(self.defaults)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("it must be text")  # noqa: TRY004 - a value that came from outside
    if not value.isprintable():
        raise ValueError("it holds a control character")
    if len(value) > _MAX_TEXT:
        raise ValueError(f"it has {len(value)} characters, and may have {_MAX_TEXT}")
    return value


def _thing_name(value: object) -> str:
    # https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
    if not isinstance(value, str) or not re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", value):
        raise ValueError("it must be the name of a thing: 1 to 128 letters, digits, ':', '_' and '-'")
    return value


def _degrees(limit: float) -> Check:
    def check(value: object) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type] # else it is refused
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= limit:
            raise ValueError(f"it must be a number from -{limit:g} to {limit:g} (decimal degrees, WGS 84)")
        return number

    return check


def _seconds(value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type] # else it is refused
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0.001 <= number <= _MAX_INTERVAL_SECONDS:
        raise ValueError(f"it must be a number of seconds from 0.001 to {_MAX_INTERVAL_SECONDS:,}")
    # What a `real` keeps, so that the same value again is no change.
    return float(f"{number:.6g}")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise ValueError("it must be true or false")


def _attributes(value: object) -> dict[str, Any]:
    try:
        found = json.loads(value, parse_constant=_no_constant) if isinstance(value, str) else value
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        found, text = None, ""
    if not isinstance(found, dict):
        raise ValueError('it must be a JSON object such as {"shelf": 3}')  # noqa: TRY004 - a value that came from outside
    if "\\u0000" in text:
        raise ValueError("it holds a NUL character, which PostgreSQL does not store")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(name)


_TEXT = Field(_text)
_LATITUDE, _LONGITUDE = Field(_degrees(90)), Field(_degrees(180))

SITES = Kind(
    "sites",
    "site_id",
    {
        "site_id": Field(_text, optional=False),
        "name": Field(_text, optional=False),
        "customer": _TEXT,
        "project": _TEXT,
        "location": _TEXT,
        "latitude": _LATITUDE,
        "longitude": _LONGITUDE,
    },
    {},
)
DEVICES = Kind(
    "devices",
    "device_id",
    {
        "device_id": Field(_thing_name, optional=False),
        "name": Field(_text, optional=False),
        "site_id": _TEXT,
        "customer": _TEXT,
        "project": _TEXT,
        "device_type": _TEXT,
        "location": _TEXT,
        "latitude": _LATITUDE,
        "longitude": _LONGITUDE,
        "firmware": _TEXT,
        "reading_interval_seconds": Field(_seconds),
        "active": Field(_flag, optional=False),
        "attributes": Field(_attributes, optional=False),
    },
    {"active": True, "attributes": {}},
)
