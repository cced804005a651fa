"""The device policy of every environment, evaluated: no device can be, speak for, or listen to another.

For generated pairs of legal thing names, and for every way in which a certificate may be attached to things.
"""

import json
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from certs.names import valid_thing_name
from certs.registration import register
from certs.store import IdentityStore
from infra.names import Names
from ops.errors import UserError
from tests.infra.iot_policy import Connection, Policies
from tests.infra.templates import ENVIRONMENTS, synthesised

# https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
names = st.text(string.ascii_letters + string.digits + ":_-", min_size=1, max_size=128)


def _close_by(name: str) -> st.SearchStrategy[str]:
    """Names that could be taken for this one."""
    return st.one_of(
        st.just(name[:-1]),
        st.just(name + "0"),
        st.just("0" + name),
        st.just(name.swapcase()),
        st.just(name + name),
        st.just("client:" + name),
        st.just(name.replace("-", "_")),
    ).filter(lambda other: 0 < len(other) <= 128)


pairs = st.one_of(
    st.tuples(names, names), names.flatmap(lambda name: st.tuples(st.just(name), _close_by(name)))
).filter(lambda pair: pair[0] != pair[1])


@pytest.fixture(params=ENVIRONMENTS, scope="module")
def environment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def policies(environment: str) -> Policies:
    """The policy that a device's certificate gets, with its ARNs written out for one account and region."""
    document = synthesised(environment).only("AWS::IoT::Policy")["PolicyDocument"]
    return Policies([_written_out(document)])


def _written_out(value: Any) -> Any:
    """CloudFormation's intrinsic functions, resolved as in account 123456789012 and us-east-1."""
    known = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "123456789012"}
    match value:
        case {"Ref": name}:
            return known[name]
        case {"Fn::Join": [separator, parts]}:
            return separator.join(_written_out(part) for part in parts)
        case dict():
            return {name: _written_out(member) for name, member in value.items()}
        case list():
            return [_written_out(member) for member in value]
    return value


def as_registered(a: str, b: str) -> list[Connection]:
    """A's certificate as we register it, and as carelessness or another tool might; the client id is A's."""
    both = frozenset({a, b})
    return [
        Connection(
            a, frozenset({a}), exclusive=exclusive, registered=both, common_name=b, named_by_client_id_alone=loose
        )
        for exclusive in (True, False)
        for loose in (True, False)
    ]


def with_id(connection: Connection, client_id: str | None) -> Connection:
    return Connection(**{**vars(connection), "client_id": client_id})


def both_forms(of: Names, name: str) -> tuple[str, str]:
    return f"{of.topic}/{name}", f"{of.basic_ingest_topic}/{name}"


def said_only(of: Names, name: str) -> tuple[str, ...]:
    """Topics that a device publishes to beside telemetry."""
    things = f"$aws/things/{name}"
    return (
        f"{of.status_topic}/{name}",
        f"{things}/shadow/update",
        f"{things}/jobs/start-next",
        f"{things}/jobs/firmware_update-2_1_0/update",
    )


def heard_only(name: str) -> dict[str, str]:
    """What a device listens to: topic by filter."""
    things = f"$aws/things/{name}"
    answers = ("shadow/update/accepted", "jobs/notify-next", "jobs/start-next/accepted", "jobs/start-next/rejected")
    return {f"{things}/{answer}": f"{things}/{answer}" for answer in answers} | {
        f"{things}/jobs/+/update/{answer}": f"{things}/jobs/any-1/update/{answer}"
        for answer in ("accepted", "rejected")
    }


generated = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)


@generated
@given(pairs)
@example(("device-00001", "device-00002"))
@example(("device-1", "device-10"))
def test_a_device_connects_as_itself_only(policies: Policies, pair: tuple[str, str]) -> None:
    a, b = pair
    for mine in as_registered(a, b):
        assert policies.connects(mine)
        for client_id in (b, "", "*", "?" * len(b), f"{a}/", f"{a}#", "+", f"${{{'iot:ClientId'}}}", b + a):
            assert not policies.connects(with_id(mine, client_id))


@generated
@given(pairs)
@example(("device-00001", "device-00002"))
def test_a_device_publishes_to_its_own_topics_only(environment: str, policies: Policies, pair: tuple[str, str]) -> None:
    a, b = pair
    own = Names.of(environment)
    for mine in as_registered(a, b):
        for topic in both_forms(own, a):
            assert policies.publishes(mine, topic)
            assert not policies.retains(mine, topic), "a retained message would outlive its device"
        for topic in said_only(own, a):
            assert policies.publishes(mine, topic)
            assert not policies.retains(mine, topic)
        refused = {
            *both_forms(own, b),
            *(f"{topic}/{b}" for topic in both_forms(own, a)),
            *(f"{topic}/" for topic in both_forms(own, a)),
            *(f"{topic}{b}" for topic in both_forms(own, a)),
            *(f"{topic.rpartition('/')[0]}/+" for topic in both_forms(own, a)),
            *(f"{topic.rpartition('/')[0]}/#" for topic in both_forms(own, a)),
            *(topic.rpartition("/")[0] for topic in both_forms(own, a)),
            own.topic,
            a,
            f"/{own.topic}/{a}",
            f"{own.topic}//{a}",
            f"{b}/{own.topic}/{a}",
            f"{own.topic.upper()}/{a}",
            f"$aws/rules/{own.rule}/{own.topic}",
            f"$aws/rules/{own.rule}",
            f"$aws/rules/{own.rule}2/{own.topic}/{a}",
            f"$aws/rules/Another/{own.topic}/{a}",
            *said_only(own, b),
            *(f"{topic}/{b}" for topic in said_only(own, a)),
            f"{own.status_topic}/+",
            own.status_topic,
            f"$aws/rules/{own.status_rule}/{own.status_topic}/{a}",
            *(f"$aws/things/{a}/shadow/{verb}" for verb in ("get", "delete", "name/any/update")),
            *(f"$aws/things/{a}/jobs/{verb}" for verb in ("get", "notify-next", "start-next/accepted", "update")),
            *(f"$aws/things/{thing}/jobs/x/update" for thing in (b, "+", "*", "", f"{a}/{b}", f"{b}/{a}")),
            *(f"$aws/things/{thing}/shadow/update" for thing in (f"{a}/{b}", f"{b}/{a}", "+")),
            f"$aws/events/presence/connected/{a}",
            "$aws/certificates/create/json",
            "$aws/provisioning-templates/any/provision/json",
        }
        assert not [topic for topic in refused if policies.publishes(mine, topic)]


