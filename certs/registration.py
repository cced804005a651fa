"""Registering a fleet with AWS IoT Core: each thing, its certificate, the policy, and what holds them together.

The certificates are registered one by one without their CA (`RegisterCertificateWithoutCA`), because then nothing in
the account trusts the CA itself: a stolen CA key enrols nobody, and one identity may live in several accounts. The
price is the mode SNI_ONLY: the device must name the host in its TLS handshake, as awscrt does.
https://docs.aws.amazon.com/iot/latest/developerguide/manage-your-CA-certs.html
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509

from certs import pem
from certs.fanout import DEFAULT_CONCURRENCY, for_each_thing
from certs.registry import Certificate, IoTClient, Thing, ThingRegistry, fault
from certs.removal import RemovalReport, unregister
from certs.store import IdentityStore, Progress
from ops.errors import UserError

__all__ = ["RegistrationReport", "RemovalReport", "register", "unregister"]


@dataclass(frozen=True)
class RegistrationReport:
    """Names of the things, by what was found: nothing, everything in order, or something to complete or replace."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    repaired: tuple[str, ...]


class _Outcome(Enum):
    CREATED = "created"
    EXISTING = "existing"
    REPAIRED = "repaired"


def register(
    iot_client: IoTClient,
    store: IdentityStore,
    thing_names: Iterable[str],
    *,
    thing_type: str,
    policy_name: str,
    attributes: Mapping[str, str] | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: Progress | None = None,
    take_over: bool = False,
) -> RegistrationReport:
    """Let the devices of the store into AWS IoT Core. It may be repeated, also after it was cut off at any point.

    A thing that has another certificate of this store's CA gets the new one; the old one is deactivated and detached.
    A certificate of *another* CA is left alone unless `take_over`: its device may be alive, on somebody else's store.
    What was deactivated stays so: revocation is never undone here.

    Use a client made with `certs.registry.client_config`, which keeps to AWS's rates.

    Raises:
        UserError: an identity is missing or bad (then nothing was sent), the thing type or policy is not there (nothing
            either), a thing is of another type, revoked or of another CA (the other things are done), or AWS refuses.
    """
    names = list(dict.fromkeys(thing_names))
    certificates = {name: store.certificate(name) for name in names}
    registry = ThingRegistry(iot_client)
    try:
        _require_deployed(registry, thing_type, policy_name)
    except (ClientError, BotoCoreError) as error:
        raise fault(error, "the fleet") from error
    registration = _Registration(
        registry, store.ca_certificate(), thing_type, policy_name, dict(attributes or {}), take_over
    )
    outcomes = for_each_thing(
        names,
        lambda name: registration.register(name, certificates[name]),
        concurrency=concurrency,
        progress=progress,
    )
    found: dict[_Outcome, list[str]] = defaultdict(list)
    for name in names:
        found[outcomes[name]].append(name)
    return RegistrationReport(
        tuple(found[_Outcome.CREATED]), tuple(found[_Outcome.EXISTING]), tuple(found[_Outcome.REPAIRED])
    )


def _require_deployed(registry: ThingRegistry, thing_type: str, policy_name: str) -> None:
    if not registry.has_thing_type(thing_type):
        raise UserError(f"there is no thing type {thing_type}: deploy first (`fleet up`, or `cdk deploy` for AWS)")
    if not registry.has_policy(policy_name):
        raise UserError(f"there is no IoT policy {policy_name}: deploy first (`fleet up`, or `cdk deploy` for AWS)")


@dataclass(frozen=True)
class _Found:
    """What AWS had of one thing and its certificate before anything was written."""

    thing: Thing | None
    certificate: Certificate | None
    attached: bool
    others: tuple[Certificate, ...] = field(default=())


