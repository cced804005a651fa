"""Registering a fleet with the real emulator, and what its MQTT listener makes of each identity."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from certs import pem
from certs.endpoint import write_trust_anchor
from certs.names import thing_names
from certs.registration import register, unregister
from certs.registry import client_config
from certs.store import DeviceIdentity, IdentityStore
from local import emulator as emulators
from local import processes
from local.session import emulator_session
from local.state import Emulator
from ops.errors import UserError

TYPE, POLICY = "IoTDevice", "IoTDevicePolicy"
NAMES = thing_names(20)
LATECOMER = "device-00021"
CONNECT_SECONDS = 30


def registry_of(emulator: Emulator) -> Any:
    return emulator_session(emulator.port).client("iot", config=client_config(8))


@pytest.fixture(scope="module")
def emulator(emulator_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One of this file's own: its tests look at the whole registry."""
    folder = tmp_path_factory.mktemp("emulator")
    running = emulators.start(folder, emulator_python, port=None, mqtt_port=None, before=None)
    yield running
    processes.stop(running.process)


@pytest.fixture(scope="module")
def iot(emulator: Emulator) -> Any:
    client = registry_of(emulator)
    client.create_thing_type(thingTypeName=TYPE)
    everything = {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [everything]})
    client.create_policy(policyName=POLICY, policyDocument=document)
    return client


