"""Who may do what in the database: each role what it must, none anything else; and nothing that nobody decided on."""

import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from lambdas.migrator.logins import CONSUMERS
from lambdas.processor.limits import Limits
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.logins import ensure_clone, set_login
from local.timescaledb.edition import is_community
from ops.devices import registry
from ops.devices.fields import DEVICES, SITES
from ops.devices.files import Entry
from ops.quarantine import refusals
from ops.quarantine.items import Filter
from ops.replay.replacement import replace_object
from tests.databases import migrated_database
from tests.functional.consumer_database import HOUR, MINUTES, READINGS, fill
from tests.functional.rollups import bring_up_to_date
from tests.functional.test_rotation_loader import rights
from tests.stamping import STAMP, STAMPS

SCHEMAS = ("public", "ingest", "rollup", "scada")
LOADER, READER, SCADA, OPERATOR = "iot_loader", "iot_reader", "iot_scada", "iot_operator"
ROLES = (LOADER, READER, SCADA, OPERATOR)


@pytest.fixture(scope="module")
def roles_dsn(server_dsn: str) -> Iterator[str]:
    """A filled database for the tests of this module, none of which changes it."""
    with migrated_database(server_dsn, f"fleet_roles_{os.getpid()}") as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            fill(connection)
        yield dsn


@pytest.fixture
def become(roles_dsn: str) -> Iterator[Callable[[str], psycopg.Connection]]:
    """A connection with the rights of a role, whatever it changes rolled back."""
    opened = []

    def become(role: str) -> psycopg.Connection:
        connection = psycopg.connect(roles_dsn)
        opened.append(connection)
        connection.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
        return connection

    yield become
    for connection in opened:
        connection.close()


MAY: dict[str, dict[str, int | None]] = {
    # Statement, and how many rows it answers with; None where that depends on what runs besides.
    READER: {
        "SELECT * FROM telemetry": READINGS,
        "SELECT * FROM telemetry_1m": READINGS,
        "SELECT * FROM telemetry_hourly": 6,
        "SELECT avg_temp, stddev_temp FROM telemetry_daily WHERE device_id = 'd-1'": None,
        "SELECT * FROM telemetry_weekly": None,
        "SELECT * FROM device_latest JOIN devices USING (device_id) LEFT JOIN sites USING (site_id)": 3,
        "SELECT * FROM metrics": 4,
        "SELECT * FROM device_metrics": 12,
        "SELECT * FROM anomalies": 1,
        "SELECT score, reason FROM data_quality WHERE device_id = 'd-1' AND received = 120": None,
        "SELECT * FROM metric_series('d-1', 'temperature', now() - interval '2 days', now())": 2,
        "SELECT * FROM trend_slope('d-1', 'temperature', now() - interval '2 days', now())": 1,
        "SELECT * FROM moving_average('d-1', 'battery', now() - interval '2 days', now(), '1 hour', 3)": 2,
        "SELECT * FROM change_against_previous('d-1', 'battery', now() - interval '2 days', now())": 1,
        "SELECT device_id, avg(low) FROM telemetry_1m, LATERAL (SELECT min_temp AS low) l GROUP BY 1": 3,
        "SELECT d.device_id, r.* FROM devices d, LATERAL (SELECT max(max_temp) FROM telemetry_1m r "
        "WHERE r.device_id = d.device_id) r": None,
        "SELECT rollup.stored_until()": 1,
        "SELECT * FROM ingest.objects": 1,
        "SELECT * FROM ingest.duplicates": 1,
        "SELECT * FROM ingest.touched": None,
        "SELECT * FROM rollup.waiting": None,
        "SELECT quarantine_id, device_id, reason, raw_bytes, resolution FROM ingest.quarantine": 1,
        "SELECT * FROM ingest.refusals": 1,
        "SELECT * FROM ingest.devices_seen": None,
        "SELECT * FROM ingest.whole_sweep": 0,
        "SELECT * FROM ingest.announced_again": 0,
        "SELECT * FROM ingest.settings": 1,
        "SELECT version, applied_at FROM ingest.migrations": None,
        "SELECT ingest.client_connections(), ingest.unarchived_wal_seconds()": 1,
        "SELECT * FROM timescaledb_information.chunks WHERE hypertable_name = 'telemetry'": None,
        "SELECT * FROM timescaledb_information.jobs": None,
        "SELECT * FROM timescaledb_information.continuous_aggregates": None,
        "SELECT hypertable_size('telemetry'), approximate_row_count('telemetry')": 1,
        "SELECT * FROM chunks_detailed_size('telemetry')": None,
        "SELECT * FROM hypertable_detailed_size('telemetry')": 1,
        "SELECT pg_database_size(current_database())": 1,
        "SELECT time_bucket('1 hour', timestamp), avg(temperature) FROM telemetry GROUP BY 1": 2,
        "SELECT * FROM scada.latest": 12,
    },
    SCADA: {
        "SELECT * FROM scada.latest_wide": 3,
        "SELECT * FROM scada.latest": 12,
        "SELECT * FROM scada.history_wide": READINGS,
        # d-3 has no humidity.
        "SELECT * FROM scada.history": READINGS * 4 - MINUTES,
        "SELECT * FROM scada.hourly": 6 * 4 - 2,
    },
    LOADER: {
        "SELECT * FROM telemetry": READINGS,
        "SELECT * FROM rollup.waiting": None,
        "SELECT rollup.take_recomputed()": 1,
        "CREATE TEMPORARY TABLE incoming (LIKE telemetry)": None,
        "INSERT INTO ingest.devices_seen VALUES ('d-9', now())": None,
        "UPDATE ingest.objects SET duplicates = duplicates": None,
    },
    OPERATOR: {
        "SELECT * FROM telemetry_hourly": 6,
        "SELECT raw, payload FROM ingest.quarantine FOR UPDATE": 1,
        "UPDATE ingest.quarantine SET resolution = 'discarded', resolved_at = now(), resolved_by = 'me'": None,
        "UPDATE anomalies SET resolved_at = now(), resolved_by = 'me' WHERE anomaly_id = 1": None,
        "UPDATE devices SET active = false WHERE device_id = 'd-3'": None,
        "INSERT INTO sites (site_id, name) VALUES ('new', 'New')": None,
        "INSERT INTO metrics VALUES ('temperature', 'oven', 'degC', 0, 400, 'of an oven')": None,
        "DELETE FROM metrics WHERE device_type = 'oven'": None,
        "UPDATE ingest.devices_seen SET retired_at = now()": None,
        "DELETE FROM telemetry WHERE object_id = 1": None,
        "SELECT ingest.refresh_latest(ARRAY['d-1'])": 1,
        "CREATE TEMPORARY TABLE redriven (LIKE telemetry)": None,
    },
}

