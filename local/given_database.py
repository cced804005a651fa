"""A database that the user brings: a DSN in the form libpq takes."""

from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from lambdas.shared.database import DatabaseSecret
from ops.errors import UserError


def parse_dsn(dsn: str) -> DatabaseSecret:
    """The secret that says the same as `dsn` (`postgresql://user:password@host:port/dbname?sslrootcert=ca.pem`).

    Raises UserError when a part is missing. The connection is always TLS with the certificate verified.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items() if value is not None}
    except psycopg.ProgrammingError as error:
        raise UserError(f"the database URL is not readable: {str(error).strip()}") from None
    missing = [name for name in ("host", "user", "password", "dbname") if not parts.get(name)]
    if missing:
        raise UserError(
            f"the database URL lacks {', '.join(missing)}: write postgresql://USER:PASSWORD@HOST:PORT/DBNAME?sslrootcert=FILE"
        )
    ca = ""
    root = parts.get("sslrootcert", "system")
    if root != "system":
        try:
            ca = Path(root).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"sslrootcert {root} in the database URL: {error.strerror}") from None
    return DatabaseSecret(
        host=parts["host"],
        port=int(parts.get("port", 5432)),
        dbname=parts["dbname"],
        username=parts["user"],
        password=parts["password"],
        ca=ca,
    )
