"""What every test may use: a real TimescaleDB with a database of its own per test, and a real AWS emulator.

Everything lies under `.local/test/`, where downloads stay from one run to the next, and nothing is left running.
"""

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything reads it: no test may touch the environment that a developer has running in this checkout.
_FOLDER = Path(__file__).resolve().parent.parent / ".local" / "test"
os.environ["FLEET_LOCAL_FOLDER"] = str(_FOLDER / "environment")
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

import psycopg
import pytest
from psycopg import sql

from local import emulator as emulators
from local import processes, timescaledb
from local.state import Emulator
from local.timescaledb import packages
from tests.databases import copied_database, migrated_database


def _say(text: str) -> None:
    print(f"[{text}]", flush=True)


@pytest.fixture(scope="session")
def timescaledb_dist() -> Path:
    """PostgreSQL and TimescaleDB from Debian's packages, downloaded once and kept for later runs."""
    return packages.install(_FOLDER / "timescaledb", _say)


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A DSN with which databases and roles can be made: FLEET_TEST_DATABASE_URL, or a server of our own."""
    given = os.environ.get("FLEET_TEST_DATABASE_URL")
    if given:
        yield given
        return
    server = timescaledb.provide("debian", _FOLDER / "timescaledb", progress=_say)
    try:
        yield server.dsn
    finally:
        timescaledb.destroy(_FOLDER / "timescaledb")


@pytest.fixture(scope="session")
def template_database(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database, to be copied."""
    name = f"fleet_template_{os.getpid()}"
    with migrated_database(server_dsn, name), psycopg.connect(server_dsn, autocommit=True) as admin:
        # Nobody may be connected to a database that is copied, TimescaleDB's own scheduler included.
        admin.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        while admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
        ).fetchall():
            pass
        yield name


@pytest.fixture
def database_dsn(server_dsn: str, template_database: str) -> Iterator[str]:
    """A migrated, empty database for one test."""
    with copied_database(server_dsn, template_database, f"fleet_test_{os.getpid()}_{next(_numbers)}") as dsn:
        yield dsn


_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def connection(database_dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to the test's database, in autocommit mode as the loader uses it."""
    with psycopg.connect(database_dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture(scope="session")
def emulator_python() -> Path:
    """The Python of the AWS emulator's virtual environment."""
    return emulators.install(_FOLDER / "environment" / "emulator", _say)


@pytest.fixture(scope="session")
def emulator(emulator_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An AWS emulator with nothing deployed, shared by all tests: use names of your own."""
    # Its folder is this run's own: another run of the tests beside it would empty one that they share.
    folder = tmp_path_factory.mktemp("emulator")
    running = emulators.start(folder, emulator_python, port=None, mqtt_port=None, before=None)
    try:
        yield running
    finally:
        processes.stop(running.process)
