"""The tables of docs/runbook.md, made from the catalogue; `make docs` writes them."""

from typing import Any

import msgspec

from infra.alarms.catalogue import catalogue
from infra.alarms.model import SEVERITIES, Alarm
from infra.settings import load

_WHERE: dict[str, dict[str, Any]] = {
    "own database, burstable": {"database_instance_type": "m7g.large"},
    "own database": {"database": "external"},
    "not local": {"alarms": "plain"},
    "with the probe": {"probe_iot": False},
    "devices always send": {"devices_always_send": False},
    "passwords rotate": {"rotate_passwords_days": None},
}
"""What takes an alarm away when a setting of dev is changed, and what that is called in the table."""
_EVERY_ALARM: dict[str, Any] = {"devices_always_send": True}
"""What dev lacks of an environment that has every alarm."""


def table() -> str:
    """The table, most severe first; thresholds are prod's, and dev's where it has an alarm that prod has not."""
    prod = {alarm.key: alarm for alarm in catalogue(load("prod"), database_instance_id="i")}
    alarms = [prod.get(alarm.key, alarm) for alarm in _of_dev()]
    lines = [
        "| severity | alarm | fires when | without data | kept quiet by | where |",
        "|---|---|---|---|---|---|",
        *(_line(alarm) for alarm in sorted(alarms, key=lambda alarm: alarm.severity)),
    ]
    return "\n".join(lines)


def _of_dev(**changes: Any) -> tuple[Alarm, ...]:
    settings = msgspec.structs.replace(load("dev"), **(_EVERY_ALARM | changes))
    return catalogue(settings, database_instance_id="i" if settings.database == "self_hosted" else None)


def _where(alarm: Alarm) -> str:
    found = [where for where, changes in _WHERE.items() if alarm.key not in {other.key for other in _of_dev(**changes)}]
    return found[0] if found else "everywhere"


def _quiet(alarm: Alarm) -> str:
    if alarm.quiet is None:
        return ""
    if alarm.quiet.group:
        return f"[{alarm.quiet.group}](#one-fault-pages-once)"
    return ", ".join(f"[{key}](#{key})" for key in alarm.quiet.by)


def groups() -> str:
    """The causes that keep several alarms quiet, each with the alarms that it consists of."""
    found = {alarm.quiet.group: alarm.quiet.by for alarm in _of_dev() if alarm.quiet and alarm.quiet.group}
    lines = [f"| {group} | {', '.join(f'[{key}](#{key})' for key in by)} |" for group, by in found.items()]
    return "\n".join(["| cause | any of |", "|---|---|", *lines])


def _line(alarm: Alarm) -> str:
    cells = (
        f"{alarm.severity}, {SEVERITIES[alarm.severity].response}",
        f"[{alarm.key}](#{alarm.key}): {alarm.title}",
        alarm.condition(),
        alarm.missing,
        _quiet(alarm),
        _where(alarm),
    )
    return f"| {' | '.join(cells)} |"
