"""The TCP port of the local database."""

from pathlib import Path

from local.ports import any_free, is_free
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
        if not is_free(wanted):
            raise UserError(f"Port {wanted} on {HOST} is taken; stop what listens there or choose another port")
        return wanted
    last = read_port(port_file)
    if last is not None and is_free(last):
        return last
    return any_free()


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
