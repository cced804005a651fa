"""The handler of iot-telemetry-migrator: run by the deployment; raises, and so fails the deployment, when it must."""

import json
import os
import time
from typing import Any

import psycopg
from aws_lambda_powertools import Logger

from lambdas.migrator.logins import keep_logins
from lambdas.migrator.migrate import apply_settings, migrate, read_migrations
from lambdas.shared.database import DatabaseSecretError, read_secret
from lambdas.shared.logins import connect_as_admin

logger = Logger()
_PAUSE_SECONDS = 5.0


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Migrates the schema, and gives the logins of the loader and of consumers the passwords of their secrets.

    DATABASE_WAIT_SECONDS is how long it waits for a database that is being set up; LOADER_CONNECTION_LIMIT is how many
    connections each of the loader's logins may hold, and so for each consumer; STORAGE_SETTINGS is a JSON object of
    columns of ingest.settings.
    """
    with _connect(float(os.environ.get("DATABASE_WAIT_SECONDS", "0"))) as connection:
        applied = migrate(connection, read_migrations())
        if storage := os.environ.get("STORAGE_SETTINGS"):
            apply_settings(connection, json.loads(storage))
        # Read only now: an instance that was being set up has said by now where it is.
        keep_logins(connection, read_secret(os.environ["ADMIN_SECRET_ARN"]))
    names = [f"{migration.version:04}_{migration.name}" for migration in applied]
    logger.info("schema is up to date", applied=names)
    return {"applied": names}


def _connect(patience_seconds: float) -> psycopg.Connection:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return connect_as_admin(
                os.environ["ADMIN_SECRET_ARN"], application_name="iot-telemetry-migrator", statement_timeout_seconds=540
            )
        except (DatabaseSecretError, psycopg.OperationalError) as error:
            if time.monotonic() >= deadline:
                raise
            logger.info("the database is not ready yet", detail=str(error).partition("\n")[0])
            time.sleep(_PAUSE_SECONDS)
