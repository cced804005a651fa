"""The evaluator of IoT policies says what AWS's own examples say."""

from typing import Any

import pytest

from tests.infra.iot_policy import Connection, Policies

ARN = "arn:aws:iot:us-east-1:123456789012:"
THING = "${iot:Connection.Thing.ThingName}"


def allow(action: str | list[str], *resources: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": [ARN + resource for resource in resources], **more}


def deny(action: str, *resources: str) -> dict[str, Any]:
    return allow(action, *resources) | {"Effect": "Deny"}


def policies(*statements: dict[str, Any]) -> Policies:
    return Policies([{"Version": "2012-10-17", "Statement": list(statements)}])


ME = Connection("me", frozenset({"me"}), registered=frozenset({"me", "you"}))


def test_what_nothing_allows_is_denied() -> None:
    assert not policies().allow(ME, "iot:Connect", "client/me")
    assert not policies(allow("iot:Connect", "client/me")).allow(ME, "iot:Publish", "client/me")


def test_a_denial_wins_wherever_it_stands() -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/pub-sub-policy.html, "deny publishing to subtopics"."""
    for statements in (
        [allow("iot:Publish", "topic/department/*"), deny("iot:Publish", "topic/department/admins")],
        [deny("iot:Publish", "topic/department/admins"), allow("iot:Publish", "topic/department/*")],
    ):
        both = policies(*statements)
        assert both.allow(ME, "iot:Publish", "topic/department/engineering")
        assert not both.allow(ME, "iot:Publish", "topic/department/admins")
        apart = Policies([{"Statement": statement} for statement in statements])
        assert not apart.allow(ME, "iot:Publish", "topic/department/admins")


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("sensor/*", "sensor/temperature/room1", True),
        ("sensor/*", "sensor/", True),
        ("sensor/*", "sensors", False),
        ("sensor/*/room1", "sensor/temperature/high/room1", True),
        ("sensor/?", "sensor/1", True),
        ("sensor/?", "sensor/12", False),
        ("sensor/?", "sensor/", False),
        ("sensor/?/x", "sensor///x", True),
        ("sensor.temperature", "sensor/temperature", False),
        ("sensor", "sensor", True),
        ("sensor", "Sensor", False),
        ("sensor", "sensor/more", False),
        ("${*}", "*", True),
        ("${*}", "anything", False),
        ("${?}", "x", False),
    ],
)
def test_wildcards_of_a_policy(pattern: str, topic: str, matches: bool) -> None:
    assert policies(allow("iot:Publish", f"topic/{pattern}")).allow(ME, "iot:Publish", f"topic/{topic}") is matches


@pytest.mark.parametrize(
    ("pattern", "topic_filter", "matches"),
    [
        # https://docs.aws.amazon.com/iot/latest/developerguide/pub-sub-policy.html, "subscribe using MQTT wildcards"
        ("sensor/*", "sensor/+/room1", True),
        ("sensor/*", "sensor/#", True),
        ("sensor/+/room1", "sensor/+/room1", True),
        ("sensor/+/room1", "sensor/temperature/room1", False),
        ("sensor/#", "sensor/#", True),
        ("sensor/#", "sensor/temperature", False),
        ("sensor/#", "sensor/+", False),
        ("sensor/temperature", "sensor/+", False),
        ("sensor/temperature", "#", False),
    ],
)
def test_mqtts_wildcards_are_characters_like_any_other(pattern: str, topic_filter: str, matches: bool) -> None:
    some = policies(allow("iot:*", "client/me"), allow("iot:Subscribe", f"topicfilter/{pattern}"))
    assert some.subscribes(ME, topic_filter) is matches


def test_actions_have_wildcards_and_no_case() -> None:
    for action in ("iot:*", "*", "iot:Pub*", "IOT:publish", ["iot:Connect", "iot:Publish"]):
        assert policies(allow(action, "topic/a")).allow(ME, "iot:Publish", "topic/a")
    assert not policies(allow("iot:Subscribe", "*")).allow(ME, "iot:Publish", "topic/a")


CONNECT_AND_PUBLISH = policies(allow("iot:Publish", f"topic/{THING}"), allow("iot:Connect", f"client/{THING}"))
"""https://docs.aws.amazon.com/iot/latest/developerguide/connect-and-pub.html"""


def test_a_thing_is_named_by_a_client_id_that_the_certificate_is_attached_to() -> None:
    assert CONNECT_AND_PUBLISH.connects(ME)
    assert CONNECT_AND_PUBLISH.publishes(ME, "me")
    assert not CONNECT_AND_PUBLISH.publishes(ME, "you")
    both = frozenset({"me", "you"})
    assert CONNECT_AND_PUBLISH.publishes(Connection("you", both, registered=both), "you")


@pytest.mark.parametrize(
    "connection",
    [
        Connection("you", frozenset({"me"}), registered=frozenset({"me", "you"})),
        Connection("me", frozenset(), registered=frozenset({"me", "you"})),
        Connection("", frozenset(), registered=frozenset({"me", "you"})),
        Connection(None, frozenset({"me"}), exclusive=True),
    ],
)
def test_a_variable_without_a_value_matches_nothing(connection: Connection) -> None:
    assert not CONNECT_AND_PUBLISH.connects(connection)
    assert not any(CONNECT_AND_PUBLISH.publishes(connection, topic) for topic in ("me", "you", "", "None", THING))


def test_an_exclusive_thing_is_the_certificates_own_whatever_the_client_id() -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html"""
    other_id = Connection("you", frozenset({"me"}), exclusive=True)
    assert not CONNECT_AND_PUBLISH.connects(other_id), "the client id must still be the thing's name by this policy"
    free = policies(allow("iot:Publish", f"topic/{THING}"), allow("iot:Connect", "client/*"))
    assert free.publishes(other_id, "me")
    assert not free.publishes(other_id, "you")


IS_ATTACHED = {"Condition": {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}}}
"""https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-examples.html"""


def test_is_attached() -> None:
    some = policies(allow("iot:Connect", "client/*", **IS_ATTACHED))
    assert some.connects(ME)
    assert not some.connects(Connection("you", frozenset({"me"})))
    assert some.connects(Connection("you", frozenset({"me"}), exclusive=True))
    assert not some.connects(Connection("me"))


def test_a_value_is_taken_literally() -> None:
    some = policies(allow("iot:Publish", "topic/${iot:ClientId}"))
    assert some.allow(Connection("*"), "iot:Publish", "topic/*")
    assert not some.allow(Connection("*"), "iot:Publish", "topic/you")
    assert not some.allow(Connection("${iot:ClientId}"), "iot:Publish", "topic/you")


def test_what_is_not_known_is_not_passed_over() -> None:
    with pytest.raises(NotImplementedError):
        policies(allow("iot:Connect", "client/me", Condition={"IpAddress": {"aws:SourceIp": ["10.0.0.0/8"]}})).connects(
            ME
        )
    with pytest.raises(AssertionError):
        policies({"Effect": "Allow", "NotAction": "iot:Publish", "Resource": "*"}).connects(ME)
