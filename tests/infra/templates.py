"""Synthesised templates, and what is asked of them: resources by type and properties, never by logical id."""

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from aws_cdk import App, Stack
from aws_cdk.assertions import Template

from infra.app import build
from infra.settings import ENVIRONMENTS, Settings, load

__all__ = ["ATTACHING", "ENVIRONMENTS", "Synthesised", "application", "statements", "synthesised"]


@dataclass(frozen=True)
class Synthesised:
    """The stacks of one environment, and one of them in view: the Ingest stack, unless `of` has chosen another."""

    settings: Settings
    stacks: dict[str, dict[str, Any]]
    """Templates by layer: key, network, database, ingest, operations, monitoring ... as far as the environment has them."""
    layer: str = "ingest"

    @property
    def template(self) -> dict[str, Any]:
        """The template in view."""
        return self.stacks[self.layer]

    def of(self, layer: str) -> "Synthesised":
        """The same questions put to another stack."""
        return replace(self, layer=layer)

    def of_type(self, kind: str) -> dict[str, dict[str, Any]]:
        """The resources of a type in the stack in view, by logical id."""
        return {name: body for name, body in self.template["Resources"].items() if body["Type"] == kind}

    def everywhere(self, kind: str) -> dict[str, dict[str, Any]]:
        """The resources of a type in all stacks, by `layer/logical id`."""
        return {
            f"{layer}/{name}": body
            for layer, template in self.stacks.items()
            for name, body in template["Resources"].items()
            if body["Type"] == kind
        }

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


def application(settings: Settings) -> App:
    """The app of an environment, with this checkout's context."""
    with open("cdk.json") as file:  # noqa: PTH123
        app = App(context=json.load(file)["context"])
    build(app, settings)
    return app


@cache
def synthesised(environment: str, **overrides: str) -> Synthesised:
    """The templates of an environment, as `cdk synth` would write them with this checkout's context."""
    settings = load(environment, overrides)
    app = application(settings)
    stacks = {
        settings.names.layer(stack.stack_name): dict(Template.from_stack(stack).to_json())
        for stack in app.node.children
        if isinstance(stack, Stack)
    }
    return Synthesised(settings, stacks)


ATTACHING = {
    "ec2:CreateNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:DeleteNetworkInterface",
    "ec2:AssignPrivateIpAddresses",
    "ec2:UnassignPrivateIpAddresses",
}
"""What Lambda does with a function's role to stand it in a VPC; the function's own code is denied it."""


def statements(template: Synthesised, role: str) -> dict[str, list[Any]]:
    """What the role with this logical id may do: action -> resources. Conditions and denials are not looked
    at, and what attaches a function to its VPC is left out."""
    granted: dict[str, list[Any]] = {}
    for policy in template.of_type("AWS::IAM::Policy").values():
        if {"Ref": role} not in policy["Properties"]["Roles"]:
            continue
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if statement["Effect"] == "Deny" or set(actions) == ATTACHING:
                continue
            for action in actions:
                resources = statement["Resource"]
                granted.setdefault(action, []).extend(resources if isinstance(resources, list) else [resources])
    return granted
