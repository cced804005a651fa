"""Connections to TimescaleDB, described by a Secrets Manager secret and nothing else."""

import tempfile
from pathlib import Path
from typing import Annotated

import boto3
import msgspec
import psycopg
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


def read_secret(secret_arn: str) -> DatabaseSecret:
    """The secret's current version. Raises DatabaseSecretError when it is not filled in."""
    return decode_secret(
        boto3.client("secretsmanager").get_secret_value(SecretId=secret_arn)["SecretString"], secret_arn
    )


def decode_secret(text: str, name: str) -> DatabaseSecret:
    """The secret called `name` from its text. Raises DatabaseSecretError when it is not filled in."""
    try:
        return msgspec.json.decode(text, type=DatabaseSecret)
    except msgspec.MsgspecError as error:
        raise DatabaseSecretError(f"database secret {name} is not filled in: {error}") from None


def connect(secret: DatabaseSecret, *, application_name: str, statement_timeout_seconds: int) -> psycopg.Connection:
    """A connection with the server's certificate verified, times in UTC, and dead peers noticed within a minute.

    Raises psycopg.OperationalError when the server cannot be reached.
    """
    return psycopg.connect(
        host=secret.host,
        port=secret.port,
        dbname=secret.dbname,
        user=secret.username,
        password=secret.password,
        sslmode="verify-full",
        sslrootcert=_authority_file(secret.ca) if secret.ca else "system",
        connect_timeout=10,
        application_name=application_name,
        options=f"-c timezone=UTC -c statement_timeout={statement_timeout_seconds * 1000}",
        keepalives_idle=20,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=30_000,
    )


def _authority_file(pem: str) -> str:
    """libpq takes authorities only from a file."""
    path = Path(tempfile.gettempdir()) / f"fleetledger-ca-{abs(hash(pem)):x}.pem"
    if not path.exists():
        staging = path.with_suffix(f".{id(pem):x}")
        staging.write_text(pem)
        staging.rename(path)
    return str(path)
