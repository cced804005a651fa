"""The TCP port of the local database."""

import socket
from pathlib import Path

from local.timescaledb.connection import HOST
from ops.errors import UserError

_LOWEST, _HIGHEST = 1024, 65535


def choose_port(wanted: int | None, port_file: Path) -> int:
    """The port to listen on: `wanted`, else that of the last start when it is still free, else any free one.

    Raises UserError when `wanted` is taken or no port for an ordinary user.
    """
    if wanted is not None:
        if not _LOWEST <= wanted <= _HIGHEST:
            raise UserError(f"TimescaleDB cannot listen on port {wanted}; choose one from {_LOWEST} to {_HIGHEST}")
        if not _is_free(wanted):
            raise UserError(f"Port {wanted} on {HOST} is taken; stop what listens there or choose another port")
        return wanted
    last = read_port(port_file)
    if last is not None and _is_free(last):
        return last
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def refuse_other_port(wanted: int | None, running: int) -> None:
    """Raises UserError when another port is wanted than the one that the server listens on."""
    if wanted not in (None, running):
        raise UserError(
            f"TimescaleDB already runs on port {running}, not {wanted}; stop it first or leave the port out"
        )


def read_port(port_file: Path) -> int | None:
    """The port of the last start, or None."""
    try:
        return int(port_file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As PostgreSQL does: connections of a former server that still time out do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
