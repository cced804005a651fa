"""The loader through rotations: both logins can do the same, and loading goes on as if nothing had happened."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from lambdas.shared.logins import set_login
from local import emulator as emulators
from local.session import AwsSession
from local.state import Emulator
from tests.functional.accounting import RawObject, Span, assert_every_reading_once, raw_object
from tests.functional.conftest import Intake, StartLoader, wait_until
from tests.functional.loader_process import LoaderProcess, Stopped
from tests.functional.rotation_environment import Vault

ORIGINAL, CLONE = "iot_loader", "iot_loader_clone"
_RIGHTS = """
    SELECT 'relation', relation.oid::regclass::text, privilege
    FROM pg_class relation, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
    WHERE relkind IN ('r', 'v', 'm', 'p', 'f') AND has_table_privilege(%(role)s, relation.oid, privilege)
    UNION ALL
    SELECT 'column', attrelid::regclass || '.' || attname, privilege
    FROM pg_attribute, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) privilege
    WHERE attnum > 0 AND NOT attisdropped AND has_column_privilege(%(role)s, attrelid, attnum, privilege)
    UNION ALL
    SELECT 'sequence', sequence.oid::regclass::text, privilege
    FROM pg_class sequence, unnest('{USAGE,SELECT,UPDATE}'::text[]) privilege
    WHERE relkind = 'S' AND has_sequence_privilege(%(role)s, sequence.oid, privilege)
    UNION ALL
    SELECT 'schema', nspname, privilege FROM pg_namespace, unnest('{USAGE,CREATE}'::text[]) privilege
    WHERE has_schema_privilege(%(role)s, pg_namespace.oid, privilege)
    UNION ALL
    SELECT 'function', pg_proc.oid::regprocedure::text, 'EXECUTE' FROM pg_proc
    WHERE has_function_privilege(%(role)s, pg_proc.oid, 'EXECUTE')
    UNION ALL
    SELECT 'database', datname, privilege FROM pg_database, unnest('{CONNECT,CREATE,TEMPORARY}'::text[]) privilege
    WHERE has_database_privilege(%(role)s, pg_database.oid, privilege)
    UNION ALL
    SELECT 'attributes', format('%%s %%s %%s %%s %%s %%s %%s', rolsuper, rolinherit, rolcreaterole, rolcreatedb,
           rolreplication, rolbypassrls, rolconnlimit), '' FROM pg_roles WHERE rolname = %(role)s
    UNION ALL
    SELECT 'setting', setdatabase::text, setconfig::text FROM pg_db_role_setting WHERE setrole = %(role)s::regrole
"""


def rights(connection: psycopg.Connection, role: str) -> set[tuple[str, str, str]]:
    """All that a role may do, and how it is set."""
    return set(connection.execute(_RIGHTS, {"role": role}).fetchall())


def test_the_second_login_can_do_exactly_what_the_first_can(connection: psycopg.Connection) -> None:
    of_original = rights(connection, ORIGINAL)
    assert {right for kind, name, right in of_original if (kind, name) == ("relation", "telemetry")} == {
        "SELECT",
        "INSERT",
    }
    assert rights(connection, CLONE) == of_original
    # Whatever a later migration grants or takes away, without a word of the second login.
    connection.execute("CREATE TABLE later (i int)")
    connection.execute("GRANT SELECT, UPDATE ON later TO iot_loader")
    connection.execute("REVOKE INSERT ON telemetry FROM iot_loader")
    changed = rights(connection, ORIGINAL)
    assert ("relation", "later", "UPDATE") in changed
    assert ("relation", "telemetry", "INSERT") not in changed
    assert rights(connection, CLONE) == changed


def test_the_second_login_has_nothing_of_its_own(connection: psycopg.Connection) -> None:
    memberships = connection.execute(
        "SELECT member::regrole::text, roleid::regrole::text, admin_option FROM pg_auth_members "
        "WHERE member IN (%s::regrole, %s::regrole)",
        (ORIGINAL, CLONE),
    ).fetchall()
    assert set(memberships) == {(CLONE, ORIGINAL, False)}
    own = "SELECT FROM pg_shdepend WHERE refobjid = %s::regrole AND classid <> 'pg_auth_members'::regclass"
    assert connection.execute(own, (CLONE,)).fetchall() == []
    assert connection.execute(own, (ORIGINAL,)).fetchall() != []


@pytest.fixture
def vault(aws: AwsSession, emulator: Emulator, database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Vault:
    """Secrets Manager, played by the emulator, from which the loaders read."""
    for name, value in emulators.environment(emulator).items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)

    def begin(client: Any, arn: str, token: str) -> None:
        client.put_secret_value(SecretId=arn, ClientRequestToken=token, VersionStages=["AWSPENDING"])

    return Vault(aws.client("secretsmanager"), begin, database_dsn)


@pytest.fixture
def secret(
    vault: Vault, connection: psycopg.Connection, server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The loader's secret, set up for rotation."""
    connection.execute("CREATE ROLE rotation_admin SUPERUSER")
    set_login(connection, "rotation_admin", "admin-password")
    set_login(connection, ORIGINAL, "first-password")
    monkeypatch.setenv("ADMIN_SECRET_ARN", vault.add("rotation_admin", "admin-password"))
    arn = vault.add(ORIGINAL, "first-password")
    vault.client.rotate_secret(SecretId=arn)  # the emulator's own only notes that the secret is in rotation
    yield arn
    connection.execute("DROP ROLE rotation_admin")


