"""Thing names: which ones AWS accepts, and the ones a fleet of ours is given."""

import re

from ops.errors import UserError

# https://docs.aws.amazon.com/iot/latest/apireference/API_CreateThing.html
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


def valid_thing_name(name: str) -> str:
    """Return `name` if AWS IoT accepts it as a thing name.

    The rule also keeps a name from being a path: it has neither `/` nor `.`.

    Raises:
        UserError: the name is empty, too long, or has a character that AWS does not allow.
    """
    if _THING_NAME.fullmatch(name) is None:
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise UserError(f"{shown!r} is no thing name: use 1 to 128 of the characters a-z A-Z 0-9 : _ -")
    return name


def thing_names(count: int, prefix: str = "device-", start: int = 1) -> list[str]:
    """The names of a fleet: `device-00001`, `device-00002`, ... (five digits, more where five do not do).

    Raises:
        UserError: `count` is below 1, `start` is negative, or the prefix makes names that AWS does not accept.
    """
    if count < 1:
        raise UserError(f"a device count of {count} is no fleet: use 1 or more")
    if start < 0:
        raise UserError(f"device numbers cannot start at {start}: use 0 or more")
    valid_thing_name(f"{prefix}{start + count - 1:05d}")
    return [f"{prefix}{number:05d}" for number in range(start, start + count)]
