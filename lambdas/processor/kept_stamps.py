"""The stamps as a running loader has them: read once, and again when a line carries none of them."""

import os
import time
from collections.abc import Callable
from typing import Self

from lambdas.shared.database import secrets_manager
from lambdas.shared.stamp import Stamps, decode_stamps

_AT_MOST_EVERY_SECONDS = 60.0


def read_stamps() -> Stamps:
    """The current version of the secret named by STAMP_SECRET_ARN.

    Raises StampSecretError when it cannot be used, and botocore's errors.
    """
    arn = os.environ["STAMP_SECRET_ARN"]
    text = secrets_manager().get_secret_value(SecretId=arn)["SecretString"]
    return decode_stamps(text, arn)


class KeptStamps(Stamps):
    """Stamps that are read again, at most once a minute, before a line is refused for want of one.

    So a stamp that was changed, or an earlier one that was added, is known within a minute, and lines that a device forged
    cost no more than one call a minute. A read that fails raises: whether the line is the rule's is then not known.
    """

    def __init__(self, read: Callable[[], Stamps] = read_stamps, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._read_at: float | None = None
        self.valid = frozenset()

    def ready(self) -> Self:
        """Itself, with the secret read at least once."""
        if self._read_at is None:
            self._read_again()
        return self

    def admits(self, stamp: object) -> bool:
        """Whether a line with this stamp is the rule's, by the secret of a minute ago at the oldest."""
        if super().admits(stamp):
            return True
        if self._read_at is not None and self._clock() - self._read_at < _AT_MOST_EVERY_SECONDS:
            return False
        self._read_again()
        return super().admits(stamp)

    def _read_again(self) -> None:
        read = self._read()
        super().__init__(read.current, *(read.valid - {read.current}))
        self._read_at = self._clock()