_NOBODY = (
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/not-written'",
    "CREATE TABLE public.mine (i int)",
    "CREATE TABLE ingest.mine (i int)",
    "CREATE VIEW scada.mine AS SELECT 1",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "ALTER TABLE telemetry ADD mine int",
    "TRUNCATE telemetry",
    "DROP VIEW scada.latest",
    "SELECT drop_chunks('telemetry', now())",
    "SELECT set_chunk_time_interval('telemetry', interval '1 hour')",
    "UPDATE ingest.settings SET retention_days = 1",
    "SELECT ingest.apply_settings()",
    "CALL rollup.refresh_touched()",
    "INSERT INTO ingest.migrations VALUES (9999, 'x', 'x')",
    "SET ROLE pg_read_all_data",
    "SET ROLE grafana",
    "ALTER ROLE grafana CONNECTION LIMIT 1000",
    "GRANT iot_operator TO scada",
)
_READING_ONLY = (
    "INSERT INTO telemetry SELECT * FROM telemetry",
    "UPDATE devices SET name = 'mine'",
    "DELETE FROM telemetry",
    "DELETE FROM anomalies",
    "UPDATE anomalies SET resolved_at = now()",
    "INSERT INTO ingest.touched (first, last) VALUES (now(), now())",
    "UPDATE ingest.quarantine SET note = 'mine'",
    "SELECT raw FROM ingest.quarantine",
    "SELECT payload FROM ingest.quarantine",
    "SELECT * FROM ingest.quarantine",
    "SELECT quarantine FROM ingest.quarantine",
    "SELECT FROM telemetry WHERE object_id = 1 FOR UPDATE",
    "CREATE TEMPORARY TABLE mine (i int)",
    "SELECT ingest.refresh_latest(ARRAY['d-1'])",
    "SELECT rollup.recompute_next()",
    "SELECT rollup.drop_expired()",
    "SELECT rollup.take_recomputed()",
    "SET ROLE iot_loader",
    "SET ROLE iot_operator",
)
MAY_NOT: dict[str, tuple[str, ...]] = {
    READER: (*_NOBODY, *_READING_ONLY, "SELECT * FROM rollup.minutes"),
    SCADA: (
        *_NOBODY,
        *_READING_ONLY,
        "SELECT * FROM telemetry",
        "SELECT * FROM telemetry_hourly",
        "SELECT * FROM device_latest",
        "SELECT * FROM devices",
        "SELECT * FROM anomalies",
        "SELECT * FROM ingest.objects",
        "SELECT * FROM rollup.hours",
        "UPDATE scada.history_wide SET humidity = 0",
        "DELETE FROM scada.history_wide",
        "SELECT ingest.client_connections()",
        "SET ROLE iot_reader",
    ),
    LOADER: (
        *_NOBODY,
        "DELETE FROM telemetry",
        "DELETE FROM ingest.quarantine",
        "DELETE FROM ingest.objects",
        "UPDATE devices SET name = 'mine'",
        "UPDATE metrics SET low = 0",
        "SELECT * FROM scada.latest",
        "SET ROLE iot_operator",
    ),
    OPERATOR: (
        *_NOBODY,
        "DELETE FROM ingest.objects",
        "DELETE FROM devices",
        "DELETE FROM anomalies",
        "UPDATE telemetry SET temperature = 0",
        "SET ROLE iot_scada",
    ),
}


