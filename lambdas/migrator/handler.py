"""The handler of iot-telemetry-migrator: run by the deployment; raises, and so fails the deployment, when it must."""

import os
from typing import Any

from aws_lambda_powertools import Logger

from lambdas.migrator.migrate import migrate, read_migrations, set_login
from lambdas.shared.database import connect, read_secret

logger = Logger()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Migrates the schema and gives the loader's role the password of its secret."""
    admin = read_secret(os.environ["ADMIN_SECRET_ARN"])
    loader = read_secret(os.environ["LOADER_SECRET_ARN"])
    with connect(admin, application_name="iot-telemetry-migrator", statement_timeout_seconds=540) as connection:
        applied = migrate(connection, read_migrations())
        set_login(connection, loader.username, loader.password)
    names = [f"{migration.version:04}_{migration.name}" for migration in applied]
    logger.info("schema is up to date", applied=names)
    return {"applied": names}
