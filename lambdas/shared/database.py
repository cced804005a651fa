"""Connections to TimescaleDB, described by a Secrets Manager secret and nothing else."""

import atexit
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Any, overload

import boto3
import msgspec
import psycopg
from botocore.config import Config
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]


class DatabaseSecret(msgspec.Struct, frozen=True):
    """The members of a database secret; unknown ones (such as rotation adds) are ignored."""

    host: Text
    username: Text
    password: Text
    dbname: Text = "iot_analytics"
    port: int = 5432
    ca: str = ""
    """PEM of the authority that signed the server's certificate; empty: the operating system's authorities."""

    def __repr__(self) -> str:
        return f"DatabaseSecret({self.username}@{self.host}:{self.port}/{self.dbname})"


class DatabaseSecretError(Exception):
    """The secret cannot be used; the message says which member, never its value."""


@overload
def read_secret(secret_arn: str) -> DatabaseSecret: ...
@overload
def read_secret(secret_arn: str, *, stage: str) -> DatabaseSecret | None: ...
def read_secret(secret_arn: str, *, stage: str | None = None) -> DatabaseSecret | None:
    """The secret's current version; of another stage, None when no version of it has a value.

    Raises DatabaseSecretError when it is not filled in.
    """
    client = secrets_manager()
    try:
        answer = client.get_secret_value(SecretId=secret_arn, VersionStage=stage or "AWSCURRENT")
    except client.exceptions.ResourceNotFoundException:
        if stage is None:
            raise
        return None
    # A rotation that has just begun has a version without a value.
    return decode_secret(answer["SecretString"], secret_arn) if stage is None or "SecretString" in answer else None


def secrets_manager() -> Any:
    """A client that gives up within a function's time: boto3's own patience is a minute, five times over."""
    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "max_attempts": 2})
    return boto3.client("secretsmanager", config=config)


def decode_secret(text: str, name: str) -> DatabaseSecret:
    """The secret called `name` from its text. Raises DatabaseSecretError when it is not filled in."""
    try:
        return msgspec.json.decode(text, type=DatabaseSecret)
    except msgspec.MsgspecError as error:
        raise DatabaseSecretError(f"database secret {name} is not filled in: {error}") from None


def connect(
    secret: DatabaseSecret, *, application_name: str, statement_timeout_seconds: int, connect_timeout_seconds: int = 10
) -> psycopg.Connection:
    """A connection with the server's certificate verified, times in UTC, and dead peers noticed within a minute.

    The server, too, gives up a client that is gone, since what that holds (the claim of an object) keeps all others
    waiting: one that is idle in a transaction after the time of a statement, any other after 90 s, by TCP alone. No
    timeout of PostgreSQL's ends a COPY that waits for its client. Raises psycopg.OperationalError when the server cannot
    be reached.
    """
    milliseconds = statement_timeout_seconds * 1000
    return psycopg.connect(
        host=secret.host,
        port=secret.port,
        dbname=secret.dbname,
        user=secret.username,
        password=secret.password,
        sslmode="verify-full",
        sslrootcert=_authority_file(secret.ca) if secret.ca else "system",
        connect_timeout=connect_timeout_seconds,
        application_name=application_name,
        options=f"-c timezone=UTC -c statement_timeout={milliseconds} "
        f"-c idle_in_transaction_session_timeout={milliseconds} "
        "-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
        keepalives_idle=20,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
    )


@cache
def _authority_file(pem: str) -> str:
    """libpq takes authorities only from a file: one in a folder that is ours alone, and goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="fleetledger-ca-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "ca.pem"
    path.write_text(pem)
    return str(path)
