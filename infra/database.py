"""The Database stack: who the functions are to TimescaleDB. The database itself is, for now, one that exists already.

Each role has a secret with the members `host`, `port`, `dbname`, `username`, `password` and `ca` (PEM of the authority
that signed the server's certificate; empty means the operating system's own authorities). The operator fills in where
the database is; passwords other than the admin's are made here and given to the database by the migrator.
"""

import json
from typing import Any

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.settings import Settings

DATABASE_NAME = "iot_analytics"


class DatabaseStack(Stack):
    """The connection secrets of the admin (used by the migrator only) and of the loader."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings, **kwargs: Any) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self.admin_secret = self._secret("Admin", "admin", "postgres", settings)
        self.loader_secret = self._secret("Loader", "loader", "iot_loader", settings)

    def _secret(self, construct_id: str, role: str, username: str, settings: Settings) -> secretsmanager.Secret:
        where = {"host": "", "port": 5432, "dbname": DATABASE_NAME, "username": username, "ca": ""}
        return secretsmanager.Secret(
            self,
            construct_id,
            secret_name=settings.names.secret(role),
            description=f"How the {role} reaches TimescaleDB; see docs/deploy.md for what to fill in",
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template=json.dumps(where),
                generate_string_key="password",
                password_length=40,
                exclude_punctuation=True,
            ),
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
