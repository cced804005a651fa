"""The order as SQL: which columns, which rows, and each value as a text that CSV and Parquet are both made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import psycopg
from psycopg import sql

from lambdas.shared.contract import METRICS
from ops.errors import UserError
from ops.export.order import Order

_TIMESTAMPTZ, _BOOL = 1184, 16


@dataclass(frozen=True)
class Column:
    """A column of the result."""

    name: str
    type_oid: int
    """As pg_type has it."""


@dataclass(frozen=True)
class Query:
    """What is asked of the server."""

    columns: Sequence[Column]
    copy: sql.Composed
    """COPY ... TO STDOUT, as CSV without a header."""


def build(connection: psycopg.Connection, order: Order, environment: str) -> Query:
    """The query of an order. Raises UserError when a device or site is not there."""
    columns = _columns(connection, order)
    select = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(_expression(column) for column in columns),
        sql.Identifier(order.table.relation),
        sql.SQL(" AND ").join(_conditions(order, _devices(connection, order, environment))),
    )
    return Query(columns, sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(select))


def _columns(connection: psycopg.Connection, order: Order) -> list[Column]:
    """All columns, less those of metrics that were not asked for."""
    table = order.table
    left_out: set[str] = set()
    if order.metrics:
        left_out = set().union(*(table.columns_of(m.name) for m in METRICS if m.name not in order.metrics))
    cursor = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table.relation)))
    return [Column(c.name, c.type_code) for c in cursor.description or () if c.name not in left_out]


def _expression(column: Column) -> sql.Composable:
    name = sql.Identifier(column.name)
    if column.type_oid == _TIMESTAMPTZ:
        # What COPY itself would write has a blank for the T, and an offset of two digits.
        return sql.SQL("to_char({} AT TIME ZONE 'UTC', {})").format(name, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    return sql.SQL("{}::text").format(name) if column.type_oid == _BOOL else name


def _devices(connection: psycopg.Connection, order: Order, environment: str) -> list[str] | None:
    """The devices whose rows are wanted; None: all."""
    if order.site is not None:
        if connection.execute("SELECT FROM sites WHERE site_id = %s", [order.site]).fetchone() is None:
            raise UserError(
                f"--site {order.site}: there is no such site in {environment}: fleet devices sites lists them"
            )
    elif not order.devices:
        return None
    found = connection.execute(
        "SELECT device_id, site_id FROM devices WHERE device_id = ANY (%(devices)s) "
        "OR (site_id = %(site)s AND cardinality(%(devices)s::text[]) = 0)",
        {"devices": list(order.devices), "site": order.site},
    ).fetchall()
    sites: dict[str, str | None] = dict(found)
    for device in order.devices:
        if device not in sites:
            raise UserError(
                f"--device {device}: there is no such device in {environment}: fleet devices list shows those that there are"
            )
        if order.site is not None and sites[device] != order.site:
            raise UserError(f"--device {device} is not at --site {order.site}")
    return list(sites)


def _conditions(order: Order, devices: list[str] | None) -> list[sql.Composed]:
    table, column = order.table, sql.Identifier(order.table.time)
    bounds = ((sql.SQL(">="), order.start), (sql.SQL("<"), order.end))
    conditions = [
        sql.SQL("{} {} {}").format(column, operator, sql.Literal(_first_day(bound) if table.days else bound))
        for operator, bound in bounds
        if bound is not None
    ]
    if devices is not None:
        conditions.append(sql.SQL("device_id = ANY ({})").format(sql.Literal(devices)))
    if table.metrics == "rows" and order.metrics:
        conditions.append(sql.SQL("metric = ANY ({})").format(sql.Literal(list(order.metrics))))
    return conditions


def _first_day(bound: datetime) -> date:
    """The first day whose midnight is not before `bound`."""
    day = bound.astimezone(UTC).date()
    return day if datetime.combine(day, time(), UTC) == bound else day + timedelta(days=1)
