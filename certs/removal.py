"""Taking devices out of AWS IoT Core again: a test fleet that is no longer needed, or a device that is retired."""

from collections.abc import Iterable
from dataclasses import dataclass

from certs import pem
from certs.fanout import DEFAULT_CONCURRENCY, for_each_thing
from certs.registry import Certificate, IoTClient, ThingRegistry
from certs.store import IdentityStore, Progress
from ops.errors import UserError


@dataclass(frozen=True)
class RemovalReport:
    """Names of the things of which something was removed, and of those of which there was nothing."""

    removed: tuple[str, ...]
    absent: tuple[str, ...]


def unregister(
    iot_client: IoTClient,
    store: IdentityStore,
    thing_names: Iterable[str],
    *,
    thing_type: str,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: Progress | None = None,
) -> RemovalReport:
    """Deactivate, detach and delete the things' certificates, then delete the things. It may be repeated.

    The store keeps its files: `store.discard` deletes those. A certificate that another thing has too is only detached.

    Raises:
        UserError: a thing is of another type (the other things are done), or AWS refuses.
    """
    names = list(dict.fromkeys(thing_names))
    removal = _Removal(ThingRegistry(iot_client), store, thing_type)
    removed = for_each_thing(names, removal.remove, concurrency=concurrency, progress=progress)
    return RemovalReport(
        tuple(name for name in names if removed[name]), tuple(name for name in names if not removed[name])
    )


@dataclass(frozen=True)
class _Removal:
    registry: ThingRegistry
    store: IdentityStore
    thing_type: str

    def remove(self, name: str) -> bool:
        """Remove one thing; whether there was anything to remove."""
        thing = self.registry.thing(name)
        if thing is not None and thing.thing_type != self.thing_type:
            raise UserError(
                f"thing {name} has the type {thing.thing_type or 'none'}, not {self.thing_type}: it is not of this"
                " fleet and was left as it is"
            )
        certificates = self._certificates(name, exists=thing is not None)
        for certificate in certificates:
            self._remove_certificate(name, certificate)
        if thing is not None:  # last: while it is there, its certificates can be found
            self.registry.delete_thing(name)
        return thing is not None or bool(certificates)

    def _certificates(self, name: str, *, exists: bool) -> list[Certificate]:
        ids = self.registry.certificate_ids_of(name) if exists else []
        local = self.store.certificate_file(name)
        if local.exists():  # registered, perhaps, but never attached
            ids.append(pem.certificate_id(pem.read_certificate(local)))
        found = (self.registry.certificate(certificate_id) for certificate_id in dict.fromkeys(ids))
        return [certificate for certificate in found if certificate is not None]

    def _remove_certificate(self, name: str, certificate: Certificate) -> None:
        things = self.registry.things_of(certificate)
        ours_alone = things in ([], [name])
        if ours_alone:
            self.registry.deactivate(certificate)
            for policy_name in self.registry.policies_of(certificate):
                self.registry.detach_policy(certificate, policy_name)
        if name in things:
            self.registry.detach_certificate(name, certificate)
        if ours_alone:
            self.registry.delete_certificate(certificate)
