"""The database part of the instance's bootstrap, run for real: the cluster, its certificate, who gets in, its settings."""

import json
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509

from lambdas.migrator.migrate import migrate, read_migrations
from local.session import AwsSession
from local.state import Emulator
from tests.functional.conftest import wait_until
from tests.functional.instance_sandbox import (
    HOST,
    PGBACKREST_FOLDER,
    Instance,
    install_pgbackrest,
    make_secrets,
    metadata_service,
    sandbox,
    secret,
)

_DATABASE_PART = ("bootstrap.sh", "database")


@pytest.fixture(scope="module")
def instance(timescaledb_dist: Path, emulator: Emulator, aws: AwsSession) -> Iterator[Instance]:
    """An instance whose database part has been set up once."""
    pgbackrest = install_pgbackrest(PGBACKREST_FOLDER)
    secrets = make_secrets(aws, f"instance-{os.getpid()}")
    with (
        metadata_service() as metadata,
        sandbox(timescaledb_dist, pgbackrest, metadata, emulator.port, secrets) as made,
    ):
        made.run(*_DATABASE_PART)
        yield made


@pytest.fixture
def password(instance: Instance, aws: AwsSession) -> str:
    """The admin's."""
    found: str = secret(aws, instance.settings["ADMIN_SECRET_ARN"])["password"]
    return found


def _query(instance: Instance, password: str, query: str) -> Any:
    with instance.connect(password) as connection:
        return connection.execute(query.encode()).fetchall()


def _certificate(instance: Instance) -> x509.Certificate:
    """What the server shows to a client that verifies it. https://www.postgresql.org/docs/17/protocol-flow.html"""
    context = ssl.create_default_context(cafile=str(instance.volume / "tls" / "ca.crt"))
    with socket.create_connection(("127.0.0.1", instance.port), timeout=10) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname=HOST) as encrypted:
            shown = encrypted.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def test_the_deployment_hears_that_it_is_ready(instance: Instance) -> None:
    signal, headers = instance.metadata.signals[0]
    assert signal["Status"] == "SUCCESS"
    assert not headers.get("content-type")


def test_the_admin_connects_with_the_server_verified(instance: Instance, password: str, aws: AwsSession) -> None:
    published = secret(aws, instance.settings["LOADER_SECRET_ARN"])["ca"]
    assert published == (instance.volume / "tls" / "ca.crt").read_text()
    assert _query(instance, password, "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [
        (True, "TLSv1.3")
    ]
    assert _query(instance, password, "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'") == [(1,)]
    assert _query(instance, password, "SHOW data_checksums") == [("on",)]


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"sslmode": "disable"}, "pg_hba.conf rejects connection"),
        ({"password": "wrong"}, "password authentication failed"),
        ({"host": "elsewhere.internal"}, 'does not match host name "elsewhere.internal"'),
        ({"sslrootcert": "{other}"}, "certificate verify failed"),
    ],
)
def test_nobody_else_gets_in(
    instance: Instance, password: str, tmp_path: Path, others: dict[str, str], reason: str
) -> None:
    other = instance.bash(f"TLS_FOLDER={tmp_path}/tls make_authority")
    assert other.returncode == 0, other.stderr
    values = {name: value.format(other=tmp_path / "tls" / "ca.crt") for name, value in others.items()}
    with pytest.raises(psycopg.OperationalError, match=reason):
        instance.connect(**({"password": password} | values))


def test_a_client_outside_the_vpc_is_turned_away(instance: Instance, password: str) -> None:
    try:
        instance.run(*_DATABASE_PART, VPC_CIDR="10.42.0.0/16")
        with pytest.raises(psycopg.OperationalError, match="rejects connection"):
            instance.connect(password)
    finally:
        instance.run(*_DATABASE_PART)
    assert _query(instance, password, "SELECT 1") == [(1,)]


def test_keys_are_private(instance: Instance) -> None:
    modes = {name: (instance.volume / "tls" / name).stat() for name in ("ca.key", "server.key")}
    assert {name: oct(found.st_mode & 0o777) for name, found in modes.items()} == {
        "ca.key": "0o600",
        "server.key": "0o600",
    }
    assert modes["ca.key"].st_uid == os.getuid()
    assert modes["server.key"].st_uid == instance.data.stat().st_uid


