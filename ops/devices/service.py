"""Taking devices out of service, and back: the registry's `active`, which `ingest.devices_seen.retired_at` follows.

A trigger of the database keeps the two together (migration 0013), so whoever sets `active` sets both.
"""

from collections.abc import Sequence

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from lambdas.shared.database import DatabaseSecretError
from ops.aws import aws_line
from ops.errors import UserError
from ops.target import database


def set_active(environment: str, names: Sequence[str], *, active: bool) -> int:
    """Says so of those devices that the registry has; how many it did not say it of before.

    Raises UserError when the database cannot be reached, or does not let us.
    """
    try:
        with database(environment, application_name="fleet certs") as connection:
            # Locked in the order in which loaders register devices, so that neither can deadlock.
            done = connection.execute(
                "WITH chosen AS MATERIALIZED ("
                "SELECT device_id FROM devices WHERE device_id = ANY (%(names)s) AND active <> %(active)s "
                'ORDER BY device_id COLLATE "C" FOR NO KEY UPDATE'
                ") UPDATE devices SET active = %(active)s FROM chosen WHERE devices.device_id = chosen.device_id",
                {"names": list(names), "active": active},
            )
            return done.rowcount
    except psycopg.Error as error:
        raise UserError(error.diag.message_primary or " ".join(str(error).split())) from None
    except (BotoCoreError, ClientError) as error:
        raise UserError(aws_line(error)) from None
    except DatabaseSecretError as error:
        raise UserError(str(error)) from None
