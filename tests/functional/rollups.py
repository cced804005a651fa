"""The rollups of a test's database, on either edition of TimescaleDB: brought up to date when the test says."""

import psycopg

from lambdas.maintenance.work import Done, maintain
from local.timescaledb.edition import is_community


def stop_refreshing(connection: psycopg.Connection) -> None:
    """Removes the Community edition's job, which would do half a minute later what a test does when it wants it."""
    if is_community(connection):
        connection.execute(
            "SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE proc_name = 'refresh_touched'"
        )


def bring_up_to_date(connection: psycopg.Connection) -> Done:
    """What runs by itself every minute: on the Community edition the database's own job, then the maintenance function."""
    if is_community(connection):
        connection.execute("CALL rollup.refresh_touched()")
    with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as own:
        own.execute("SET ROLE iot_loader")
        return maintain(own)
