"""What a query has answered."""

from typing import Any

import psycopg


def single_row(answered: psycopg.Cursor) -> tuple[Any, ...]:
    """The row of an aggregate, which has always one. Raises RuntimeError when the query was none."""
    row = answered.fetchone()
    if row is None:
        raise RuntimeError("an aggregate returned no row")
    return row
