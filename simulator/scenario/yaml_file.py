"""YAML with the line of each value and a name for where it stands, so that a fault can be pointed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ops.errors import UserError


@dataclass(frozen=True)
class Node:
    """A value of the file, and what is within it."""

    file: Path
    line: int
    name: str
    """As `devices.count` or `groups.freezers.behaviours[2].kind`; items are numbered from 1."""
    value: object
    """As plain Python."""
    members: Mapping[str, "Node"] | None = field(default=None)
    """Of a mapping, also of an empty one or of nothing at all."""
    items: Sequence["Node"] | None = field(default=None)
    """Of a list."""

    @property
    def where(self) -> str:
        """File, line and name, as a fault begins."""
        return f"{self.file}:{self.line}: {self.name}"

    def mapping(self) -> Mapping[str, "Node"]:
        """Its members. Raises `UserError` where it is no mapping."""
        if self.members is None:
            raise UserError(f"{self.file}:{self.line}: {self.name or 'the file'} must hold `key: value` lines")
        return self.members

    def sequence(self) -> Sequence["Node"]:
        """Its items. Raises `UserError` where it is no list."""
        if self.items is None and self.value is not None:
            raise UserError(f"{self.where} must be a list: lines that begin with `- `")
        return self.items or ()


def read_tree(path: Path) -> Node:
    """Read the file.

    Raises `UserError` naming file and line when it cannot be read, is not YAML, or has a key twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path}: cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    try:
        document = loader.get_single_node()
        if document is None:
            return Node(path, 1, "", None, {})
        return _Reader(path, loader).node(document, "", document.start_mark.line + 1)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a key that is a date that there is not
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply, or within itself") from None
    finally:
        loader.dispose()


@dataclass(frozen=True)
class _Reader:
    file: Path
    loader: yaml.SafeLoader

    def node(self, node: yaml.Node, name: str, line: int) -> Node:
        if isinstance(node, yaml.MappingNode):
            members = self._members(node, name)
            return Node(self.file, line, name, {key: each.value for key, each in members.items()}, members)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.node(each, f"{name}[{number}]", each.start_mark.line + 1)
                for number, each in enumerate(node.value, 1)
            ]
            return Node(self.file, line, name, [each.value for each in items], items=items)
        try:
            value: object = self.loader.construct_object(node)
        except ValueError as error:  # a date that there is not
            raise UserError(f"{self.file}:{line}: {name} is {node.value}: {error}") from error
        return Node(self.file, line, name, value, {} if value is None else None)

    def _members(self, node: yaml.MappingNode, name: str) -> dict[str, Node]:
        members: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = str(self.loader.construct_object(key_node, deep=True))
            full_name = f"{name}.{key}" if name else key
            line = key_node.start_mark.line + 1
            if key in members:
                raise UserError(f"{self.file}:{line}: {full_name} stands twice; keep one of them")
            members[key] = self.node(value_node, full_name, line)
        return members
