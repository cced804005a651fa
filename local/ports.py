"""Free ports on the loopback interface."""

import socket

from ops.errors import UserError

_LOOPBACK = "127.0.0.1"


def choose(given: int | None, *, what: str, preferred: int | None = None) -> int:
    """The port given, else the preferred one if it is free, else any free one.

    Raises UserError when the port given is taken.
    """
    if given is not None:
        if not is_free(given):
            raise UserError(f"port {given} for {what} is taken: give another one, or none for a free one")
        return given
    if preferred is not None and is_free(preferred):
        return preferred
    return any_free()


def any_free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether a server can listen on `port`. Raises UserError when it is no port."""
    if not 0 < port < 65536:
        raise UserError(f"{port} is not a port: use 1 to 65535")
    with socket.socket() as probe:
        # As servers do: connections of a former one that still time out do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
        return True
