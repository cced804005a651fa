"""YAML of the form `section: {key: value}` with the line of each value, so that a fault can be pointed at."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ops.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One `section.key` of the file."""

    value: object
    line: int


def read_sections(path: Path) -> dict[str, Entry]:
    """Read the file into entries by `section.key`; a section with nothing in it is an entry of its own, by `section`.

    Raises `UserError` naming file and line when it cannot be read, is not YAML, has another form, or has a key twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path}: cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    try:
        return _entries(path, loader, loader.get_single_node())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _entries(path: Path, loader: yaml.SafeLoader, document: yaml.Node | None) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for section, section_node in _members(path, loader, document, "").items():
        members = _members(path, loader, section_node, section)
        for key, node in members.items():
            entries[f"{section}.{key}"] = Entry(_construct(loader, node), node.start_mark.line + 1)
        if not members:
            entries[section] = Entry(None, section_node.start_mark.line + 1)
    return entries


def _members(path: Path, loader: yaml.SafeLoader, node: yaml.Node | None, name: str) -> dict[str, yaml.Node]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value == ""):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:{node.start_mark.line + 1}: {name or 'the file'} must hold `key: value` lines")
    members: dict[str, yaml.Node] = {}
    for key_node, value_node in node.value:
        key = str(_construct(loader, key_node))
        if key in members:
            full_key = f"{name}.{key}" if name else key
            raise UserError(f"{path}:{key_node.start_mark.line + 1}: {full_key} stands twice; keep one of them")
        members[key] = value_node
    return members


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    return loader.construct_object(node, deep=True)
