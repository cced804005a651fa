"""Who may do what: the statements of every policy in an environment's templates, as one table."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ops.documents.references import References

Templates = Mapping[str, Mapping[str, Any]]

_UNIQUE = re.compile(r"(CustomResourceProvider)*(Role)?[0-9A-F]{8}$")
"""What CDK appends to a construct's name."""


@dataclass(frozen=True)
class Permission:
    """One statement: who may (or must not) do what to which resources, and when."""

    who: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    condition: str


def permissions(templates: Templates) -> list[Permission]:
    """Every statement of identity and resource policies, by layer in the order of the templates."""
    references = References(templates)
    found: list[Permission] = []
    for layer, template in templates.items():
        resources: Mapping[str, Any] = template["Resources"]
        for name, body in resources.items():
            for who, document in _policies(name, body, resources, references, layer):
                found += [_permission(who, statement, references, layer) for statement in _list(document["Statement"])]
    return found


def _policies(
    name: str, body: Mapping[str, Any], resources: Mapping[str, Any], references: References, layer: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The policy documents of a resource, and whom each is about; "" when its statements say so themselves."""
    properties = body.get("Properties", {})
    match body["Type"]:
        case "AWS::IAM::Policy":
            for role in properties.get("Roles", []):
                yield _role(role["Ref"], resources, references, layer), properties["PolicyDocument"]
        case "AWS::IAM::Role":
            for policy in properties.get("Policies", []):
                yield _role(name, resources, references, layer), policy["PolicyDocument"]
        case "AWS::IoT::Policy":
            yield "a device, by its certificate", properties["PolicyDocument"]
        case "AWS::S3::BucketPolicy" | "AWS::SQS::QueuePolicy" | "AWS::SNS::TopicPolicy":
            yield "", properties["PolicyDocument"]
        case "AWS::KMS::Key":
            yield "", properties["KeyPolicy"]


def _role(logical_id: str, resources: Mapping[str, Any], references: References, layer: str) -> str:
    """A role by what it is for: the function that has it, else its description."""
    for body in resources.values():
        if body["Type"] == "AWS::Lambda::Function" and body["Properties"]["Role"] == {
            "Fn::GetAtt": [logical_id, "Arn"]
        }:
            name = body["Properties"].get("FunctionName")
            return (
                f"function {references.text(name, layer)}"
                if name
                else f"CDK's own function {_UNIQUE.sub('', logical_id)}"
            )
    description = resources[logical_id]["Properties"].get("Description")
    return f"role: {description}" if description else f"role {logical_id}"


def _permission(who: str, statement: Mapping[str, Any], references: References, layer: str) -> Permission:
    principal = statement.get("Principal", {})
    if not who:
        who = ", ".join(
            references.text(name, layer)
            for names in (principal.values() if isinstance(principal, dict) else [principal])
            for name in _list(names)
        )
        who = "anybody" if who == "*" else who
    return Permission(
        who,
        statement["Effect"],
        tuple(sorted(_list(statement["Action"]))),
        tuple(sorted(references.text(resource, layer) for resource in _list(statement["Resource"]))),
        _condition(statement.get("Condition", {}), references, layer),
    )


def _condition(condition: Mapping[str, Any], references: References, layer: str) -> str:
    return "; ".join(
        f"{key} {operator} {', '.join(references.text(value, layer) for value in _list(values))}"
        for operator, keys in condition.items()
        for key, values in keys.items()
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def table(found: list[Permission]) -> str:
    """The permissions as Markdown, denials marked; those who may do the same share a line."""
    shared: dict[Permission, list[str]] = {}
    for permission in found:
        who = shared.setdefault(replace(permission, who=""), [])
        if permission.who not in who:
            who.append(permission.who)
    lines = ["| who | may | on | when |", "|---|---|---|---|"]
    for permission, who in shared.items():
        denied = "**may not** " if permission.effect == "Deny" else ""
        on = "<br>".join(f"`{resource}`" for resource in permission.resources)
        actions = "<br>".join(permission.actions)
        lines.append(f"| {'<br>'.join(who)} | {denied}{actions} | {on} | {_escaped(permission.condition)} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def trusted(templates: Templates) -> str:
    """Who may take on each role, as Markdown."""
    references = References(templates)
    lines = ["| role | taken on by | when |", "|---|---|---|"]
    for layer, template in templates.items():
        for name, body in template["Resources"].items():
            if body["Type"] != "AWS::IAM::Role":
                continue
            for statement in _list(body["Properties"]["AssumeRolePolicyDocument"]["Statement"]):
                who = ", ".join(references.text(value, layer) for value in statement["Principal"].values())
                condition = _condition(statement.get("Condition", {}), references, layer)
                lines.append(
                    f"| {_role(name, template['Resources'], references, layer)} | {who} | {_escaped(condition)} |"
                )
    return "\n".join(lines)
