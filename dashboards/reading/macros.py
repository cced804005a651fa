"""Grafana's template variables and PostgreSQL macros, expanded as Grafana itself does.

In its order: the browser puts in variables and `$__interval`, the data source's backend then macros such as
`$__timeFilter(column)`. What Grafana would hand to the database untouched, because it does not know the name, is an error.

Rules: https://grafana.com/docs/grafana/latest/datasources/postgres/ (macros; `timescaledb` is on in our data source),
https://grafana.com/docs/grafana/latest/dashboards/variables/variable-syntax/ (formats),
https://grafana.com/docs/grafana/latest/dashboards/variables/add-template-variables/#__interval (steps of the interval).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from ops.errors import UserError

_MILLISECOND = timedelta(milliseconds=1)
_VARIABLE = re.compile(r"\$(\w+)|\[\[(\w+?)(?::(\w+))?\]\]|\$\{([\w.]+)(?::([^}]+))?\}")
# Arguments end at the first closing parenthesis, and are separated at every comma.
_MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)(,?)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 2_592_000, "y": 31_536_000}
_STEPS: tuple[tuple[float, float], ...] = (
    # up to so many seconds: an interval of so many
    (0.01, 0.001), (0.015, 0.01), (0.035, 0.02), (0.075, 0.05), (0.15, 0.1), (0.35, 0.2), (0.75, 0.5), (1.5, 1), (3.5, 2),
    (7.5, 5), (12.5, 10), (17.5, 15), (25, 20), (45, 30), (90, 60), (210, 120), (450, 300), (750, 600), (1050, 900),
    (1500, 1200), (2700, 1800), (5400, 3600), (9000, 7200), (16_200, 10_800), (32_400, 21_600), (86_400, 43_200),
    (604_800, 86_400), (1_814_400, 604_800), (3_628_800, 2_592_000),
)  # fmt: skip


class MacroError(UserError):
    """A macro or variable that Grafana does not know, or would refuse."""


@dataclass(frozen=True)
class TimeRange:
    """From when to when a dashboard looks, both aware."""

    begin: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.begin.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"{self.begin} to {self.end}: times need a time zone")
        if self.begin >= self.end:
            raise MacroError(f"the range {rfc3339(self.begin)} to {rfc3339(self.end)} is empty: end it after it begins")

    @classmethod
    def last(cls, length: timedelta, now: datetime) -> "TimeRange":
        """What "Last 24 hours" means at `now`."""
        return cls(now - length, now)

    @property
    def length(self) -> timedelta:
        """From begin to end."""
        return self.end - self.begin


@dataclass(frozen=True)
class Value:
    """What is selected in a template variable: one text, several (also where All stands for all options), or `raw`."""

    values: tuple[str, ...]
    quoted: bool = False
    """Whether the variable allows several values, or All: then texts are quoted, else only quotes in them doubled."""
    raw: bool = False
    """The custom value of All: put in as it is, whatever the format."""


@dataclass(frozen=True)
class Fill:
    """How Grafana fills the buckets without a row, by the third argument of `$__timeGroup`."""

    interval: timedelta
    mode: Literal["null", "previous", "value"]
    value: float = 0.0


@dataclass(frozen=True)
class Expanded:
    """SQL that a database can run."""

    sql: str
    fill: Fill | None = None


def parse_interval(text: str) -> timedelta:
    """`30s`, `5m`, `1d` or `1h30m` as a time. Raises MacroError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdwMy])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise MacroError(f"{text!r} is no interval; write it as 30s, 5m, 1h or 1d")
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))


def format_interval(interval: timedelta) -> str:
    """In the largest unit that is not more than it, cut to a whole number, as in the text of `$__interval`."""
    seconds = interval.total_seconds()
    for unit in ("y", "d", "h", "m", "s"):
        if seconds >= _UNITS[unit]:
            return f"{int(seconds / _UNITS[unit])}{unit}"
    return f"{max(1, interval // _MILLISECOND)}ms"


def choose_interval(time_range: TimeRange, max_data_points: int, minimum: timedelta = _MILLISECOND) -> timedelta:
    """`$__interval`: so wide that a panel has about `max_data_points`, in Grafana's steps, and not under `minimum`."""
    wanted = time_range.length.total_seconds() / max_data_points
    seconds = next((step for limit, step in _STEPS if wanted < limit), _UNITS["y"])
    return max(timedelta(seconds=seconds), minimum)


def rfc3339(at: datetime) -> str:
    """A time as Grafana's backend writes it: UTC, no digits after the point that are zero."""
    text = at.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "Z"


def expand(sql: str, time_range: TimeRange, interval: timedelta, variables: Mapping[str, Value]) -> Expanded:
    """The SQL of a panel, an annotation or a variable with all its variables and macros put in. Raises MacroError."""
    with_variables = put_in_variables(sql, time_range, interval, variables)
    with_variables = with_variables.replace("$__unixEpochFrom()", str(_seconds(time_range.begin)))
    with_variables = with_variables.replace("$__unixEpochTo()", str(_seconds(time_range.end)))
    fills: list[Fill] = []

    def macro(match: re.Match[str]) -> str:
        name, comma = match[1], match[3]
        # What is older than Grafana 5.3 wrote no alias; a comma right behind it is how Grafana tells.
        if name == "__timeGroup" and comma:
            name = "__timeGroupAlias"
        if name not in _MACROS:
            raise MacroError(f"${name}() is no macro of Grafana's PostgreSQL data source")
        arguments = [argument.strip(" ") for argument in match[2].split(",")]
        wanted = 0 if name in _WITHOUT_COLUMN else 2 if "Group" in name else 1
        if wanted and (len(arguments) < wanted or not all(arguments[:wanted])):
            raise MacroError(f"${name}({match[2]}) lacks its {'column and interval' if wanted == 2 else 'column'}")
        if wanted == 2 and len(arguments) == 3:
            fills.append(_fill(arguments[1], arguments[2]))
        return _MACROS[name](arguments, time_range) + comma

    return Expanded(_MACRO.sub(macro, with_variables), fills[-1] if fills else None)


