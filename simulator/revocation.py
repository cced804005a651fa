"""Certificates revoked in the middle of a run, and what must be done before the same devices can take part in another."""

from collections.abc import Sequence
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from certs import pem
from certs.registry import IoTClient, ThingRegistry, fault
from certs.store import IdentityStore


class Revocation:
    """Deactivates certificates of the devices of a store."""

    def __init__(self, client: IoTClient, store: IdentityStore) -> None:
        self._client = client
        self._registry = ThingRegistry(client)
        self._store = store
        self.revoked: list[str] = []
        """Things whose certificate was deactivated here."""

    def __call__(self, thing_name: str) -> None:
        """Deactivate the thing's certificate, as whoever shuts out a stolen device does.

        AWS closes its connection within minutes; a new one is refused at once. Takes as long as a call to AWS takes.
        Raises `UserError`.
        """
        certificate_id = pem.certificate_id(self._store.certificate(thing_name))
        try:
            certificate = self._registry.certificate(certificate_id)
            if certificate is not None:
                self._registry.deactivate(certificate)
        except (ClientError, BotoCoreError) as error:
            raise fault(error, thing_name) from error
        self.revoked.append(thing_name)

    def restore(self, thing_names: Sequence[str]) -> None:
        """Let in again those of these things that were shut out, so that a scenario can be run a second time.

        Only for things whose revocation is part of the scenario. Raises `UserError`.
        """
        for thing_name in thing_names:
            if not self._store.certificate_file(thing_name).exists():
                continue
            certificate_id = pem.certificate_id(self._store.certificate(thing_name))
            try:
                certificate = self._registry.certificate(certificate_id)
                if certificate is not None and certificate.status == "INACTIVE":
                    self._client.update_certificate(certificateId=certificate_id, newStatus="ACTIVE")
            except (ClientError, BotoCoreError) as error:
                raise fault(error, thing_name) from error


def revocation(environment: str, store: Path | None = None) -> Revocation:
    """Revocation in an environment, of the devices of its own store or of another one."""
    from ops.aws import session_for
    from ops.paths import identity_store

    return Revocation(session_for(environment).client("iot"), IdentityStore(store or identity_store(environment)))
