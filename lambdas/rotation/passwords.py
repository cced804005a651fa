"""What a rotation does to the database: two ways, one for the administrator and one for logins that alternate.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets_strategies.html
"""

import secrets
import string
from abc import ABC, abstractmethod

import psycopg

from lambdas.rotation.versions import RotationError
from lambdas.shared.database import DatabaseSecret, connect
from lambdas.shared.logins import (
    admin_logins,
    connect_as_admin,
    connect_as_any,
    ensure_clone,
    original_login,
    other_login,
    role_exists,
    set_login,
    set_password,
)

_APPLICATION = "iot-database-rotation"
_STATEMENT_SECONDS = 15
_ALPHABET = string.ascii_letters + string.digits


def new_password() -> str:
    """40 letters and digits: 238 bits, and nothing that any connection string would have to escape."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(40))


class Strategy(ABC):
    """How the login of a secret gets its next password."""

    @abstractmethod
    def next_username(self, current: str) -> str:
        """Whom the next version logs in as."""

    @abstractmethod
    def give(self, pending: DatabaseSecret) -> None:
        """Gives the server the pending password; again and again is as good as once."""

    def test(self, pending: DatabaseSecret) -> None:
        """Logs in as the clients will, the server's certificate verified. Raises RotationError when it fails."""
        try:
            with connect(
                pending,
                application_name=_APPLICATION,
                statement_timeout_seconds=_STATEMENT_SECONDS,
                connect_timeout_seconds=5,
            ) as connection:
                self.check(connection, pending.username)
        except psycopg.Error as error:
            raise RotationError(
                f"{pending.username} cannot use its new password at {pending.host}:{pending.port}: {_line(error)}"
            ) from None

    def check(self, connection: psycopg.Connection, username: str) -> None:
        """What the new login must be able to do."""
        connection.execute("SELECT 1")


class OwnPassword(Strategy):
    """The administrator changes its own password; only the migrator and this function use it, and both fall back."""

    def __init__(self, secret_arn: str) -> None:
        self._secret_arn = secret_arn

    def next_username(self, current: str) -> str:
        """The same."""
        return current

    def give(self, pending: DatabaseSecret) -> None:
        """Logs in with whichever password the server knows, and leaves it alone when that is the pending one."""
        try:
            connection, accepted = connect_as_any(
                [pending, *admin_logins(self._secret_arn)],
                application_name=_APPLICATION,
                statement_timeout_seconds=_STATEMENT_SECONDS,
            )
        except psycopg.OperationalError as error:
            raise RotationError(
                f"{pending.username} cannot log in at {pending.host}:{pending.port} with any password of its secret: "
                f"{_line(error)}"
            ) from None
        with connection:
            if accepted.password != pending.password:
                set_password(connection, pending.username, pending.password)


class AlternatingLogins(Strategy):
    """The login that is not in use gets a password and then takes over; connections as the other one stay good."""

    def __init__(self, admin_secret_arn: str) -> None:
        self._admin_secret_arn = admin_secret_arn

    def next_username(self, current: str) -> str:
        """The other of the two."""
        return other_login(current)

    def give(self, pending: DatabaseSecret) -> None:
        """As the administrator, who also makes the second login where a restored backup does not have it."""
        original = original_login(pending.username)
        try:
            with connect_as_admin(
                self._admin_secret_arn, application_name=_APPLICATION, statement_timeout_seconds=_STATEMENT_SECONDS
            ) as connection:
                if not role_exists(connection, original):
                    raise RotationError(f"there is no role {original}: the migrator must run before passwords rotate")
                with connection.transaction():
                    ensure_clone(connection, original)
                    set_login(connection, pending.username, pending.password)
        except psycopg.Error as error:
            raise RotationError(f"cannot give {pending.username} its new password: {_line(error)}") from None

    def check(self, connection: psycopg.Connection, username: str) -> None:
        """It must have the rights of the login that rights are granted to."""
        original = original_login(username)
        answer = connection.execute("SELECT pg_has_role(current_user, %s, 'USAGE')", (original,)).fetchone()
        if answer != (True,):
            raise RotationError(f"{username} does not have the rights of {original}")


def _line(error: psycopg.Error) -> str:
    """The fault in one line, without the statement."""
    return error.diag.message_primary or str(error).partition("\n")[0]