def put_in_variables(sql: str, time_range: TimeRange, interval: timedelta, variables: Mapping[str, Value]) -> str:
    """What the browser does: template variables, `$__interval` and `$__from`; macros stay. Raises MacroError."""
    known = {
        "__interval": Value((format_interval(interval),)),
        "__interval_ms": Value((str(interval // _MILLISECOND),)),
        "__from": Value((str(_milliseconds(time_range.begin)),)),
        "__to": Value((str(_milliseconds(time_range.end)),)),
        **variables,
    }

    def variable(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[4]
        form = match[3] or match[5]
        if match[1] and match[1] not in known and sql[match.end() : match.end() + 1] == "(":
            return match[0]  # a macro, which is the backend's
        if name not in known:
            raise MacroError(f"{match[0]} is no variable of this dashboard, nor one of Grafana's that its SQL may use")
        if form and form.startswith("date") and name in ("__from", "__to"):
            return _date(form, time_range.begin if name == "__from" else time_range.end)
        return _formatted(known[name], form, match[0])

    return _VARIABLE.sub(variable, sql)


def _formatted(value: Value, form: str | None, written: str) -> str:
    if value.raw:
        return value.values[0]
    if form is None:
        # The data source's own: quoteLiteral of each, or, where one value only can be chosen, its quotes doubled.
        return ",".join(f"'{_doubled(text)}'" if value.quoted else _doubled(text) for text in value.values)
    if form not in _FORMATS:
        raise MacroError(f"{written}: the format {form!r} is none of {', '.join(_FORMATS)}")
    return ",".join(map(_FORMATS[form], value.values))


def _doubled(text: str) -> str:
    return text.replace("'", "''")


# Single and double quotes are escaped with a backslash, which PostgreSQL does not understand: so Grafana does it.
_FORMATS: Mapping[str, Callable[[str], str]] = {
    "sqlstring": lambda text: "'" + _doubled(text).replace('"', '\\"') + "'",
    "singlequote": lambda text: "'" + text.replace("'", "\\'") + "'",
    "doublequote": lambda text: '"' + text.replace('"', '\\"') + '"',
    "raw": str,
    "csv": str,
}


def _date(form: str, at: datetime) -> str:
    if form in ("date", "date:iso"):
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if form == "date:seconds":
        return str(round(at.timestamp()))
    if form == "date:ms":
        return str(_milliseconds(at))
    raise MacroError(f"the format {form!r} depends on the browser's time zone; use date:iso, date:seconds or date:ms")


def _fill(interval: str, wanted: str) -> Fill:
    width = parse_interval(interval.strip("'"))
    if wanted == "NULL":
        return Fill(width, "null")
    if wanted == "previous":
        return Fill(width, "previous")
    try:
        return Fill(width, "value", float(wanted))
    except ValueError:
        raise MacroError(f"$__timeGroup cannot fill with {wanted!r}; use NULL, previous or a number") from None


def _seconds(at: datetime) -> int:
    return int(at.timestamp() // 1)


def _milliseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND


def _nanoseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def _bucket(arguments: list[str]) -> str:
    return f"time_bucket('{parse_interval(arguments[1].strip(chr(39))).total_seconds():.3f}s',{arguments[0]})"


def _epoch_group(arguments: list[str]) -> str:
    width = f"{parse_interval(arguments[1].strip(chr(39))).total_seconds():g}"
    return f"floor(({arguments[0]})/{width})*{width}"


_WITHOUT_COLUMN = frozenset({"__timeFrom", "__timeTo", "__unixEpochNanoFrom", "__unixEpochNanoTo"})
_MACROS: Mapping[str, Callable[[list[str], TimeRange], str]] = {
    "__time": lambda a, _: f'{a[0]} AS "time"',
    "__timeEpoch": lambda a, _: f'extract(epoch from {a[0]}) as "time"',
    "__timeFilter": lambda a, r: f"{a[0]} BETWEEN '{rfc3339(r.begin)}' AND '{rfc3339(r.end)}'",
    "__timeFrom": lambda _, r: f"'{rfc3339(r.begin)}'",
    "__timeTo": lambda _, r: f"'{rfc3339(r.end)}'",
    "__timeGroup": lambda a, _: _bucket(a),
    "__timeGroupAlias": lambda a, _: f'{_bucket(a)} AS "time"',
    "__unixEpochFilter": lambda a, r: f"{a[0]} >= {_seconds(r.begin)} AND {a[0]} <= {_seconds(r.end)}",
    "__unixEpochNanoFilter": lambda a, r: f"{a[0]} >= {_nanoseconds(r.begin)} AND {a[0]} <= {_nanoseconds(r.end)}",
    "__unixEpochNanoFrom": lambda _, r: str(_nanoseconds(r.begin)),
    "__unixEpochNanoTo": lambda _, r: str(_nanoseconds(r.end)),
    "__unixEpochGroup": lambda a, _: _epoch_group(a),
    "__unixEpochGroupAlias": lambda a, _: f'{_epoch_group(a)} AS "time"',
}