@generated
@given(pairs)
def test_a_device_reaches_no_other_environment(environment: str, policies: Policies, pair: tuple[str, str]) -> None:
    a, b = pair
    others = [Names.of(other) for other in (*ENVIRONMENTS, "local")]
    others = [other for other in others if other != Names.of(environment)]
    assert others
    for mine in as_registered(a, b):
        for other in others:
            topics = [topic for name in pair for topic in both_forms(other, name)]
            topics += [f"{other.status_topic}/{name}" for name in pair]
            assert not [topic for topic in topics if policies.publishes(mine, topic)]


@generated
@given(pairs)
@example(("device-00001", "device-00002"))
@example(("device-1", "device-10"))
def test_a_device_hears_what_is_for_it_and_nothing_else(
    environment: str, policies: Policies, pair: tuple[str, str]
) -> None:
    a, b = pair
    own = Names.of(environment)
    for mine in as_registered(a, b):
        for topic_filter, topic in heard_only(a).items():
            assert policies.subscribes(mine, topic_filter)
            assert policies.receives(mine, topic)
        refused = {
            *(topic for name in pair for topic in both_forms(own, name)),
            *(f"{own.status_topic}/{name}" for name in pair),
            *heard_only(b).values(),
            f"$aws/things/{a}/shadow/get/accepted",
            f"$aws/things/{a}/shadow/update/delta",
            f"$aws/things/{b}/jobs/notify",
        }
        assert not [topic for topic in refused if policies.subscribes(mine, topic) or policies.receives(mine, topic)]
        filters = {
            *heard_only(b),
            *heard_only("+"),
            *heard_only("#"),
            f"$aws/things/{a}/#",
            f"$aws/things/{a}/+/+",
            f"$aws/things/{a}/shadow/#",
            f"$aws/things/{b}/jobs/#",
            "$aws/things/+/jobs/#",
            "$aws/things/#",
            "#",
            "+",
            "+/+/+",
            f"{own.topic}/+",
            f"{own.topic}/#",
            f"{own.status_topic}/+",
            "$aws/#",
            f"$share/g/{own.topic}/#",
            f"$share/g/$aws/things/{b}/jobs/notify-next",
            "*",
        }
        assert not [topic_filter for topic_filter in filters if policies.subscribes(mine, topic_filter)]


def test_aws_takes_the_policy_in_every_region(environment: str) -> None:
    """https://docs.aws.amazon.com/iot/latest/apireference/API_CreatePolicy.html: 2,048 characters, white space aside."""
    document = _written_out(synthesised(environment).only("AWS::IoT::Policy")["PolicyDocument"])
    text = (
        json.dumps(document, separators=(",", ":"))
        .replace("us-east-1", "ap-southeast-1")
        .replace(":aws:", ":aws-us-gov:")
    )
    assert len(text) <= 2_048


@generated
@given(pairs)
def test_a_certificate_without_its_thing_may_do_nothing(
    environment: str, policies: Policies, pair: tuple[str, str]
) -> None:
    """Registered but not attached; attached and then detached; or over HTTPS, which has no client id."""
    a = pair[0]
    for loose in (True, False):
        nowhere = Connection(a, registered=frozenset(pair), common_name=a, named_by_client_id_alone=loose)
        assert not policies.connects(nowhere)
        over_https = Connection(None, frozenset({a}), exclusive=True, registered=frozenset(pair), common_name=a)
        for someone in (nowhere, over_https):
            for name in pair:
                own = Names.of(environment)
                for topic in (*both_forms(own, name), *said_only(own, name)):
                    assert not policies.publishes(someone, topic)
                    assert not policies.allow(someone, "iot:Publish", f"topic/{topic}")
                for topic_filter, topic in heard_only(name).items():
                    assert not policies.allow(someone, "iot:Subscribe", f"topicfilter/{topic_filter}")
                    assert not policies.allow(someone, "iot:Receive", f"topic/{topic}")


@generated
@given(names)
def test_a_thing_name_is_one_level_of_a_topic(name: str) -> None:
    assert valid_thing_name(name) == name
    assert not set(name) & set("/+#*?$.{}")


class Untouched:
    """An AWS IoT that must not be called."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"AWS IoT was called: {name}")


@pytest.mark.parametrize(
    "name", ["a/b", "+", "#", "device-0000+", "device/#", "*", "device-0000?", "$aws", "${iot:ClientId}"]
)
def test_a_name_that_would_reach_further_is_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "identities")
    with pytest.raises(UserError, match="is no thing name"):
        store.ensure([name])
    with pytest.raises(UserError):
        register(Untouched(), store, [name], thing_type="IoTDevice", policy_name="IoTDevicePolicy")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "device" in path.name]
