"""Waiting for something to come about."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60, *, every: float = 0.1) -> None:
    """Waits until `condition` holds, asking `every` so many seconds; fails when it has not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about within {seconds} s"
        time.sleep(every)