def test_a_second_run_changes_nothing(instance: Instance, password: str, aws: AwsSession) -> None:
    def state() -> Any:
        watched = [
            *(instance.volume / "tls").iterdir(),
            *(instance.root / "etc").rglob("*.conf"),
            *(instance.root / "units").glob("*.service"),
        ]
        return (
            {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in watched},
            _query(instance, password, "SELECT pg_postmaster_start_time(), system_identifier FROM pg_control_system()"),
            _query(instance, password, "SELECT rolname, rolpassword FROM pg_authid"),
            secret(aws, instance.settings["ADMIN_SECRET_ARN"]),
        )

    before = state()
    done = instance.run(*_DATABASE_PART)
    assert [line.split(" ", 1)[1] for line in done.stdout.splitlines()] == ["the database is ready"]
    assert state() == before


def test_the_schema_migrates_and_a_new_instance_with_the_old_volume_has_it_all(
    instance: Instance, password: str, aws: AwsSession
) -> None:
    with psycopg.connect(instance.dsn(password)) as connection:
        migrate(connection, read_migrations())
        connection.execute("INSERT INTO ingest.objects (bucket, key, status) VALUES ('bucket', 'kept', 'loaded')")
        connection.commit()
    authority = (instance.volume / "tls" / "ca.crt").read_text()
    instance.replace()
    instance.run(*_DATABASE_PART)
    assert _query(instance, password, "SELECT key FROM ingest.objects") == [("kept",)]
    assert (instance.volume / "tls" / "ca.crt").read_text() == authority
    # The loader's role has been made by the migrations: from now on it gets the password of its secret.
    loader = secret(aws, instance.settings["LOADER_SECRET_ARN"])
    with psycopg.connect(instance.dsn(password), autocommit=True) as connection:
        connection.execute("ALTER ROLE iot_loader LOGIN")
    with instance.connect(loader["password"], user="iot_loader") as connection:
        assert connection.execute("SELECT count(*) FROM ingest.objects").fetchone() == (1,)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_new_instance_may_number_its_users_differently(instance: Instance, password: str) -> None:
    before = _query(instance, password, "SELECT system_identifier FROM pg_control_system()")
    instance.replace()
    for path in (instance.volume / "17", *(instance.volume / "17").rglob("*"), instance.volume / "tls" / "server.key"):
        os.chown(path, 12345, 12345)
    instance.run(*_DATABASE_PART)
    assert _query(instance, password, "SELECT system_identifier FROM pg_control_system()") == before