@pytest.mark.parametrize(("role", "statement"), [(role, each) for role, may in MAY.items() for each in may])
def test_a_role_can_do_what_it_must(role: str, statement: str, become: Callable[[str], psycopg.Connection]) -> None:
    cursor = become(role).execute(statement)
    expected = MAY[role][statement]
    if expected is not None:
        assert cursor.rowcount == expected


@pytest.mark.parametrize("role", MAY_NOT)
def test_and_nothing_else(role: str, become: Callable[[str], psycopg.Connection]) -> None:
    connection = become(role)
    allowed = []
    for statement in MAY_NOT[role]:
        try:
            with connection.transaction():
                connection.execute(statement)
        except errors.InsufficientPrivilege:
            continue
        except psycopg.Error as error:
            allowed.append(f"{statement}: {error.sqlstate} {error}")
        else:
            allowed.append(statement)
    assert allowed == []


@pytest.mark.parametrize("role", [READER, SCADA])
def test_readers_schedule_no_jobs(role: str, become: Callable[[str], psycopg.Connection]) -> None:
    connection = become(role)
    # On the Apache edition the function is there and says so.
    with pytest.raises((errors.InsufficientPrivilege, errors.FeatureNotSupported)):
        connection.execute("SELECT add_job('pg_sleep', interval '1 second')")


def test_the_operators_commands_work_with_the_operators_rights(become: Callable[[str], psycopg.Connection]) -> None:
    connection = become(OPERATOR)
    for kind, values in ((SITES, {"site_id": "new", "name": "New"}), (DEVICES, {"device_id": "d-9", "site_id": "new"})):
        changes = registry.import_entries(connection, kind, [Entry("here", values)])
        assert len(changes.new) == 1
        assert not changes.faults
    assert registry.today(connection, "d-1")["readings"] is not None
    assert len(registry.listed(connection, registry.Filter())) == 4
    [item] = refusals.listed(connection, Filter(), None)
    discarded = refusals.discard(connection, "line", [item.id.number], by="me", note=None, dry_run=False)
    assert discarded.total() == 1
    replayed = _replay(connection)
    assert replayed.before is not None
    assert (replayed.before.rows, replayed.outcome.rows, replayed.outcome.quarantined) == (READINGS, 1, 1)


def _replay(connection: psycopg.Connection) -> Any:
    """`fleet replay --force` of the object that everything is from: its readings become one, and one line."""
    lines = [
        {"device_id": "d-1", "received_at": int(HOUR.timestamp() * 1000), "stamp": STAMP} | reading
        for reading in ({"ts": int(HOUR.timestamp() * 1000), "seq": 1, "temperature": 3}, {"seq": 2})
    ]
    body = gzip.compress("\n".join(map(json.dumps, lines)).encode())
    limits = Limits.around(HOUR + timedelta(hours=3), retention_days=30, max_future_seconds=3600, stamps=STAMPS)
    return replace_object(
        connection, ObjectVersion("b", "year=2026/1.gz", "", len(body)), lambda: io.BytesIO(body), limits
    )


