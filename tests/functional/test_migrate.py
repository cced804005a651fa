"""Migrations against a real TimescaleDB: each once, in order, under a lock, and never half of one."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from lambdas.migrator.migrate import Migration, MigrationError, migrate, read_migrations
from lambdas.shared.logins import set_login


@pytest.fixture
def empty_dsn(server_dsn: str) -> Iterator[str]:
    name = "fleet_test_migrations"
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(server_dsn, dbname=name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def tables(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'ingest')")
    return {row[0] for row in rows}


def test_the_schema_is_made_once(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        assert migrate(connection, read_migrations()) == read_migrations()
        assert tables(connection) >= {"telemetry", "objects", "quarantine", "migrations"}
        assert migrate(connection, read_migrations()) == []
        hypertables = connection.execute(
            "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'public'"
        ).fetchall()
        assert hypertables == [("telemetry",)]


def test_several_at_once_apply_each_migration_once(empty_dsn: str) -> None:
    def attempt(_: int) -> int:
        with psycopg.connect(empty_dsn) as connection:
            return len(migrate(connection, read_migrations()))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == [0, 0, 0, len(read_migrations())]


def test_a_migration_that_fails_leaves_nothing_and_the_ones_before_it(empty_dsn: str) -> None:
    good = Migration(1, "good", "CREATE TABLE one (i int);")
    bad = Migration(2, "bad", "CREATE TABLE two (i int); SELECT 1/0;")
    with psycopg.connect(empty_dsn) as connection:
        with pytest.raises(MigrationError, match="migration 0002_bad failed: division by zero"):
            migrate(connection, [good, bad])
        assert tables(connection) == {"migrations", "one"}
        mended = Migration(2, "bad", "CREATE TABLE two (i int);")
        assert migrate(connection, [good, mended]) == [mended]


def test_a_migration_that_meets_a_job_of_the_database_is_applied_after_it(empty_dsn: str) -> None:
    made = Migration(1, "made", "CREATE TABLE one (i int);")
    granted = Migration(2, "granted", "CREATE TABLE two (i int); GRANT SELECT ON one TO iot_loader;")
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with (
        psycopg.connect(empty_dsn, autocommit=True) as connection,
        psycopg.connect(empty_dsn) as job,
        ThreadPoolExecutor(1) as pool,
    ):
        connection.execute("DO $$ BEGIN CREATE ROLE iot_loader; EXCEPTION WHEN duplicate_object THEN END $$")
        migrate(connection, [made])
        job.execute("GRANT SELECT ON one TO PUBLIC")
        migrating = pool.submit(migrate, connection, [made, granted])
        deadline = time.monotonic() + 20
        while job.execute(waits).fetchone() != (1,) and time.monotonic() < deadline:
            time.sleep(0.02)
        job.commit()  # and PostgreSQL tells the migration: tuple concurrently updated
        assert migrating.result(20) == [granted]
        assert tables(connection) == {"migrations", "one", "two"}


def test_a_migration_changed_after_it_was_applied_is_refused(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        migrate(connection, [Migration(1, "first", "SELECT 1;")])
        with pytest.raises(MigrationError, match="0001_first was changed after it was applied"):
            migrate(connection, [Migration(1, "first", "SELECT 2;")])


def test_a_database_that_is_ahead_is_refused(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        migrate(connection, [Migration(1, "a", "SELECT 1;"), Migration(2, "b", "SELECT 2;")])
        with pytest.raises(MigrationError, match="at migration 0002, which this release does not have"):
            migrate(connection, [Migration(1, "a", "SELECT 1;")])


def test_numbers_without_gaps(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("")
    (tmp_path / "0003_b.sql").write_text("")
    with pytest.raises(MigrationError, match=r"0003_b.sql: expected number 0002"):
        read_migrations(tmp_path)


def test_the_loader_logs_in_with_the_password_of_its_secret(database_dsn: str, connection: psycopg.Connection) -> None:
    password = 'it\'s a \\ "secret"'
    set_login(connection, "iot_loader", password)
    as_loader = make_conninfo(database_dsn, user="iot_loader", password=password)
    with psycopg.connect(as_loader) as own:
        assert own.execute("SELECT current_user").fetchone() == ("iot_loader",)
    stored = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'iot_loader'").fetchone()
    assert stored is not None
    assert stored[0].startswith("SCRAM-SHA-256$")
