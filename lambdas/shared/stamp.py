"""The stamp: what only the IoT rule writes and only the loader knows, so that a line can be told to be the rule's own.

A rule's `SELECT *, ... AS device_id` adds members only to a payload that is JSON as a whole; any other passes as it is, and
a line of such a payload may look like a reading of any device.
https://docs.aws.amazon.com/iot/latest/developerguide/binary-payloads.html
"""

import re
from typing import Annotated

import msgspec
from msgspec import Meta

STAMP = "stamp"
"""Name of the member that carries it."""
# Without anything that SQL or JSON would have to escape, and never so short that it could be guessed.
_Stamp = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z]{24,128}\Z")]


class StampSecretError(Exception):
    """The secret cannot be used; the message says which member, never its value."""


class _Secret(msgspec.Struct, frozen=True):
    stamp: _Stamp
    earlier: list[_Stamp] = []
    """Those before it: what S3 keeps carries the stamp of its day."""


class Stamps:
    """The stamps that let a line in: the rule's own of today, and earlier ones."""

    def __init__(self, current: str, *earlier: str) -> None:
        self.current = current
        self.valid = frozenset((current, *earlier))
        values = b"|".join(value.encode() for value in sorted(self.valid))
        member = rb'"%s"\s*:\s*"(?:%s)"' % (STAMP.encode(), values)
        self._member = re.compile(rb",\s*%s|%s\s*,?\s*" % (member, member))
        self._value = re.compile(values)
        # One that is not known (any more), or the beginning of one: as if it were valid again tomorrow.
        self._other = re.compile(rb'("%s"\s*:\s*")[0-9A-Za-z]{16,}' % STAMP.encode())

    def __repr__(self) -> str:
        return f"Stamps({len(self.valid)})"

    def admits(self, stamp: object) -> bool:
        """Whether a line with this stamp is the rule's.

        A plain comparison: how long it takes cannot be seen by a device, whose message is loaded seconds later.
        """
        return isinstance(stamp, str) and stamp in self.valid

    def without(self, line: bytes) -> bytes:
        """The line as it may be shown: without the stamp, wherever in it that may be, and whosever it is."""
        return self._other.sub(rb"\1***", self._value.sub(b"***", self._member.sub(b"", line)))


def decode_stamps(text: str, name: str) -> Stamps:
    """The stamps from the text of the secret called `name`. Raises StampSecretError when it is not as it should be."""
    try:
        secret = msgspec.json.decode(text, type=_Secret)
    except msgspec.MsgspecError as error:
        raise StampSecretError(f"stamp secret {name} cannot be used: {error}") from None
    return Stamps(secret.stamp, *secret.earlier)
