"""What devices say of themselves in their shadows: the firmware they run, and whether they are connected."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from certs.fanout import DEFAULT_CONCURRENCY, for_each_thing
from certs.registry import client_config
from certs.store import Progress
from ops.aws import session_for
from ops.devices.fields import DEVICES


@dataclass(frozen=True)
class Reported:
    """What a device has reported. It is the device's word: nobody has checked it."""

    firmware: str | None
    """None: it has said none, or something that is none."""
    connected: bool | None

    def __str__(self) -> str:
        """As `fleet devices show` has it."""
        connection = {True: "connected", False: "not connected", None: "no word of its connection"}[self.connected]
        return f"firmware {self.firmware or 'not said'}, {connection}"


def reported_by(environment: str, names: Sequence[str], progress: Progress | None = None) -> dict[str, Reported]:
    """What the shadows of those devices say that have one.

    Raises UserError when AWS refuses or cannot be reached.
    """
    if not names:
        return {}
    client: Any = session_for(environment).client("iot-data", config=client_config(DEFAULT_CONCURRENCY))

    def read(name: str) -> Reported | None:
        try:
            payload = client.get_thing_shadow(thingName=name)["payload"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return None
            raise
        return reported(payload)

    found = for_each_thing(names, read, concurrency=DEFAULT_CONCURRENCY, progress=progress)
    return {name: each for name, each in found.items() if each is not None}


def reported(payload: bytes) -> Reported:
    """The device's word in a shadow document."""
    state: Any = json.loads(payload)
    for name in ("state", "reported"):
        state = state.get(name) if isinstance(state, dict) else None
    state = state if isinstance(state, dict) else {}
    firmware, connected = state.get("firmware"), state.get("connected")
    try:
        firmware = DEVICES.read("firmware", firmware) if isinstance(firmware, str) else None
    except ValueError:
        firmware = None
    return Reported(firmware, connected if isinstance(connected, bool) else None)