_PRIVILEGES = """
    SELECT format('%%I.%%I', nspname, relname), role, string_agg(left(privilege, 1), '' ORDER BY privilege)
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace, unnest(%(roles)s::text[]) role,
         unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) privilege
    WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'v', 'm', 'p', 'f')
      AND has_table_privilege(role, pg_class.oid, privilege)
      AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
    GROUP BY 1, 2
"""

DECIDED = {
    # Relation: what loader, reader, SCADA and operator may on the whole of it: S(elect), I(nsert), U(pdate), D(elete).
    "ingest.announced_again": ("DISU", "S", "", "DISU"),
    "ingest.balance": ("S", "S", "", "ISU"),
    "ingest.balance_due": ("", "S", "", "S"),
    "ingest.balance_lately": ("S", "S", "", "S"),
    "ingest.devices_seen": ("DISU", "S", "", "DISU"),
    "ingest.detector": ("ISU", "", "", "DISU"),
    "ingest.duplicates": ("DISU", "S", "", "DISU"),
    "ingest.migrations": ("", "S", "", "S"),
    "ingest.objects": ("ISU", "S", "", "ISU"),
    "ingest.quarantine": ("IS", "", "", "DISU"),
    "ingest.refusals": ("", "S", "", "S"),
    "ingest.settings": ("", "S", "", "S"),
    "ingest.touched": ("IS", "S", "", "IS"),
    "ingest.whole_sweep": ("DISU", "S", "", "DISU"),
    "public.anomalies": ("ISU", "S", "", "ISU"),
    "public.data_quality": ("", "S", "", "S"),
    "public.device_latest": ("ISU", "S", "", "ISU"),
    "public.device_types": ("", "S", "", "DISU"),
    "public.device_metrics": ("S", "S", "", "S"),
    "public.devices": ("S", "S", "", "ISU"),
    "public.metrics": ("S", "S", "", "DISU"),
    "public.sites": ("", "S", "", "ISU"),
    "public.telemetry": ("IS", "S", "", "DIS"),
    "public.telemetry_1m": ("S", "S", "", "S"),
    "public.telemetry_daily": ("", "S", "", "S"),
    "public.telemetry_hourly": ("", "S", "", "S"),
    "public.telemetry_weekly": ("", "S", "", "S"),
    "rollup.days": ("", "", "", ""),
    "rollup.hours": ("", "", "", ""),
    "rollup.levels": ("", "S", "", "S"),
    "rollup.minutes": ("S", "", "", "S"),
    "rollup.pending": ("", "", "", ""),
    "rollup.progress": ("", "", "", ""),
    "rollup.waiting": ("S", "S", "", "S"),
    "rollup.weeks": ("", "", "", ""),
    "scada.history": ("", "S", "S", "S"),
    "scada.history_wide": ("", "S", "S", "S"),
    "scada.hourly": ("", "S", "S", "S"),
    "scada.latest": ("", "S", "S", "S"),
    "scada.latest_wide": ("", "S", "S", "S"),
}


def test_somebody_has_decided_on_every_table_and_view(roles_dsn: str) -> None:
    with psycopg.connect(roles_dsn) as connection:
        relations = connection.execute(
            "SELECT format('%%I.%%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE nspname = ANY (%s) AND relkind IN ('r', 'v', 'm', 'p', 'f') "
            "AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')",
            (list(SCHEMAS),),
        ).fetchall()
        found = {name: dict.fromkeys(ROLES, "") for (name,) in relations}
        for name, role, privileges in connection.execute(_PRIVILEGES, {"roles": list(ROLES), "schemas": list(SCHEMAS)}):
            found[name][role] = privileges
    assert {name: tuple(of.values()) for name, of in found.items()} == DECIDED, (
        "a migration that makes a table or view says who may read it, and this list says so too (docs/consumers.md)"
    )


