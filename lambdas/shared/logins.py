"""What the database's administrator does with logins: gets in, whatever a rotation left half done, and sets passwords."""

from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
import psycopg
from psycopg import sql

from lambdas.shared.database import DatabaseSecret, connect, read_secret

_CLONE = "_clone"


def other_login(login: str) -> str:
    """The login that alternates with this one: `iot_loader_clone` with `iot_loader`."""
    return login.removesuffix(_CLONE) if login.endswith(_CLONE) else login + _CLONE


def original_login(login: str) -> str:
    """The one of the two that rights are granted to."""
    return login.removesuffix(_CLONE)


def set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Sets a password, which reaches the server only as a SCRAM verifier and never its log."""
    connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), _verifier(connection, role, password))
    )


def set_login(connection: psycopg.Connection, role: str, password: str) -> None:
    """Lets `role` log in with `password`, as `set_password` sets it."""
    connection.execute(
        sql.SQL("ALTER ROLE {} WITH LOGIN PASSWORD {}").format(
            sql.Identifier(role), _verifier(connection, role, password)
        )
    )


def _verifier(connection: psycopg.Connection, role: str, password: str) -> sql.Literal:
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return sql.Literal(verifier.decode())


def role_exists(connection: psycopg.Connection, role: str) -> bool:
    """Whether the server knows a role."""
    return connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is not None


def ensure_clone(connection: psycopg.Connection, original: str) -> None:
    """Makes the second login if there is none: the rights of the first by membership, the same limit and settings."""
    clone = original + _CLONE
    names = {"original": sql.Identifier(original), "clone": sql.Identifier(clone)}
    if not role_exists(connection, clone):
        connection.execute(sql.SQL("CREATE ROLE {clone} NOLOGIN").format(**names))
    connection.execute(sql.SQL("GRANT {original} TO {clone}").format(**names))
    limit = connection.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname = %s", (original,)).fetchone()
    assert limit is not None  # noqa: S101 - for the type checker: it has just been granted
    set_connection_limit(connection, clone, limit[0])
    # Membership does not pass them on: https://www.postgresql.org/docs/current/sql-alterrole.html
    for setting in connection.execute(
        "SELECT setting FROM pg_db_role_setting, unnest(setconfig) WITH ORDINALITY AS each(setting, position) "
        "WHERE setrole = %s::regrole AND setdatabase = 0 AND setting NOT IN (SELECT unnest(setconfig) "
        "FROM pg_db_role_setting WHERE setrole = %s::regrole AND setdatabase = 0) ORDER BY position",
        (original, clone),
    ).fetchall():
        name, _, value = setting[0].partition("=")
        connection.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(clone), sql.Identifier(name), sql.Literal(value))
        )


def set_connection_limit(connection: psycopg.Connection, role: str, connections: int) -> None:
    """How many connections `role` may hold at once; -1: as many as there are."""
    connection.execute(
        sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(role), sql.Literal(connections))
    )


def connect_as_any(
    candidates: Iterable[DatabaseSecret], *, application_name: str, statement_timeout_seconds: int
) -> tuple[psycopg.Connection, DatabaseSecret]:
    """A connection as the first of the candidates that the server lets in, and which one that was.

    Raises psycopg.OperationalError with the server's answer to the first when it refuses all, and at once when the
    fault is not the password's: another one would not help.
    """
    refusal: psycopg.OperationalError | None = None
    for candidate in dict.fromkeys(candidates):
        try:
            connection = connect(
                candidate,
                application_name=application_name,
                statement_timeout_seconds=statement_timeout_seconds,
                connect_timeout_seconds=5,
            )
        except psycopg.OperationalError as error:
            refusal = refusal or error
            if error.pgconn is None or not error.pgconn.used_password:
                raise
        else:
            return connection, candidate
    assert refusal is not None  # noqa: S101 - callers have at least one candidate
    raise refusal


def admin_logins(secret_arn: str) -> Iterator[DatabaseSecret]:
    """The passwords that the administrator may have, the likeliest first; later ones are read only when asked for.

    AWSPENDING is the one when a rotation has set it and not come to its end; AWSPREVIOUS when the server was restored
    from a backup taken before the last rotation, or somebody stored an older text of the secret.
    """
    current = read_secret(secret_arn)
    yield current
    for stage in ("AWSPENDING", "AWSPREVIOUS"):
        found = read_secret(secret_arn, stage=stage)
        if found is not None:
            # Where the database is, and who vouches for it, is for the current version to say.
            yield msgspec.structs.replace(current, username=found.username, password=found.password)


def connect_as_admin(secret_arn: str, *, application_name: str, statement_timeout_seconds: int) -> psycopg.Connection:
    """A connection as the administrator, in autocommit mode, whatever state a rotation or a restored backup left.

    When the server knows only the password of AWSPREVIOUS, it is given the current one: nothing else would.
    Raises DatabaseSecretError when the secret is not filled in, psycopg.OperationalError when the server lets none in.
    """
    logins = admin_logins(secret_arn)
    current = next(logins)
    connection, accepted = connect_as_any(
        chain([current], logins),
        application_name=application_name,
        statement_timeout_seconds=statement_timeout_seconds,
    )
    connection.autocommit = True
    if accepted != current:
        pending = read_secret(secret_arn, stage="AWSPENDING")
        if accepted.username == current.username and (pending is None or accepted.password != pending.password):
            set_password(connection, current.username, current.password)
    return connection