class Traffic:
    """Objects that loaders load one after the other, all the time, and what they say of each."""

    def __init__(self, intake: Intake, loaders: list[LoaderProcess]) -> None:
        self._intake = intake
        self._between = [threading.Lock() for _ in loaders]
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._drive, args=(number, loader), daemon=True)
            for number, loader in enumerate(loaders)
        ]
        self.objects: list[RawObject] = []
        self.failed: list[str] = []
        self.errors: list[BaseException] = []

    def _drive(self, number: int, loader: LoaderProcess) -> None:
        try:
            for batch in range(10_000):
                if self._over.is_set():
                    return
                with self._between[number]:
                    self._deliver(loader, f"{number}-{batch}", number + 1, batch)
        except BaseException as error:  # for the test's own thread to raise
            self.errors.append(error)

    def _deliver(self, loader: LoaderProcess, name: str, device: int, batch: int) -> None:
        # Half of each object is in the one before it, too: a duplicate goes through a temporary table.
        known = raw_object(name, Span(f"device-{device:05}", range(batch * 50, batch * 50 + 100)))
        messages = self._intake.put(known)
        self.objects.append(known)
        loader.deliver(messages)
        failed = loader.failed()
        self.failed += failed
        self._intake.acknowledge(messages, failed)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Loads for as long as the context lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(60)
        assert self.errors == []

    def wait_for_more(self) -> None:
        """Until each loader has loaded two more."""
        target = len(self.objects) + 2 * len(self._threads) + 2
        wait_until(lambda: len(self.objects) > target or bool(self.errors), "more objects")

    @contextmanager
    def between_deliveries(self) -> Iterator[None]:
        """While no loader is at work: their connections are kept, idle."""
        with ExitStack() as held:
            for lock in self._between:
                held.enter_context(lock)
            yield


def logins(connection: psycopg.Connection) -> set[str]:
    """As whom loaders are connected to this database."""
    rows = connection.execute(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'iot-telemetry-processor'"
    )
    return {name for (name,) in rows}


def cut_all(connection: psycopg.Connection) -> None:
    """Ends every connection of a loader, as a restart or an idle timeout does."""
    connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = 'iot-telemetry-processor'"
    )


def test_loading_goes_on_through_rotations_and_lost_connections(
    vault: Vault,
    secret: str,
    intake: Intake,
    start_loader: StartLoader,
    database_dsn: str,
    connection: psycopg.Connection,
) -> None:
    loaders = [start_loader(database_dsn, DATABASE_SECRET_ARN=secret) for _ in range(2)]
    traffic = Traffic(intake, loaders)
    with traffic.flowing():
        traffic.wait_for_more()
        assert logins(connection) == {ORIGINAL}
        for before, after in ((ORIGINAL, CLONE), (CLONE, ORIGINAL)):
            vault.rotate(secret)
            traffic.wait_for_more()
            assert logins(connection) == {before}, "connections of before the rotation stay good"
            with traffic.between_deliveries():
                cut_all(connection)
            traffic.wait_for_more()
            assert logins(connection) == {after}
    assert traffic.failed == []
    assert_every_reading_once(database_dsn, traffic.objects)


def test_an_object_that_is_half_loaded_when_passwords_change_twice_is_loaded(
    vault: Vault,
    secret: str,
    intake: Intake,
    start_loader: StartLoader,
    database_dsn: str,
    connection: psycopg.Connection,
) -> None:
    loader = start_loader(database_dsn, DATABASE_SECRET_ARN=secret)
    known = raw_object("half", Span("device-00001", range(2000)))
    loader.deliver(intake.put(known), stop_at="mid_copy")
    assert loader.outcome() == Stopped("mid_copy")
    vault.rotate(secret)
    vault.rotate(secret)  # now the password that it logged in with is good no more
    loader.go_on()
    assert not loader.failed()
    assert logins(connection) == {ORIGINAL}
    assert_every_reading_once(database_dsn, [known])