@dataclass(frozen=True)
class _Registration:
    registry: ThingRegistry
    ca: x509.Certificate
    thing_type: str
    policy_name: str
    attributes: Mapping[str, str]
    take_over: bool

    def register(self, name: str, own: x509.Certificate) -> _Outcome:
        """Bring one thing to where it should be; every write is one that a crash may follow."""
        found = self._look_up(name, pem.certificate_id(own))
        self._refuse_foreign_type(name, found.thing)
        self._refuse_revoked(name, found)
        self._refuse_foreign_ca(name, found)
        thing_changed = self._complete_thing(name, found.thing)
        certificate = found.certificate or self._registered(name, own)
        if not found.attached:
            self.registry.attach_certificate(name, certificate)
        # The policy comes last: no certificate has rights that is not to be found on its thing.
        policy_changed = self._complete_policy(certificate, known=found.certificate is not None)
        for old in found.others:
            self._retire(name, old)
        if found.thing is None:
            return _Outcome.CREATED
        complete = found.attached and not found.others and not thing_changed and not policy_changed
        return _Outcome.EXISTING if complete else _Outcome.REPAIRED

    def _look_up(self, name: str, own_id: str) -> _Found:
        thing = self.registry.thing(name)
        ids = self.registry.certificate_ids_of(name) if thing else []
        others = (self.registry.certificate(other) for other in ids if other != own_id)
        return _Found(
            thing=thing,
            certificate=self.registry.certificate(own_id),
            attached=own_id in ids,
            others=tuple(other for other in others if other is not None),
        )

    def _refuse_foreign_type(self, name: str, thing: Thing | None) -> None:
        if thing is not None and thing.thing_type != self.thing_type:
            raise UserError(
                f"thing {name} exists with the type {thing.thing_type or 'none'}, not {self.thing_type}: it is not of"
                " this fleet, use another --prefix"
            )

    def _refuse_revoked(self, name: str, found: _Found) -> None:
        self._refuse_inactive(name, found.certificate)
        # A new certificate for a thing that was shut out would let it in by the back door.
        if found.others and not found.attached and not any(other.active for other in found.others):
            self._refuse_inactive(name, found.others[0])

    def _refuse_inactive(self, name: str, certificate: Certificate | None) -> None:
        if certificate is not None and not certificate.active:
            raise UserError(
                f"thing {name} was shut out (its certificate is {certificate.status}) and stays so: let it in with a new"
                f" key by `fleet certs unregister --discard-keys {name}` and `fleet certs register {name}`, or with the"
                f" old one by `aws iot update-certificate --certificate-id {certificate.id} --new-status ACTIVE`"
            )

    def _refuse_foreign_ca(self, name: str, found: _Found) -> None:
        for other in found.others:
            if not self.take_over and not _issued_by(other.pem, self.ca):
                raise UserError(
                    f"thing {name} has the certificate {other.id} of another CA than that of this store: name the right"
                    " --store, or shut that certificate out with --take-over"
                )

    def _complete_thing(self, name: str, thing: Thing | None) -> bool:
        if thing is None:
            self.registry.create_thing(name, self.thing_type, self.attributes)
            return True
        if any(thing.attributes.get(key) != value for key, value in self.attributes.items()):
            self.registry.set_attributes(name, self.attributes)
            return True
        return False

    def _registered(self, name: str, own: x509.Certificate) -> Certificate:
        certificate = self.registry.register_certificate(pem.certificate_id(own), pem.certificate_pem(own))
        self._refuse_inactive(name, certificate)  # somebody else registered it in the meantime
        return certificate

    def _complete_policy(self, certificate: Certificate, *, known: bool) -> bool:
        if known and self.policy_name in self.registry.policies_of(certificate):
            return False
        self.registry.attach_policy(certificate, self.policy_name)
        return True

    def _retire(self, name: str, old: Certificate) -> None:
        # Detached last: after a crash in between, the old certificate is still found on its thing.
        if self.registry.things_of(old) == [name]:  # else another device lives by it too
            self.registry.deactivate(old)
            self.registry.detach_policy(old, self.policy_name)
        self.registry.detach_certificate(name, old)


def _issued_by(text: str, ca: x509.Certificate) -> bool:
    try:
        return pem.issued_by(x509.load_pem_x509_certificate(text.encode("ascii")), ca)
    except ValueError:
        return False
