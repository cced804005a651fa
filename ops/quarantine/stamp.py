"""A message as the IoT rule would have put it into Firehose: one line, with device_id, received_at and the stamp. Pure.

The rule: `SELECT *, topic(3) AS device_id, timestamp() AS received_at, 'STAMP' AS stamp`.
"""

import base64
import json
from datetime import UTC, datetime, timedelta

import msgspec

from lambdas.shared.stamp import STAMP

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_STAMPED = ("device_id", "received_at", STAMP)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def stamped(payload: bytes, device_id: str | None, received_at: datetime, stamp: str) -> bytes:
    """The line for Firehose, without its newline.

    Every member keeps its very bytes; device_id, received_at and the stamp are ours, whatever the payload says. A payload
    that is no JSON object can carry none of them (and might hold newlines): it travels whole as `base64OriginalPayload`,
    the name that AWS gives it in a rule's error document.
    """
    received_ms = (received_at - _EPOCH) // _MILLISECOND
    text = msgspec.json.encode({"device_id": device_id, "received_at": received_ms, STAMP: stamp})
    try:
        members = _members(payload)
        kept = msgspec.json.encode({name: value for name, value in members.items() if name not in _STAMPED})
        # Outside of strings a newline is mere white space, and inside JSON does not allow one.
        return joined(kept.replace(b"\r", b" ").replace(b"\n", b" "), text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    if _is_almost_json(payload):  # NaN and Infinity, which the loader takes; the last of two members counts
        return joined(payload.replace(b"\r", b" ").replace(b"\n", b" ").strip(), text)
    return joined(msgspec.json.encode({"base64OriginalPayload": base64.b64encode(payload).decode()}), text)


def joined(first: bytes, second: bytes) -> bytes:
    """Two JSON objects as one; of a member that both have, readers take the second's."""
    first = first.strip()
    inner = first[1:-1].strip()
    return b"{" + (inner + b"," if inner else b"") + second[1:]


def _is_almost_json(payload: bytes) -> bool:
    try:
        # As the loader does; strict, so that a control character in a string is not taken.
        return isinstance(json.loads(payload.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        return False
