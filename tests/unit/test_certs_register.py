"""Registering and unregistering against moto: idempotent, complete after a crash anywhere, never undoing a revocation.

moto ignores `thingPrincipalType`, accepts a second CreateThing of other contents, and knows no rates; the emulator's
turn is in tests/functional/test_certs_registration.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from certs import pem, registry
from certs.authority import DeviceAuthority
from certs.names import thing_names
from certs.registration import RegistrationReport, register, unregister
from certs.registry import client_config
from certs.store import IdentityStore
from ops.errors import UserError

NAMES = thing_names(3)
NAME = NAMES[0]
TYPE, POLICY = "IoTDevice", "IoTDevicePolicy"
# One session for all: it is what reads the long description of the IoT API.
AWS = boto3.session.Session("test", "test", region_name="eu-west-1")


@pytest.fixture
def iot() -> Iterator[Any]:
    with mock_aws(config={"iot": {"use_valid_cert": True}}):
        client = AWS.client("iot", config=client_config(8))
        deploy(client)
        yield client


def deploy(client: Any) -> None:
    client.create_thing_type(thingTypeName=TYPE)
    client.create_policy(policyName=POLICY, policyDocument="{}")


@pytest.fixture
def identities(tmp_path: Path) -> IdentityStore:
    made = IdentityStore(tmp_path / "store")
    made.ensure(NAMES)
    return made


def enrol(client: Any, identities: IdentityStore, names: list[str] | None = None, **options: Any) -> RegistrationReport:
    return register(client, identities, names or NAMES, thing_type=TYPE, policy_name=POLICY, **options)


def renew(identities: IdentityStore, name: str) -> str:
    """Give the thing a new certificate in the store; returns the id of the old one."""
    old = pem.certificate_id(identities.certificate(name))
    identities.discard(name)
    identities.ensure([name])
    return old


@dataclass(frozen=True)
class State:
    """All that is registered."""

    things: dict[str, tuple[str, frozenset[str]]]
    """Name -> type, ids of the attached certificates."""
    certificates: dict[str, tuple[str, frozenset[str]]]
    """Id -> status, attached policies."""


def state(client: Any) -> State:
    def principals(name: str) -> frozenset[str]:
        return frozenset(arn.rpartition("/")[2] for arn in client.list_thing_principals(thingName=name)["principals"])

    def policies(arn: str) -> frozenset[str]:
        return frozenset(policy["policyName"] for policy in client.list_attached_policies(target=arn)["policies"])

    things = client.list_things()["things"]
    certificates = client.list_certificates()["certificates"]
    return State(
        {thing["thingName"]: (thing.get("thingTypeName", ""), principals(thing["thingName"])) for thing in things},
        {
            certificate["certificateId"]: (certificate["status"], policies(certificate["certificateArn"]))
            for certificate in certificates
        },
    )


def registered(identities: IdentityStore, names: list[str], retired: tuple[str, ...] = ()) -> State:
    """How it should be."""
    ids = {name: pem.certificate_id(identities.certificate(name)) for name in names}
    return State(
        {name: (TYPE, frozenset({ids[name]})) for name in names},
        {certificate_id: ("ACTIVE", frozenset({POLICY})) for certificate_id in ids.values()}
        | {certificate_id: ("INACTIVE", frozenset[str]()) for certificate_id in retired},
    )


def test_a_fleet_is_registered_once(iot: Any, identities: IdentityStore) -> None:
    assert enrol(iot, identities) == RegistrationReport(tuple(NAMES), (), ())
    assert state(iot) == registered(identities, NAMES)
    assert enrol(iot, identities) == RegistrationReport((), tuple(NAMES), ())
    assert state(iot) == registered(identities, NAMES)


def test_a_second_registration_writes_nothing(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities)
    calls: list[str] = []
    iot.meta.events.register("before-call.iot", lambda model, **_: calls.append(model.name))
    enrol(iot, identities)
    assert not [call for call in calls if not call.startswith(("Describe", "List", "Get"))]
    assert len(calls) == 2 + 4 * len(NAMES)


def test_progress_is_told_for_each_thing_from_the_calling_thread(iot: Any, identities: IdentityStore) -> None:
    seen: list[tuple[int, int]] = []
    enrol(iot, identities, progress=lambda done, total: seen.append((done, total)), concurrency=3)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_attachment_is_exclusive_and_the_certificate_active(iot: Any, identities: IdentityStore) -> None:
    sent: dict[str, Any] = {}
    iot.meta.events.register("provide-client-params.iot", lambda params, model, **_: sent.update({model.name: params}))
    enrol(iot, identities, [NAME])
    assert sent["AttachThingPrincipal"]["thingPrincipalType"] == "EXCLUSIVE_THING"
    assert sent["RegisterCertificateWithoutCA"]["status"] == "ACTIVE"
    assert "PRIVATE KEY" not in str(sent)


def test_a_thing_whose_certificate_was_replaced_gets_the_new_one_and_the_old_is_shut_out(
    iot: Any, identities: IdentityStore
) -> None:
    enrol(iot, identities)
    old = renew(identities, NAME)
    assert enrol(iot, identities) == RegistrationReport((), tuple(NAMES[1:]), (NAME,))
    assert state(iot) == registered(identities, NAMES, retired=(old,))
    assert enrol(iot, identities).existing == tuple(NAMES)


@pytest.mark.parametrize("undo", ["policy", "principal"])
def test_what_was_taken_away_is_given_back(iot: Any, identities: IdentityStore, undo: str) -> None:
    enrol(iot, identities)
    arn = iot.list_thing_principals(thingName=NAME)["principals"][0]
    if undo == "policy":
        iot.detach_policy(policyName=POLICY, target=arn)
    else:
        iot.detach_thing_principal(thingName=NAME, principal=arn)
    assert enrol(iot, identities).repaired == (NAME,)
    assert state(iot) == registered(identities, NAMES)


def test_attributes_are_set_and_others_are_left(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities, [NAME], attributes={"site": "north"})
    iot.update_thing(thingName=NAME, attributePayload={"attributes": {"owner": "ada"}, "merge": True})
    assert enrol(iot, identities, [NAME], attributes={"site": "north"}).existing == (NAME,)
    assert enrol(iot, identities, [NAME], attributes={"site": "south"}).repaired == (NAME,)
    assert iot.describe_thing(thingName=NAME)["attributes"] == {"site": "south", "owner": "ada"}
    assert enrol(iot, identities, [NAME]).existing == (NAME,)


@pytest.mark.parametrize("status", ["INACTIVE", "REVOKED"])
def test_a_revoked_certificate_stays_revoked_and_the_others_are_done(
    iot: Any, identities: IdentityStore, status: str
) -> None:
    enrol(iot, identities, [NAME])
    certificate_id = pem.certificate_id(identities.certificate(NAME))
    iot.update_certificate(certificateId=certificate_id, newStatus=status)
    with pytest.raises(UserError, match=rf"thing {NAME} was shut out .*{status}.*fleet certs unregister") as refusal:
        enrol(iot, identities)
    assert "\n" not in str(refusal.value)
    expected = registered(identities, NAMES)
    expected.certificates[certificate_id] = (status, frozenset({POLICY}))
    assert state(iot) == expected


def test_a_new_certificate_is_no_back_door_for_a_thing_that_was_shut_out(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities, [NAME])
    old = renew(identities, NAME)
    iot.update_certificate(certificateId=old, newStatus="INACTIVE")
    before = state(iot)
    with pytest.raises(UserError, match=f"thing {NAME} was shut out.*--certificate-id {old}"):
        enrol(iot, identities, [NAME])
    assert state(iot) == before


def test_the_way_back_for_a_thing_that_was_shut_out(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities)
    old = pem.certificate_id(identities.certificate(NAME))
    iot.update_certificate(certificateId=old, newStatus="INACTIVE")
    unregister(iot, identities, [NAME], thing_type=TYPE)
    identities.discard(NAME)
    identities.ensure([NAME])
    assert enrol(iot, identities).created == (NAME,)
    assert state(iot) == registered(identities, NAMES)


def test_a_certificate_registered_inactive_by_somebody_at_the_same_moment_is_not_used(
    iot: Any, identities: IdentityStore
) -> None:
    text = identities.certificate_file(NAME).read_text()
    other = AWS.client("iot")

    def overtake(**_: Any) -> None:
        other.register_certificate_without_ca(certificatePem=text, status="INACTIVE")

    iot.meta.events.register_first("before-call.iot.RegisterCertificateWithoutCA", overtake)
    with pytest.raises(UserError, match="was shut out"):
        enrol(iot, identities, [NAME])
    assert state(iot).things == {NAME: (TYPE, frozenset())}


def test_a_certificate_registered_by_somebody_at_the_same_moment_is_found_by_its_id(
    iot: Any, identities: IdentityStore
) -> None:
    text = identities.certificate_file(NAME).read_text()
    other = AWS.client("iot")

    def overtake(**_: Any) -> None:
        other.register_certificate_without_ca(certificatePem=text, status="ACTIVE")

    iot.meta.events.register_first("before-call.iot.RegisterCertificateWithoutCA", overtake)
    assert enrol(iot, identities, [NAME]).created == (NAME,)
    assert state(iot) == registered(identities, [NAME])


def test_a_certificate_of_another_ca_is_left_alone_unless_taken_over(
    iot: Any, identities: IdentityStore, tmp_path: Path
) -> None:
    somebody = IdentityStore(tmp_path / "somebody")
    somebody.ensure([NAME])
    enrol(iot, somebody, [NAME])
    with pytest.raises(UserError, match=f"thing {NAME} has the certificate .* of another CA .*--take-over"):
        enrol(iot, identities)
    assert state(iot).things[NAME] == registered(somebody, [NAME]).things[NAME]
    assert state(iot).certificates.keys() == registered(somebody, [NAME]).certificates.keys() | {
        pem.certificate_id(identities.certificate(name)) for name in NAMES[1:]
    }
    assert enrol(iot, identities, take_over=True).repaired == (NAME,)
    old = pem.certificate_id(somebody.certificate(NAME))
    assert state(iot) == registered(identities, NAMES, retired=(old,))


def test_an_old_certificate_that_was_revoked_is_detached_and_stays_revoked(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities, [NAME])
    old = renew(identities, NAME)
    enrol(iot, identities, [NAME])
    iot.update_certificate(certificateId=old, newStatus="REVOKED")
    arn = iot.describe_certificate(certificateId=old)["certificateDescription"]["certificateArn"]
    iot.attach_thing_principal(thingName=NAME, principal=arn)
    assert enrol(iot, identities, [NAME]).repaired == (NAME,)
    expected = registered(identities, [NAME])
    expected.certificates[old] = ("REVOKED", frozenset())
    assert state(iot) == expected


def test_an_old_certificate_by_which_another_thing_lives_is_only_detached(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities, [NAME])
    arn = iot.list_thing_principals(thingName=NAME)["principals"][0]
    iot.create_thing(thingName="gateway")
    iot.attach_thing_principal(thingName="gateway", principal=arn)
    old = renew(identities, NAME)
    assert enrol(iot, identities, [NAME]).repaired == (NAME,)
    assert state(iot).certificates[old] == ("ACTIVE", frozenset({POLICY}))
    assert iot.list_principal_things(principal=arn)["things"] == ["gateway"]


def test_a_thing_of_another_type_is_not_of_this_fleet(iot: Any, identities: IdentityStore) -> None:
    iot.create_thing_type(thingTypeName="Lamp")
    iot.create_thing(thingName=NAME, thingTypeName="Lamp")
    with pytest.raises(UserError, match=f"thing {NAME} exists with the type Lamp, not {TYPE}"):
        enrol(iot, identities)
    with pytest.raises(UserError, match=f"thing {NAME} has the type Lamp, not {TYPE}"):
        unregister(iot, identities, NAMES, thing_type=TYPE)
    assert state(iot).things == {NAME: ("Lamp", frozenset())}


def test_nothing_is_sent_while_an_identity_is_bad(iot: Any, identities: IdentityStore) -> None:
    identities.key_file(NAMES[1]).replace(identities.key_file(NAMES[2]))
    with pytest.raises(UserError, match=r"device-00002\.key is missing"):
        enrol(iot, identities)
    assert state(iot) == State({}, {})


@pytest.mark.parametrize(("thing_type", "policy", "line"), [("x", POLICY, "thing type x"), (TYPE, "x", "policy x")])
def test_nothing_is_sent_before_the_deployment(
    iot: Any, identities: IdentityStore, thing_type: str, policy: str, line: str
) -> None:
    with pytest.raises(UserError, match=f"there is no .*{line}: deploy first"):
        register(iot, identities, NAMES, thing_type=thing_type, policy_name=policy)
    assert state(iot) == State({}, {})


def test_several_faults_are_one_line_with_their_number(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities)
    for name in NAMES[:2]:
        certificate_id = pem.certificate_id(identities.certificate(name))
        iot.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    with pytest.raises(UserError, match=rf"thing {NAME} .*\(2 of 3 devices have such a fault") as refusal:
        enrol(iot, identities)
    assert "\n" not in str(refusal.value)


def refuse(code: str, operation: str) -> Callable[..., None]:
    def handler(**_: Any) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no\nway"}}, operation)

    return handler


def test_a_refusal_of_aws_is_one_line_and_ends_the_work(iot: Any, identities: IdentityStore) -> None:
    iot.meta.events.register("before-call.iot.CreateThing", refuse("AccessDeniedException", "CreateThing"))
    with pytest.raises(
        UserError, match=r"CreateThing for thing device-0000\d failed .*allow iot:CreateThing"
    ) as refusal:
        enrol(iot, identities, concurrency=1)
    assert "\n" not in str(refusal.value)
    assert state(iot) == State({}, {})


def test_after_a_refusal_of_aws_no_further_thing_is_begun(iot: Any, identities: IdentityStore) -> None:
    begun: list[str] = []
    iot.meta.events.register("before-call.iot.DescribeThing", lambda **_: begun.append("one"))
    iot.meta.events.register("before-call.iot.CreateThing", refuse("AccessDeniedException", "CreateThing"))
    with pytest.raises(UserError, match="allow iot:CreateThing"):
        enrol(iot, identities, concurrency=1)
    assert begun == ["one"]


def test_after_an_interruption_what_has_begun_is_finished_and_no_more(iot: Any, identities: IdentityStore) -> None:
    names, created, interrupted = thing_names(100), list[str](), Event()
    identities.ensure(names)

    def hold_the_second(**_: Any) -> None:
        created.append("one")
        if len(created) == 2:
            interrupted.wait(10)

    def interrupt(_done: int, _total: int) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    iot.meta.events.register("before-call.iot.CreateThing", hold_the_second)
    with pytest.raises(KeyboardInterrupt):
        enrol(iot, identities, names, concurrency=1, progress=interrupt)
    done = names[: len(created)]
    assert 1 <= len(done) < len(names)
    assert state(iot) == registered(identities, done)


def test_a_concurrency_of_none_is_refused(iot: Any, identities: IdentityStore) -> None:
    with pytest.raises(UserError, match="concurrency of 0"):
        enrol(iot, identities, concurrency=0)


class Crash(BaseException):
    """As if the process had been killed."""


def crash_at(client: Any, call: int, moment: str) -> None:
    """Crash at the call of that number: before it is sent, or after it was done and before its answer is seen."""
    seen = 0

    def count(**_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > call:
            raise Crash

    client.meta.events.register(f"{moment}-call.iot", count)


def no_rights_without_a_thing(found: State) -> bool:
    """Whether every certificate that lets a device do something is to be found on a thing."""
    attached = {certificate_id for _, ids in found.things.values() for certificate_id in ids}
    return all(
        certificate_id in attached
        for certificate_id, (status, policies) in found.certificates.items()
        if status == "ACTIVE" and policies
    )


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("work", "calls"), [("register", 8), ("replace", 13), ("unregister", 10)])
def test_a_crash_at_any_call_is_mended_by_the_next_run(
    identities: IdentityStore, iot: Any, work: str, calls: int, moment: str
) -> None:
    def run(client: Any) -> object:
        if work == "unregister":
            return unregister(client, identities, [NAME], thing_type=TYPE)
        return enrol(client, identities, [NAME])

    for call in range(calls + 1):
        retired: tuple[str, ...] = ()
        if work != "register":
            enrol(iot, identities, [NAME])
        if work == "replace":
            retired = (renew(identities, NAME),)
        doomed = AWS.client("iot")
        crash_at(doomed, call, moment)
        if call == calls:
            run(doomed)  # so there was no call at which it did not crash
        else:
            with pytest.raises(Crash):
                run(doomed)
            assert no_rights_without_a_thing(state(iot))
            run(iot)
        assert state(iot) == (State({}, {}) if work == "unregister" else registered(identities, [NAME], retired))
        unregister(iot, identities, [NAME], thing_type=TYPE)
        for certificate_id in retired:
            iot.delete_certificate(certificateId=certificate_id)


def test_a_fleet_is_unregistered_once_and_its_files_stay(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities, NAMES[:2])
    iot.create_thing(thingName="gateway")
    report = unregister(iot, identities, NAMES, thing_type=TYPE)
    assert (report.removed, report.absent) == (tuple(NAMES[:2]), (NAMES[2],))
    assert state(iot).things.keys() == {"gateway"}
    assert state(iot).certificates == {}
    assert unregister(iot, identities, NAMES, thing_type=TYPE).absent == tuple(NAMES)
    assert identities.things() == NAMES


def test_a_thing_is_unregistered_with_certificates_that_the_store_does_not_have(
    iot: Any, identities: IdentityStore
) -> None:
    enrol(iot, identities, [NAME])
    identities.discard(NAME)
    assert unregister(iot, identities, [NAME], thing_type=TYPE).removed == (NAME,)
    assert state(iot) == State({}, {})


def test_a_certificate_that_another_thing_uses_is_only_detached(iot: Any, identities: IdentityStore) -> None:
    enrol(iot, identities, [NAME])
    arn = iot.list_thing_principals(thingName=NAME)["principals"][0]
    iot.create_thing(thingName="gateway")
    iot.attach_thing_principal(thingName="gateway", principal=arn)
    unregister(iot, identities, [NAME], thing_type=TYPE)
    assert iot.list_principal_things(principal=arn)["things"] == ["gateway"]
    assert [status for status, _ in state(iot).certificates.values()] == ["ACTIVE"]


@pytest.mark.parametrize(
    ("operation", "code", "message"),
    [
        ("DeleteCertificate", "DeleteConflictException", "Things must be detached before deletion"),
        ("DeleteCertificate", "CertificateStateException", "Certificate must be deactivated"),
        ("DeleteThing", "InvalidRequestException", "Thing is still attached to one or more principals"),
    ],
)
def test_a_deletion_waits_until_aws_has_seen_the_detachment(
    iot: Any,
    identities: IdentityStore,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    code: str,
    message: str,
) -> None:
    monkeypatch.setattr(registry, "_SETTLE_FIRST_PAUSE_SECONDS", 0.001)
    refusals = 3

    def lag(**_: Any) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise ClientError({"Error": {"Code": code, "Message": message}}, operation)

    enrol(iot, identities, [NAME])
    iot.meta.events.register(f"before-call.iot.{operation}", lag)
    unregister(iot, identities, [NAME], thing_type=TYPE)
    assert refusals == -1
    assert state(iot) == State({}, {})


def test_a_deletion_does_not_wait_for_ever(
    iot: Any, identities: IdentityStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(registry, "_SETTLE_FIRST_PAUSE_SECONDS", 0.001)
    enrol(iot, identities, [NAME])
    conflict = refuse("DeleteConflictException", "DeleteCertificate")
    iot.meta.events.register("before-call.iot.DeleteCertificate", conflict)
    with pytest.raises(UserError, match=r"DeleteCertificate for thing device-00001 failed .*run the command again"):
        unregister(iot, identities, [NAME], thing_type=TYPE)


def test_the_clients_configuration_keeps_to_the_rates_of_aws() -> None:
    config = vars(client_config(32))
    assert config["retries"]["mode"] == "adaptive"
    assert config["max_pool_connections"] == 32


def test_the_key_of_the_ca_is_not_needed_to_register(iot: Any, identities: IdentityStore) -> None:
    (identities.root / "ca.key").unlink()
    assert enrol(iot, identities).created == tuple(NAMES)
    with pytest.raises(UserError, match=r"ca\.key is missing"):
        DeviceAuthority.load_or_create(identities.root)
