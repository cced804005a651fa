"""The superuser's password and the certificates of one local database."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from local.timescaledb.connection import HOST, SUPERUSER
from local.timescaledb.placement import Account, write_file
from local.timescaledb.tls import make_identity
from ops.errors import UserError


@dataclass(frozen=True)
class Credentials:
    """What a client needs besides the address. `pgpass_file` is in the form of libpq's PGPASSFILE."""

    password: str = field(repr=False)
    ca_file: Path
    pgpass_file: Path


def make_credentials(folder: Path, conf: Path, owner: Account | None = None) -> Credentials:
    """Make a password and certificates: the client's part in `folder`, the server's, owned by `owner`, in `conf`."""
    identity = make_identity()
    write_file(conf / "server.crt", identity.server_certificate)
    write_file(conf / "server.key", identity.server_key, private=True, owner=owner)
    write_file(folder / "ca.crt", identity.ca_certificate)
    # Any port: it may be another after a restart, and the certificate tells whether it is our server.
    write_file(folder / "pgpass", f"{HOST}:*:*:{SUPERUSER}:{secrets.token_urlsafe(24)}\n", private=True)
    return read_credentials(folder)


def have_credentials(folder: Path) -> bool:
    """Whether both files of the client are in `folder`."""
    return (folder / "pgpass").exists() and (folder / "ca.crt").exists()


def read_credentials(folder: Path) -> Credentials:
    """Raises UserError when a file is missing: the data cannot be opened without them."""
    pgpass_file, ca_file = folder / "pgpass", folder / "ca.crt"
    for path in (pgpass_file, ca_file):
        if not os.access(path, os.R_OK):
            raise UserError(
                f"{path} cannot be read, and without it the local database cannot be opened; "
                "put the file back, or destroy the database to start with an empty one"
            )
    return Credentials(pgpass_file.read_text().rstrip("\n").rpartition(":")[2], ca_file, pgpass_file)
