"""What Grafana's container is given to read an environment's database: files under `.local/grafana`, for its user only."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from lambdas.shared.database import DatabaseSecret
from ops.errors import UserError
from ops.paths import LOCAL

LOGIN = "grafana"
"""The secret with the read-only login (docs/consumers.md)."""


@dataclass(frozen=True)
class Prepared:
    """The folder, and the file that `docker compose --env-file` takes. There is no secret in the latter."""

    folder: Path
    env_file: Path
    admin_password_file: Path


def prepare(secret: DatabaseSecret, folder: Path = LOCAL / "grafana") -> Prepared:
    """Writes password, authority and address. Raises UserError when the folder is not writable, or the authority is unknown.

    A password of Grafana's own admin is made once and kept.
    """
    if not secret.ca:
        raise UserError(
            f"the secret of {secret.host} names no authority (member ca): Grafana could not verify its server"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / "data").mkdir(mode=0o700, exist_ok=True)
        _write(folder / "password", secret.password)
        _write(folder / "ca.pem", secret.ca)
        admin = folder / "admin_password"
        if not admin.is_file():
            _write(admin, secrets.token_urlsafe(24))
        env_file = folder / "grafana.env"
        _write(env_file, _environment(secret, folder))
    except OSError as error:
        raise UserError(f"cannot write in {folder} ({error.strerror}): make it writable") from None
    return Prepared(folder, env_file, admin)


def _environment(secret: DatabaseSecret, folder: Path) -> str:
    # The container runs as who runs this, so that it can read files that nobody else can.
    values = {
        "FLEETLEDGER_FOLDER": str(folder),
        "FLEETLEDGER_USER": f"{os.getuid()}:{os.getgid()}",
        "FLEETLEDGER_DATABASE_HOST": secret.host,
        "FLEETLEDGER_DATABASE_PORT": str(secret.port),
        "FLEETLEDGER_DATABASE_NAME": secret.dbname,
        "FLEETLEDGER_DATABASE_USER": secret.username,
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _write(path: Path, text: str) -> None:
    staging = path.with_name(path.name + ".new")
    staging.unlink(missing_ok=True)
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    staging.replace(path)
