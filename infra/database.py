"""The Database stack: who functions and consumers are to TimescaleDB, and the database itself where it is ours.

Each role has a secret with the members `host`, `port`, `dbname`, `username`, `password` and `ca` (PEM of the authority
that signed the server's certificate; empty means the operating system's own authorities). Where the database is
somewhere else, the operator fills in where (docs/database.md); an instance of ours is known here, and fills in `ca` itself.
Passwords are made here; the migrator gives those of the loader and of consumers to the database, and tells the secrets
of consumers where it is.
"""

import json
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.constructs.retention import removal_policy
from infra.constructs.secret import KeyedSecret
from infra.network import NetworkStack
from infra.rotation import PasswordRotation
from infra.self_hosted import ADMIN_USER, DATABASE_NAME, SelfHostedDatabase
from infra.settings import Settings


class DatabaseStack(Stack):
    """The connection secrets of the admin (used by the migrator only), the loader and consumers; in a `network`, the database."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: NetworkStack | None,
        key: kms.IKey,
        access_logs: s3.IBucket,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings, self._key = settings, key
        host = settings.names.database_host if network else ""
        self.admin_secret = self._secret("Admin", "admin", ADMIN_USER, host)
        self.loader_secret = self._secret("Loader", "loader", "iot_loader", host)
        self.consumer_secrets = {name: self._secret(name.capitalize(), name, name, host) for name in settings.consumers}
        """By login."""
        self.server = (
            SelfHostedDatabase(
                self,
                "Server",
                settings=settings,
                network=network,
                key=key,
                access_logs=access_logs,
                admin_secret=self.admin_secret,
                loader_secret=self.loader_secret,
            )
            if network
            else None
        )
        """None where the database is somewhere else."""
        if settings.rotate_passwords_days is not None:
            PasswordRotation(
                self,
                "Passwords",
                settings=settings,
                network=network.functions if network else None,
                key=key,
                admin_secret=self.admin_secret,
                secrets=[self.loader_secret, *self.consumer_secrets.values()],
            )

    def _secret(self, construct_id: str, role: str, username: str, host: str) -> KeyedSecret:
        where = {"host": host, "port": 5432, "dbname": DATABASE_NAME, "username": username, "ca": ""}
        return KeyedSecret(
            self,
            construct_id,
            secret_name=self._settings.names.secret(role),
            description=f"How the {role} reaches TimescaleDB; docs/database.md says who fills in what",
            key=self._key,
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=json.dumps(where),
                generate_string_key="password",
                password_length=40,
                exclude_punctuation=True,
            ),
            removal_policy=(removal_policy(self._settings)),
        )