@pytest.fixture(scope="module")
def identities(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> IdentityStore:
    store = IdentityStore(tmp_path_factory.mktemp("certs") / "store")
    write_trust_anchor(store, emulators.authority(emulator))
    store.ensure(NAMES)
    return store


@pytest.fixture(autouse=True)
def fleet(iot: Any, identities: IdentityStore) -> Iterator[None]:
    """Each test begins with the whole fleet registered, and leaves nothing behind."""
    report = register(iot, identities, NAMES, thing_type=TYPE, policy_name=POLICY)
    assert report.created == tuple(NAMES)
    yield
    identities.ensure(NAMES)
    unregister(iot, identities, [*NAMES, LATECOMER], thing_type=TYPE)
    assert iot.list_things()["things"] == []


def connect(emulator: Emulator, identity: DeviceIdentity) -> str:
    """Try to connect once as a device does; `connected`, or what the client or broker said."""
    outcome: Future[str] = Future()
    stopped: Future[None] = Future()

    def tell(text: str) -> None:
        if not outcome.done():
            outcome.set_result(text)

    def failed(data: mqtt5.LifecycleConnectFailureData) -> None:
        tell(data.connack_packet.reason_code.name if data.connack_packet else str(data.exception))

    client = mqtt5_client_builder.mtls_from_path(
        endpoint="127.0.0.1",
        port=emulator.mqtt_port,
        cert_filepath=str(identity.certificate_file),
        pri_key_filepath=str(identity.key_file),
        ca_filepath=str(identity.root_ca_file),
        client_id=identity.thing_name,
        on_lifecycle_connection_success=lambda _: tell("connected"),
        on_lifecycle_connection_failure=failed,
        on_lifecycle_stopped=lambda _: stopped.set_result(None),
    )
    client.start()
    try:
        return outcome.result(CONNECT_SECONDS)
    finally:
        client.stop()
        stopped.result(CONNECT_SECONDS)


def test_a_registered_fleet_is_what_it_should_be(iot: Any, identities: IdentityStore) -> None:
    assert sorted(thing["thingName"] for thing in iot.list_things(thingTypeName=TYPE)["things"]) == NAMES
    for name in NAMES:
        certificate_id = pem.certificate_id(identities.certificate(name))
        (arn,) = iot.list_thing_principals(thingName=name)["principals"]
        assert arn == f"arn:aws:iot:{emulators.REGION}:{emulators.ACCOUNT}:cert/{certificate_id}"
        found = iot.describe_certificate(certificateId=certificate_id)["certificateDescription"]
        assert (found["status"], found["certificateMode"]) == ("ACTIVE", "SNI_ONLY")
        assert [policy["policyName"] for policy in iot.list_attached_policies(target=arn)["policies"]] == [POLICY]
    again = register(iot, identities, NAMES, thing_type=TYPE, policy_name=POLICY)
    assert again.existing == tuple(NAMES)


def test_a_registered_device_connects(emulator: Emulator, identities: IdentityStore) -> None:
    assert connect(emulator, identities.identity(NAMES[0])) == "connected"


def test_an_unregistered_device_is_refused_until_it_is_registered(
    iot: Any, emulator: Emulator, identities: IdentityStore
) -> None:
    identities.ensure([LATECOMER])
    assert connect(emulator, identities.identity(LATECOMER)) != "connected"
    register(iot, identities, [LATECOMER], thing_type=TYPE, policy_name=POLICY)
    assert connect(emulator, identities.identity(LATECOMER)) == "connected"


def test_a_device_of_another_ca_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    somebody = IdentityStore(tmp_path / "somebody")
    write_trust_anchor(somebody, emulators.authority(emulator))
    somebody.ensure(NAMES[:1])
    assert connect(emulator, somebody.identity(NAMES[0])) != "connected"


def test_a_deactivated_device_is_refused_and_registering_again_does_not_let_it_in(
    iot: Any, emulator: Emulator, identities: IdentityStore
) -> None:
    name = NAMES[1]
    certificate_id = pem.certificate_id(identities.certificate(name))
    iot.update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
    assert connect(emulator, identities.identity(name)) == "NOT_AUTHORIZED"
    with pytest.raises(UserError, match=f"thing {name} was shut out"):
        register(iot, identities, NAMES, thing_type=TYPE, policy_name=POLICY)
    assert connect(emulator, identities.identity(name)) == "NOT_AUTHORIZED"


def test_a_replaced_certificate_lets_the_device_in_and_the_old_one_no_longer(
    iot: Any, emulator: Emulator, identities: IdentityStore, tmp_path: Path
) -> None:
    name = NAMES[2]
    old = identities.identity(name)
    kept = DeviceIdentity(name, tmp_path / "old.pem", tmp_path / "old.key", old.root_ca_file)
    kept.certificate_file.write_bytes(old.certificate_file.read_bytes())
    kept.key_file.write_bytes(old.key_file.read_bytes())
    identities.discard(name)
    identities.ensure([name])
    report = register(iot, identities, NAMES, thing_type=TYPE, policy_name=POLICY)
    assert report.repaired == (name,)
    assert connect(emulator, identities.identity(name)) == "connected"
    assert connect(emulator, kept) == "NOT_AUTHORIZED"


def test_an_unregistered_fleet_is_shut_out(iot: Any, emulator: Emulator, identities: IdentityStore) -> None:
    report = unregister(iot, identities, NAMES, thing_type=TYPE)
    assert report.removed == tuple(NAMES)
    assert connect(emulator, identities.identity(NAMES[0])) != "connected"
    assert unregister(iot, identities, NAMES, thing_type=TYPE).absent == tuple(NAMES)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_two_registrations_at_once_end_as_one(
    iot: Any, emulator: Emulator, identities: IdentityStore, concurrency: int
) -> None:
    unregister(iot, identities, NAMES, thing_type=TYPE)

    def run(client: Any) -> int:
        report = register(client, identities, NAMES, thing_type=TYPE, policy_name=POLICY, concurrency=concurrency)
        return len(report.created) + len(report.repaired) + len(report.existing)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, [registry_of(emulator), registry_of(emulator)])) == [len(NAMES), len(NAMES)]
    assert register(iot, identities, NAMES, thing_type=TYPE, policy_name=POLICY).existing == tuple(NAMES)
    active = [found for found in iot.list_certificates()["certificates"] if found["status"] == "ACTIVE"]
    assert len(active) == len(NAMES)
