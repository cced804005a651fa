"""What an environment's templates deploy: resources by type, and which resource a reference means."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Template = Mapping[str, Any]


@dataclass(frozen=True)
class Resource:
    """One resource of a template."""

    stack: str
    logical_id: str
    kind: str
    properties: Mapping[str, Any]

    def at(self, *path: str) -> Any:
        """The property at this path; None when it, or anything on the way, is absent."""
        value: Any = self.properties
        for name in path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(name)
        return value


class Deployed:
    """The templates of one environment, by stack name."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = templates
        self._resources = {
            (stack, name): Resource(stack, name, body["Type"], body.get("Properties", {}))
            for stack, template in templates.items()
            for name, body in template.get("Resources", {}).items()
        }

    def of_type(self, *kinds: str) -> list[Resource]:
        """The resources of these types in all stacks."""
        return [resource for resource in self._resources.values() if resource.kind in kinds]

    @property
    def kinds(self) -> list[str]:
        """Every type there is, sorted."""
        return sorted({resource.kind for resource in self._resources.values()})

    def target(self, value: Any, stack: str) -> Resource | None:
        """The resource that a value of `stack` refers to, directly or within a join, also across stacks."""
        return next(self.targets(value, stack), None)

    def targets(self, value: Any, stack: str) -> Iterator[Resource]:
        """Every resource that a value refers to."""
        if isinstance(value, list):
            for part in value:
                yield from self.targets(part, stack)
        elif isinstance(value, Mapping):
            for name, argument in value.items():
                if name == "Fn::ImportValue":
                    yield from self._exported(argument)
                elif name in {"Ref", "Fn::GetAtt"}:
                    logical_id = argument.partition(".")[0] if isinstance(argument, str) else argument[0]
                    if (stack, logical_id) in self._resources:
                        yield self._resources[stack, logical_id]
                else:
                    yield from self.targets(argument, stack)

    def _exported(self, export: Any) -> Iterator[Resource]:
        for stack, template in self._templates.items():
            for output in template.get("Outputs", {}).values():
                if output.get("Export", {}).get("Name") == export:
                    yield from self.targets(output["Value"], stack)
