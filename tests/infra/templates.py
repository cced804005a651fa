"""Synthesised templates, and what is asked of them: resources by type and properties, never by logical id."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from aws_cdk import App, Stack
from aws_cdk.assertions import Template

from infra.app import build
from infra.settings import ENVIRONMENTS, Settings, load

__all__ = ["ENVIRONMENTS", "Synthesised", "statements", "synthesised"]


@dataclass(frozen=True)
class Synthesised:
    """The stacks of one environment."""

    settings: Settings
    ingest: dict[str, Any]
    database: dict[str, Any]
    operations: dict[str, Any]

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The Ingest stack's resources of a type, by logical id."""
        return {name: body for name, body in self.ingest["Resources"].items() if body["Type"] == kind}

    def of_operations(self) -> "Synthesised":
        """The same questions put to the Operations stack."""
        return Synthesised(self.settings, self.operations, self.database, self.operations)

    def only(self, kind: str, **properties: Any) -> dict[str, Any]:
        """The properties of the one resource of a type that has these properties."""
        [found] = [
            body["Properties"]
            for body in self.of_type(kind).values()
            if all(body["Properties"].get(name) == value for name, value in properties.items())
        ]
        return dict(found)

    def logical_id(self, kind: str, **properties: Any) -> str:
        """The logical id of that one, to compare references with."""
        [found] = [
            name
            for name, body in self.of_type(kind).items()
            if all(body["Properties"].get(name_) == value for name_, value in properties.items())
        ]
        return found


@cache
def synthesised(environment: str, **overrides: str) -> Synthesised:
    """The templates of an environment, as `cdk synth` would write them with this checkout's context."""
    settings = load(environment, overrides)
    with open("cdk.json") as file:  # noqa: PTH123
        app = App(context=json.load(file)["context"])
    build(app, settings)
    stacks = {stack.stack_name: stack for stack in app.node.children if isinstance(stack, Stack)}
    ingest, database, operations = (
        dict(Template.from_stack(stacks[settings.names.stack(layer)]).to_json())
        for layer in ("ingest", "database", "operations")
    )
    return Synthesised(settings, ingest, database, operations)


def statements(template: Synthesised, role: str) -> dict[str, list[Any]]:
    """What the role with this logical id may do: action -> resources. Conditions are not looked at."""
    granted: dict[str, list[Any]] = {}
    for policy in template.of_type("AWS::IAM::Policy").values():
        if {"Ref": role} not in policy["Properties"]["Roles"]:
            continue
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            for action in actions:
                resources = statement["Resource"]
                granted.setdefault(action, []).extend(resources if isinstance(resources, list) else [resources])
    return granted
