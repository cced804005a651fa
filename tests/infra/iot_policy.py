"""What a device may do by an AWS IoT policy document, decided as AWS documents it.

- Denied unless a statement allows it; a statement that denies it wins.
  https://docs.aws.amazon.com/iot/latest/developerguide/iot-policies.html
- In a policy `*` is any characters, `/` among them, and `?` one; MQTT's `+` and `#` are characters like any other.
  https://docs.aws.amazon.com/iot/latest/developerguide/pub-sub-policy.html
- A variable that has no value makes its resource match nothing. Thing policy variables have one only over MQTT; the thing is
  the one that the certificate is exclusively attached to, else the one whose name the client id is.
  https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html

What it does not know (another condition, NotAction, a variable's default) raises, so that no policy passes unread.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_FIXED = {"*": "*", "?": "?", "$": "$"}
_KNOWN = frozenset({"Sid", "Effect", "Action", "Resource", "Condition"})
_THING = "iot:Connection.Thing."


@dataclass(frozen=True)
class Connection:
    """Who asks: a certificate's things in the registry, and the client id, which is the device's own choice."""

    client_id: str | None
    """None: HTTPS, which has none."""
    attached: frozenset[str] = frozenset()
    """Names of the things that the certificate is attached to."""
    exclusive: bool = False
    registered: frozenset[str] = frozenset()
    """Names of all things."""
    common_name: str | None = None
    named_by_client_id_alone: bool = False
    """Take the thing name from any client id that is a registered thing, attached or not: the manual can be read so."""

    def variables(self) -> Mapping[str, str]:
        """The policy variables that have a value."""
        found: dict[str, str] = {}
        if self.common_name is not None:
            found["iot:Certificate.Subject.CommonName"] = self.common_name
        if self.client_id is None:
            return found
        found["iot:ClientId"] = self.client_id
        things = self.attached if self.exclusive else self.attached & {self.client_id}
        found[f"{_THING}IsAttached"] = "true" if things else "false"
        if not things and self.named_by_client_id_alone:
            things = self.registered & {self.client_id}
        if things:
            [found[f"{_THING}ThingName"]] = things
        return found


@dataclass(frozen=True)
class Policies:
    """Policy documents that are attached to one certificate."""

    documents: Sequence[Mapping[str, Any]]
    arn_prefix: str = field(default="arn:aws:iot:us-east-1:123456789012:")

    def allow(self, connection: Connection, action: str, resource: str) -> bool:
        """Whether `action` (such as `iot:Publish`) on `resource` (such as `topic/a/b`) is allowed."""
        variables = connection.variables()
        effects = {
            statement["Effect"]
            for document in self.documents
            for statement in _listed(document["Statement"])
            if _applies(statement, action, self.arn_prefix + resource, variables)
        }
        assert effects <= {"Allow", "Deny"}, effects
        return effects == {"Allow"}

    def connects(self, connection: Connection) -> bool:
        """Whether the broker accepts this connection."""
        return self.allow(connection, "iot:Connect", f"client/{connection.client_id}")

    def publishes(self, connection: Connection, topic: str) -> bool:
        """Whether a connection that may be made may publish to `topic`."""
        return self._made(connection) and self.allow(connection, "iot:Publish", f"topic/{topic}")

    def retains(self, connection: Connection, topic: str) -> bool:
        """Whether it may leave a retained message there."""
        return self.publishes(connection, topic) and self.allow(connection, "iot:RetainPublish", f"topic/{topic}")

    def subscribes(self, connection: Connection, topic_filter: str) -> bool:
        """Whether it may subscribe to `topic_filter`."""
        return self._made(connection) and self.allow(connection, "iot:Subscribe", f"topicfilter/{topic_filter}")

    def receives(self, connection: Connection, topic: str) -> bool:
        """Whether a message on `topic` is delivered to it, whatever it has subscribed to."""
        return self._made(connection) and self.allow(connection, "iot:Receive", f"topic/{topic}")

    def _made(self, connection: Connection) -> bool:
        return connection.client_id is None or self.connects(connection)


def _applies(statement: Mapping[str, Any], action: str, resource: str, variables: Mapping[str, str]) -> bool:
    assert statement.keys() <= _KNOWN, statement
    return (
        any(_pattern(pattern.lower(), {}, action.lower()) for pattern in _listed(statement["Action"]))
        and any(_pattern(pattern, variables, resource) for pattern in _listed(statement["Resource"]))
        and all(
            _holds(operator, key, _listed(values), variables)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _pattern(pattern: str, variables: Mapping[str, str], text: str) -> bool:
    """Whether the pattern, its variables replaced by their values taken literally, is `text`."""
    expression, end = "", 0
    for variable in _VARIABLE.finditer(pattern):
        value = variables.get(variable[1], _FIXED.get(variable[1]))
        if value is None:
            return False
        expression += _wildcards(pattern[end : variable.start()]) + re.escape(value)
        end = variable.end()
    return re.fullmatch(expression + _wildcards(pattern[end:]), text, re.DOTALL) is not None


def _wildcards(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def _holds(operator: str, key: str, values: Sequence[Any], variables: Mapping[str, str]) -> bool:
    if operator == "Bool":
        return key in variables and variables[key].lower() in {str(value).lower() for value in values}
    if operator == "StringEquals":
        return key in variables and variables[key] in values
    raise NotImplementedError(f"condition operator {operator}")


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]
