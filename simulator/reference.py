"""The reference tables of docs/simulator.md, from the very keys that files are checked with; `make docs` writes them."""

from collections.abc import Iterable, Sequence

from simulator.scenario.config import SimulatorConfig
from simulator.scenario.keys import COMMON_KEYS, DAILY_KEYS, FOLLOWS_KEYS, GROUP_KEYS, KINDS, PROFILE_KEYS, Key
from simulator.scenario.ready_made import ready_made
from simulator.scenario.settings import SETTINGS, Setting

_DEFAULT = SimulatorConfig()


def regions() -> dict[str, str]:
    """The tables by the name of their region."""
    return {
        "scenarios": _table(
            ("scenario", "devices", "what it shows"),
            ((f"`{each.name}`", str(each.devices), each.shows) for each in ready_made()),
        ),
        "settings": _table(("key", "option", "default", "meaning"), map(_setting, SETTINGS)),
        "profile keys": _keys(PROFILE_KEYS),
        "daily keys": _keys(DAILY_KEYS),
        "follows keys": _keys(FOLLOWS_KEYS),
        "group keys": _keys(GROUP_KEYS),
        "behaviour keys": _keys(COMMON_KEYS),
        "behaviours": _table(
            ("kind", "what happens", "its own keys"),
            ((f"`{name}`", kind.what, "; ".join(map(_own, kind.own)) or "-") for name, kind in KINDS.items()),
        ),
    }


def _setting(setting: Setting) -> tuple[str, str, str, str]:
    option = f"`{setting.option}`" if setting.option else "-"
    value = getattr(_DEFAULT, setting.field) if setting.field else 1
    return f"`{setting.key}`", option, _shown(value), setting.what


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return f"`[{', '.join(f'{each:g}' for each in value)}]`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


def _keys(keys: Sequence[Key]) -> str:
    return _table(
        ("key", "meaning"), ((f"`{key.name}`", key.what + (" (required)" if key.required else "")) for key in keys)
    )


def _own(key: Key) -> str:
    return f"`{key.name}`: {key.what}" + (" (required)" if key.required else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
