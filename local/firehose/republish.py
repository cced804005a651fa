"""Republish actions whose topic has substitution templates, or a `$$`: the emulator takes both literally.

Such a rule gets a twin, which selects the templates' expressions beside what the rule selects: as on AWS they see the
message, not the rule's result. The twin hands both to this process, which puts the topic together. Rules without such a topic
have no twin, and telemetry pays nothing. A message that Basic Ingest sends to the rule by name does not reach its twin.
https://docs.aws.amazon.com/iot/latest/developerguide/iot-substitution-templates.html
https://docs.aws.amazon.com/iot/latest/developerguide/republish-rule-action.html
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_iot.client import IoTClient

TOPIC = "local/republish"
TWIN = "local_twin_of_"
"""What the name of a twin begins with."""
_MEMBER = "local_template_"
_TEMPLATE = re.compile(r"\$\{([^{}]*)\}")
_FROM = re.compile(r"\s+FROM\s+(?=['\"])", re.IGNORECASE)
"""The clause that names a topic; that of a nested query names an array."""

Rule = Mapping[str, Any]


@dataclass(frozen=True)
class Republish:
    """A deployed action: where results go."""

    topic: str
    """With the templates, as it is deployed."""
    qos: int

    def message(self, result: bytes) -> tuple[str, bytes]:
        """Topic and payload for a twin's result.

        Raises ValueError when the result is no object, or has no text for a template: AWS's action then fails as well.
        """
        document = json.loads(result)
        if not isinstance(document, dict):
            raise ValueError("the result is no JSON object")  # noqa: TRY004 - a value that came, not a wrong call

        def expand(template: re.Match[str]) -> str:
            value = document.get(_member(template[1]))
            if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
                raise ValueError(f"no value for {template[0]} of topic {self.topic}")
            return str(value)

        topic = _TEMPLATE.sub(expand, self.topic)
        if "+" in topic or "#" in topic:
            raise ValueError(f"nobody can publish to {topic}")
        rest = {name: value for name, value in document.items() if not name.startswith(_MEMBER)}
        return _unescaped(topic), json.dumps(rest).encode()


def twins(rules: Iterable[Rule]) -> tuple[dict[str, dict[str, Any]], dict[str, Republish]]:
    """The twins that those rules need: name -> payload, and topic that a twin writes to -> what becomes of it."""
    payloads: dict[str, dict[str, Any]] = {}
    republished: dict[str, Republish] = {}
    for rule in rules:
        name = rule["ruleName"]
        if name.startswith(TWIN) or rule.get("ruleDisabled"):
            continue
        found = {
            f"{TOPIC}/{name}/{number}": action["republish"]
            for number, action in enumerate(rule["actions"])
            if "republish" in action and _is_not_literal(action["republish"]["topic"])
        }
        if not found:
            continue
        republished |= {tap: Republish(each["topic"], each.get("qos", 0)) for tap, each in found.items()}
        expressions = {text for each in found.values() for text in _TEMPLATE.findall(each["topic"])}
        payloads[TWIN + name] = {
            "sql": _selecting(rule["sql"], sorted(expressions)),
            "awsIotSqlVersion": rule.get("awsIotSqlVersion", "2015-10-08"),
            "actions": [
                {"republish": {"topic": tap, "qos": 1, "roleArn": each["roleArn"]}} for tap, each in found.items()
            ],
        }
    return payloads, republished


def follow(iot: "IoTClient", rules: Iterable[Rule]) -> dict[str, Republish]:
    """Makes, changes and removes twins as the deployed rules have it; returns what becomes of a message on each topic."""
    there = {rule["ruleName"]: rule for rule in rules}
    wanted, republished = twins(there.values())
    for name, payload in wanted.items():
        if name not in there:
            iot.create_topic_rule(ruleName=name, topicRulePayload=payload)  # type: ignore[arg-type]
        elif any(there[name].get(member) != value for member, value in payload.items()):
            iot.replace_topic_rule(ruleName=name, topicRulePayload=payload)  # type: ignore[arg-type]
    for name in there:
        if name.startswith(TWIN) and name not in wanted:
            iot.delete_topic_rule(ruleName=name)
    return republished


def _is_not_literal(topic: str) -> bool:
    return topic.startswith("$$") or _TEMPLATE.search(topic) is not None


def _unescaped(topic: str) -> str:
    return topic[1:] if topic.startswith("$$") else topic


def _selecting(sql: str, expressions: Iterable[str]) -> str:
    more = "".join(f", {expression} AS {_member(expression)}" for expression in expressions)
    return _FROM.sub(lambda clause: more + clause[0], sql, count=1)


def _member(expression: str) -> str:
    """Its name in a twin's result: of letters, digits and `_`, and the same wherever the expression stands."""
    return _MEMBER + expression.encode().hex()
