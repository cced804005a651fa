"""TimescaleDB's editions: https://docs.timescale.com/about/latest/timescaledb-editions/"""

import psycopg


def is_community(connection: psycopg.Connection) -> bool:
    """Whether the server has what the Apache edition has not: jobs, compression, continuous aggregates."""
    row = connection.execute("SELECT current_setting('timescaledb.license')").fetchone()
    return row == ("timescale",)