def test_nothing_of_ours_is_open_to_everybody(roles_dsn: str) -> None:
    with psycopg.connect(roles_dsn) as connection:
        anybody = connection.execute(
            "SELECT 'relation', c.oid::regclass::text FROM pg_class c, aclexplode(c.relacl) a WHERE a.grantee = 0 "
            "  AND relnamespace = ANY (%(schemas)s::regnamespace[]) "
            "  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e') "
            "UNION SELECT 'column', c.oid::regclass::text FROM pg_attribute, aclexplode(attacl) a, pg_class c "
            "  WHERE a.grantee = 0 AND c.oid = attrelid AND relnamespace = ANY (%(schemas)s::regnamespace[]) "
            "UNION SELECT 'routine', p.oid::regprocedure::text FROM pg_proc p, "
            "  aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE a.grantee = 0 "
            "  AND pronamespace = ANY (%(schemas)s::regnamespace[]) "
            "  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e') "
            "UNION SELECT 'schema', nspname || ' ' || a.privilege_type FROM pg_namespace, aclexplode(nspacl) a "
            "  WHERE a.grantee = 0 AND pg_namespace.oid = ANY (%(schemas)s::regnamespace[]) "
            "UNION SELECT 'database', a.privilege_type FROM pg_database, "
            "  aclexplode(coalesce(datacl, acldefault('d', datdba))) a WHERE a.grantee = 0 AND datname = current_database()",
            {"schemas": list(SCHEMAS)},
        ).fetchall()
    # In public TimescaleDB's own functions are, which views and queries of all roles call.
    assert set(anybody) == {("schema", "public USAGE"), ("database", "CONNECT")}


def test_functions_with_the_owners_rights_trust_no_search_path(roles_dsn: str) -> None:
    with psycopg.connect(roles_dsn) as connection:
        found = connection.execute(
            "SELECT p.oid::regprocedure::text, proconfig FROM pg_proc p WHERE prosecdef "
            "AND pronamespace = ANY (%s::regnamespace[])",
            (list(SCHEMAS),),
        ).fetchall()
    assert len(found) >= 5
    for name, settings in found:
        assert any(each.startswith("search_path=") and each.endswith("pg_temp") for each in settings or ()), name


@pytest.mark.parametrize(("login", "group", "seconds"), [("grafana", READER, 30), ("scada", SCADA, 10)])
def test_a_login_only_reads_and_is_never_in_the_way(login: str, group: str, seconds: int, roles_dsn: str) -> None:
    with psycopg.connect(roles_dsn, autocommit=True) as admin:
        set_login(admin, login, "for-this-test")
        try:
            with psycopg.connect(make_conninfo(roles_dsn, user=login, password="for-this-test")) as connection:
                row = connection.execute(
                    "SELECT current_setting('transaction_read_only'), current_setting('statement_timeout'), "
                    "current_setting('idle_in_transaction_session_timeout'), pg_has_role(%s, 'USAGE'), "
                    "(SELECT rolconnlimit BETWEEN 1 AND 10 FROM pg_roles WHERE rolname = current_user)",
                    (group,),
                ).fetchone()
                assert row in {
                    ("on", f"{seconds}s", f"{2 * seconds}s", True, True),
                    ("on", f"{seconds}s", "1min", True, True),
                }
                with pytest.raises(errors.ReadOnlySqlTransaction):
                    connection.execute("CREATE TABLE mine (i int)")
        finally:
            admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(login)))


@pytest.mark.parametrize("login", CONSUMERS)
def test_the_second_login_is_what_the_first_is(login: str, connection: psycopg.Connection) -> None:
    with connection.transaction(force_rollback=True):
        ensure_clone(connection, login)
        ensure_clone(connection, login)  # again is as good as once
        of_clone = rights(connection, f"{login}_clone")
        assert {("setting", name) for kind, name, _ in of_clone if kind == "setting"} == {("setting", "0")}
        assert of_clone == rights(connection, login)


def test_rollups_that_are_not_refreshed_yet_are_read_too(roles_dsn: str) -> None:
    """On the Community edition such buckets are computed as they are read, by functions that the reader must be allowed."""
    with psycopg.connect(roles_dsn, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO telemetry (device_id, timestamp, seq, temperature, object_id) VALUES ('fresh', now(), 1, 20, 1)"
        )
        admin.execute("INSERT INTO ingest.touched (first, last) VALUES (now(), now())")
        if not is_community(admin):
            bring_up_to_date(admin)
        try:
            for role, statement in {
                READER: "SELECT reading_count FROM telemetry_weekly WHERE device_id = 'fresh'",
                SCADA: "SELECT count FROM scada.hourly WHERE device_id = 'fresh' AND metric = 'temperature'",
            }.items():
                admin.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
                assert admin.execute(statement).fetchall() == [(1,)]
                admin.execute("RESET ROLE")
        finally:
            admin.execute("RESET ROLE")
            admin.execute("DELETE FROM telemetry WHERE device_id = 'fresh'")
            admin.execute("INSERT INTO ingest.touched (first, last) VALUES (now(), now())")
            bring_up_to_date(admin)
