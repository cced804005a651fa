"""The things of AWS IoT, whose attributes `location` and `firmware` are kept as the registry has them.

`aws iot update-thing --thing-name device-00042 --attribute-payload attributes={firmware=1.4.2},merge=true` by another way.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from certs.fanout import DEFAULT_CONCURRENCY, for_each_thing
from certs.registry import ThingRegistry, client_config, fault
from certs.store import Progress
from ops.aws import session_for
from ops.devices.shadows import Reported, reported_by
from ops.errors import UserError

MIRRORED = ("location", "firmware")

Wanted = Mapping[str, Mapping[str, str | None]]
"""Per thing, what its attributes are to be; None: it is not to have that one."""


def attribute_value(text: str | None) -> str:
    """Text as an attribute may have it: what AWS does not take becomes `_`. Empty removes the attribute.

    https://docs.aws.amazon.com/iot/latest/apireference/API_AttributePayload.html
    """
    return re.sub(r"[^a-zA-Z0-9_.,@/:#=\[\]-]", "_", text or "")


@dataclass(frozen=True)
class InStep:
    """How many things were changed, were right already, and are not there."""

    updated: int
    same: int
    absent: int

    def __str__(self) -> str:
        return f"{self.updated:,} updated, {self.same:,} as they were, {self.absent:,} not registered with AWS IoT"


def bring_into_step(environment: str, wanted: Wanted, progress: Progress | None = None) -> InStep:
    """Sets the attributes of those things that exist and differ; none is created. It may be repeated.

    Raises UserError that says how many are in step and how many are not when AWS refuses or cannot be reached.
    """
    if not wanted:
        return InStep(0, 0, 0)
    client: Any = session_for(environment).client("iot", config=client_config(DEFAULT_CONCURRENCY))
    registry = ThingRegistry(client)
    done: dict[str, str] = {}

    def bring(name: str) -> None:
        thing = registry.thing(name)
        attributes = {attribute: attribute_value(text) for attribute, text in wanted[name].items()}
        if thing is None:
            done[name] = "absent"
        elif all(thing.attributes.get(attribute, "") == value for attribute, value in attributes.items()):
            done[name] = "same"
        else:
            registry.set_attributes(name, attributes)
            done[name] = "updated"

    try:
        for_each_thing(sorted(wanted), bring, concurrency=DEFAULT_CONCURRENCY, progress=progress)
    except UserError as error:
        raise UserError(
            f"the registry is saved, but of {len(wanted):,} things only {len(done):,} are in step with it: {error}"
        ) from error
    counts = Counter(done.values())
    return InStep(counts["updated"], counts["same"], counts["absent"])


@dataclass(frozen=True)
class ThingState:
    """A thing as AWS IoT has it."""

    thing_type: str | None
    attributes: Mapping[str, str]
    certificates: Mapping[str, str]
    """Status by id."""
    reported: Reported | None = None
    """What the device says of itself in its shadow; None where it has none."""


def thing_state(environment: str, name: str) -> ThingState | None:
    """The thing, its certificates and its shadow, or None when there is none. Raises UserError when AWS does not say."""
    registry = ThingRegistry(session_for(environment).client("iot"))
    try:
        thing = registry.thing(name)
        if thing is None:
            return None
        found = {identifier: registry.certificate(identifier) for identifier in registry.certificate_ids_of(name)}
    except (ClientError, BotoCoreError) as error:
        raise fault(error, f"thing {name}") from None
    certificates = {identifier: each.status if each else "gone" for identifier, each in found.items()}
    reported = reported_by(environment, [name]).get(name)
    return ThingState(thing.thing_type, thing.attributes, certificates, reported)
