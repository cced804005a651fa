"""The logins that a deployment asks for: with the passwords of their secrets, and no more connections than their share."""

import json
import os
import uuid
from typing import Any

import psycopg
from psycopg import sql

from lambdas.shared.database import DatabaseSecret, read_secret, secrets_manager
from lambdas.shared.logins import (
    ensure_clone,
    original_login,
    other_login,
    role_exists,
    set_connection_limit,
    set_login,
)

CONSUMERS = ("grafana", "scada")
"""Logins of those who only read; what they may is in migration 0014 (docs/consumers.md)."""


def keep_logins(connection: psycopg.Connection, admin: DatabaseSecret) -> None:
    """Gives the loader and the consumers that the environment names their passwords, and shuts out the other consumers.

    For each there is LOADER_SECRET_ARN, and LOADER_CONNECTION_LIMIT if it has one. Raises DatabaseSecretError when a
    secret is not filled in.
    """
    _keep_login(connection, read_secret(os.environ["LOADER_SECRET_ARN"]), os.environ.get("LOADER_CONNECTION_LIMIT"))
    for consumer in CONSUMERS:
        if arn := os.environ.get(f"{consumer.upper()}_SECRET_ARN"):
            tell_where(secrets_manager(), arn, admin)
            limit = os.environ.get(f"{consumer.upper()}_CONNECTION_LIMIT")
            _keep_login(connection, read_secret(arn), limit)
        else:
            shut_out(connection, consumer)


def _keep_login(connection: psycopg.Connection, secret: DatabaseSecret, limit: str | None) -> None:
    original = original_login(secret.username)
    if limit:
        set_connection_limit(connection, original, int(limit))
    ensure_clone(connection, original)
    # Whichever of the two is current; after a restore from a backup the server may know an older password.
    set_login(connection, secret.username, secret.password)


def shut_out(connection: psycopg.Connection, consumer: str) -> None:
    """Takes the right to log in, which a deployment before may have given, from both of a consumer's logins."""
    for role in (consumer, other_login(consumer)):
        if role_exists(connection, role):
            connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(sql.Identifier(role)))


def tell_where(client: Any, arn: str, admin: DatabaseSecret) -> None:
    """Fills in where the database is, as the admin's secret has it; a place that an operator gave is left alone."""
    held = json.loads(client.get_secret_value(SecretId=arn)["SecretString"])
    place = {"host": admin.host, "port": admin.port, "dbname": admin.dbname}
    if not held.get("host") or all(held.get(name) == value for name, value in place.items()):
        told = held | place | {"ca": admin.ca}
        if told != held:
            client.put_secret_value(SecretId=arn, SecretString=json.dumps(told), ClientRequestToken=str(uuid.uuid4()))