def test_the_extension_follows_the_packages(instance: Instance, password: str) -> None:
    """Timescale's packages bring the library of one version: a database that is at another answers no query."""
    newest = _query(instance, password, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    with instance.connect(password) as connection:
        connection.execute(
            "WITH recorded AS (UPDATE _timescaledb_catalog.metadata SET value = '2.19.2' WHERE key = 'timescaledb_version')"
            " UPDATE pg_extension SET extversion = '2.19.2' WHERE extname = 'timescaledb'"
        )
    with pytest.raises(psycopg.errors.UndefinedFile):
        _query(instance, password, "SELECT 1")
    output = instance.run(*_DATABASE_PART).stdout
    assert "updating the extension timescaledb from 2.19.2" in output
    assert _query(instance, password, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'") == newest


def test_a_changed_password_is_taken_over_and_never_logged(instance: Instance, password: str, aws: AwsSession) -> None:
    arn = instance.settings["ADMIN_SECRET_ARN"]
    client = aws.client("secretsmanager")
    value = secret(aws, arn)
    try:
        client.put_secret_value(SecretId=arn, SecretString=json.dumps(value | {"password": "changedPassword1"}))
        output = instance.run(*_DATABASE_PART).stdout
        assert "gave postgres the password of its secret" in output
        assert _query(instance, "changedPassword1", "SELECT 1") == [(1,)]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            instance.connect(password)
        assert "changedPassword1" not in instance.log + output
        assert "SCRAM-SHA-256$" not in instance.log + output
    finally:
        client.put_secret_value(SecretId=arn, SecretString=json.dumps(value))
        instance.run(*_DATABASE_PART)


def test_the_log_holds_connections_and_no_values(instance: Instance, password: str) -> None:
    with instance.connect(password) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        connection.execute("SELECT * FROM no_such_table WHERE device_id = %s", ("device-secret-value",))
    # What the loader's COPY meets when a reading was there already.
    with instance.connect(password) as connection:
        connection.execute("CREATE TEMPORARY TABLE once (device_id text UNIQUE)")
        with pytest.raises(psycopg.errors.UniqueViolation), connection.cursor().copy("COPY once FROM STDIN") as copy:
            copy.write(b"device-secret-value\n" * 2)
    log = instance.log
    assert "connection authorized: user=postgres" in log
    assert 'relation "no_such_table" does not exist' in log
    assert "duplicate key value violates unique constraint" in log
    assert "device-secret-value" not in log
    assert "SELECT * FROM no_such_table" not in log


def test_a_certificate_is_renewed_in_time_and_sessions_go_on(instance: Instance, password: str) -> None:
    with instance.connect(password) as session:
        started = session.execute("SELECT pg_postmaster_start_time()").fetchone()
        assert _certificate(instance).not_valid_after_utc - datetime.now(UTC) > timedelta(days=300)
        short = instance.bash('rm "$TLS_FOLDER/server.crt"; CERTIFICATE_DAYS=59; renew_certificate; reload_server')
        assert short.returncode == 0, short.stderr
        _wait_for_expiry(instance, lambda left: left < timedelta(days=60))

        assert "made a certificate for" in instance.run("certificate.sh").stdout
        _wait_for_expiry(instance, lambda left: left > timedelta(days=300))
        assert session.execute("SELECT pg_postmaster_start_time()").fetchone() == started
        assert instance.run("certificate.sh").stdout == ""
    names = _certificate(instance).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == [HOST]


def _wait_for_expiry(instance: Instance, holds: Any) -> None:
    wait_until(lambda: bool(holds(_certificate(instance).not_valid_after_utc - datetime.now(UTC))), "the certificate")


_EXPECTED = {
    ("4096", "2", "60"): {
        "shared_buffers": "1GB",
        "effective_cache_size": "3GB",
        "work_mem": "8738kB",
        "maintenance_work_mem": "256MB",
        "max_wal_size": "4GB",
        "max_connections": "60",
        "max_worker_processes": "21",
        "max_parallel_workers_per_gather": "1",
    },
    ("8192", "4", "200"): {
        "shared_buffers": "2GB",
        "effective_cache_size": "6GB",
        "work_mem": "5242kB",
        "maintenance_work_mem": "512MB",
        "max_wal_size": "8GB",
        "max_connections": "200",
        "max_worker_processes": "23",
        "max_parallel_workers_per_gather": "2",
    },
}
_ALWAYS = {
    "jit": "off",
    "timescaledb.telemetry_level": "off",
    "timescaledb.max_background_workers": "16",
    "random_page_cost": "1.1",
    "huge_pages": "try",
    "wal_compression": "lz4",
    "checkpoint_timeout": "15min",
    "archive_mode": "on",
    "archive_timeout": "1min",
    "hot_standby": "off",
    "log_statement": "none",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_connections": "on",
    "password_encryption": "scram-sha-256",
    "ssl_min_protocol_version": "TLSv1.2",
}


@pytest.mark.parametrize("size", _EXPECTED)
def test_settings_fit_the_instance(instance: Instance, password: str, size: tuple[str, str, str]) -> None:
    memory, vcpus, connections = size
    try:
        instance.run(*_DATABASE_PART, MEMORY_MIB=memory, VCPUS=vcpus, MAX_CONNECTIONS=connections)
        expected = _EXPECTED[size] | _ALWAYS
        with instance.connect(password) as connection:
            found = {
                name: (connection.execute("SELECT current_setting(%s)", (name,)).fetchone() or (None,))[0]
                for name in expected
            }
        assert found == expected
        assert _query(instance, password, "SELECT count(*) FROM pg_settings WHERE pending_restart") == [(0,)]
        files = _query(instance, password, "SELECT error FROM pg_file_settings WHERE error IS NOT NULL")
        assert files == []
    finally:
        instance.run(*_DATABASE_PART)
