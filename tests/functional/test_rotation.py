"""Rotation of passwords: at no moment is a client with the current secret refused, whatever step ends half done."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import psycopg
import pytest
from moto import mock_aws
from psycopg import sql

from lambdas.migrator import handler as migrator
from lambdas.rotation import handler as rotation
from lambdas.rotation.versions import RotationError
from lambdas.shared.database import DatabaseSecretError
from lambdas.shared.logins import connect_as_admin, set_login, set_password
from local.timescaledb.tls import make_identity
from tests.functional.rotation_environment import (
    STEPS,
    Dying,
    FunctionDiedError,
    Rotation,
    Vault,
    as_secret,
    log_in,
    logs_in,
)

ADMIN = f"rotation_admin_{os.getpid()}"
CLONE = "iot_loader_clone"


@pytest.fixture(params=["superuser", "CREATEROLE"])
def admin_role(request: pytest.FixtureRequest, connection: psycopg.Connection) -> Iterator[str]:
    """An administrator for this test: the instance's superuser, or one such as a hosted database gives."""
    role = sql.Identifier(ADMIN)
    kind = sql.SQL("SUPERUSER" if request.param == "superuser" else "CREATEROLE")
    connection.execute(sql.SQL("CREATE ROLE {} {} LOGIN").format(role, kind))
    if request.param != "superuser":
        connection.execute(sql.SQL("GRANT iot_loader, iot_loader_clone TO {} WITH ADMIN OPTION").format(role))
    set_login(connection, ADMIN, "first-admin-password")
    try:
        yield ADMIN
    finally:
        connection.execute("DROP ROLE IF EXISTS iot_loader_clone")  # it may have been made, or granted, by this one
        connection.execute("CREATE ROLE iot_loader_clone NOLOGIN")
        connection.execute("GRANT iot_loader TO iot_loader_clone")
        connection.execute("ALTER ROLE iot_loader CONNECTION LIMIT -1")
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


superuser = pytest.mark.parametrize("admin_role", ["superuser"], indirect=True)


@pytest.fixture
def vault(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """Secrets Manager, played by moto, which checks versions and labels as the real one does."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws(config={"lambda": {"use_docker": False}}):
        role = boto3.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        function = boto3.client("lambda").create_function(
            FunctionName="rotation", Role=role, Code={"ZipFile": b""}, Runtime="python3.13", Handler="h"
        )["FunctionArn"]

        def begin(client: Any, arn: str, token: str) -> None:
            rules = {"AutomaticallyAfterDays": 30}
            client.rotate_secret(
                SecretId=arn, ClientRequestToken=token, RotationLambdaARN=function, RotationRules=rules
            )

        yield Vault(boto3.client("secretsmanager"), begin, database_dsn)


@pytest.fixture
def admin(vault: Vault, admin_role: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The administrator's secret."""
    arn = vault.add(admin_role, "first-admin-password")
    monkeypatch.setenv("ADMIN_SECRET_ARN", arn)
    return arn


@pytest.fixture
def loader(vault: Vault, admin: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> str:
    """The loader's secret, with a member that we know nothing of."""
    set_login(connection, "iot_loader", "first-loader-password")
    arn = vault.add("iot_loader", "first-loader-password", engine="postgres")
    monkeypatch.setenv("LOADER_SECRET_ARN", arn)
    return arn


def dying(monkeypatch: pytest.MonkeyPatch, vault: Vault, changes: int, **hooks: Any) -> None:
    client = Dying(vault.client, changes, **hooks)
    monkeypatch.setattr(rotation, "secrets_manager", lambda: client)


def test_the_logins_alternate_and_the_one_before_stays_good(
    vault: Vault, loader: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = vault.members(loader)
    vault.rotate(loader)
    second = vault.members(loader)
    assert second == first | {"username": CLONE, "password": second["password"]}
    assert logs_in(first)
    assert logs_in(second)
    vault.rotate(loader)
    third = vault.members(loader)
    assert third == first | {"password": third["password"]}
    assert len({each["password"] for each in (first, second, third)}) == 3
    assert logs_in(second)
    assert logs_in(third)
    assert not logs_in(first)
    assert vault.members(loader, "AWSPREVIOUS") == second
    assert "AWSPENDING" not in vault.stages(loader)
    logged = capsys.readouterr()
    for password in vault.texts(loader) | {"first-admin-password"}:
        assert password not in logged.out + logged.err


@pytest.mark.parametrize("give", [set_login, set_password])
def test_the_server_is_never_told_a_password(
    give: Callable[[psycopg.Connection, str, str], None], connection: psycopg.Connection, database_dsn: str
) -> None:
    with psycopg.connect(database_dsn) as telling:
        give(telling, CLONE, "hunter2")
        told = connection.execute(
            "SELECT query FROM pg_stat_activity WHERE pid = %s", (telling.info.backend_pid,)
        ).fetchone()
        telling.rollback()
    assert told is not None
    assert "SCRAM-SHA-256$" in told[0]
    assert "hunter2" not in told[0]


def test_the_administrator_changes_its_own_password(vault: Vault, admin: str) -> None:
    first = vault.members(admin)
    vault.rotate(admin)
    second = vault.members(admin)
    assert second["username"] == first["username"]
    assert logs_in(second)
    assert not logs_in(first)


@superuser
@pytest.mark.parametrize("which", ["loader", "admin"])
@pytest.mark.parametrize("last", STEPS)
def test_after_a_function_that_died_all_steps_are_run_again(
    which: str, last: str, vault: Vault, admin: str, loader: str
) -> None:
    arn = {"loader": loader, "admin": admin}[which]
    before = vault.members(arn)
    begun = vault.begin(arn)
    for step in STEPS:
        begun.run(step)
        assert logs_in(vault.members(loader)), f"the loader's current secret after {step}"
        with connect_as_admin(admin, application_name="test", statement_timeout_seconds=10) as opened:
            opened.execute("SELECT 1")
        if step == last:
            break
    begun.run()
    begun.run()
    after = vault.members(arn)
    assert after["password"] != before["password"]
    assert logs_in(after)
    assert "AWSPENDING" not in vault.stages(arn)
    vault.rotate(arn)
    assert logs_in(vault.members(arn))


def steps_with_changes_between(begun: Rotation, vault: Vault) -> None:
    for step in STEPS:
        begun.run(step)
        vault.store(begun.arn, engine="changed")


@superuser
@pytest.mark.parametrize(
    ("stored_meanwhile", "changes"), [*((False, n) for n in (1, 2, 3)), *((True, n) for n in (1, 2, 3, 4))]
)
def test_a_function_that_dies_after_any_of_its_changes(
    stored_meanwhile: bool, changes: int, vault: Vault, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When the secret is changed meanwhile the way is longer: pending, merged, current, no longer pending.
    begun = vault.begin(loader)
    with monkeypatch.context() as patched:
        dying(patched, vault, changes)
        with pytest.raises(FunctionDiedError):
            steps_with_changes_between(begun, vault) if stored_meanwhile else begun.run()
    assert logs_in(vault.members(loader))
    moved = vault.members(loader)["username"] == CLONE
    if stored_meanwhile and not moved:
        vault.store(loader, engine="changed again")
    begun.run()
    begun.run()
    after = vault.members(loader)
    engine = "postgres" if not stored_meanwhile else "changed" if moved else "changed again"
    assert (after["username"], after["engine"]) == (CLONE, engine)
    assert logs_in(after)
    before = vault.members(loader, "AWSPREVIOUS")
    assert before["username"] == "iot_loader"
    assert logs_in(before)
    assert "AWSPENDING" not in vault.stages(loader)


@superuser
def test_what_was_changed_in_the_secret_meanwhile_is_kept(vault: Vault, loader: str) -> None:
    begun = vault.begin(loader)
    begun.run("createSecret", "setSecret")
    vault.store(loader, ca=vault.members(loader)["ca"] + "\n", note="moved")
    begun.run("testSecret", "finishSecret")
    after = vault.members(loader)
    assert (after["username"], after["note"]) == (CLONE, "moved")
    assert after["ca"].endswith("\n\n")
    assert logs_in(after)
    assert "AWSPENDING" not in vault.stages(loader)
    begun.run()
    assert vault.members(loader) == after
    vault.rotate(loader)
    assert vault.members(loader)["username"] == "iot_loader"
    assert vault.members(loader)["note"] == "moved"


@superuser
def test_what_is_changed_in_the_very_moment_of_finishing_is_kept(
    vault: Vault, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[bool] = []

    def store_once() -> None:
        if not stored:
            stored.append(True)
            vault.store(loader, note="just now")

    dying(monkeypatch, vault, 99, before_moving_current=store_once)
    vault.rotate(loader)
    after = vault.members(loader)
    assert (after["username"], after["note"]) == (CLONE, "just now")
    assert logs_in(after)


@superuser
def test_a_version_that_is_not_in_rotation_is_refused(vault: Vault, loader: str) -> None:
    before = vault.members(loader)
    current = vault.client.get_secret_value(SecretId=loader)["VersionId"]
    for token in ("00000000-0000-0000-0000-000000000000", current):
        with pytest.raises(RotationError, match="is not set up for rotation"):
            Rotation(loader, token).run("createSecret")
    vault.begin(loader)
    for step in STEPS:
        with pytest.raises(RotationError, match="is not the one that is being rotated to"):
            Rotation(loader, "00000000-0000-0000-0000-000000000000").run(step)
    with pytest.raises(RotationError, match="there is no secret"):
        Rotation(loader.replace("database-", "nothing-"), current).run("setSecret")
    with pytest.raises(RotationError, match="not an event of a rotation: Invalid enum value 'dropSecret'"):
        vault.begin(loader).run("dropSecret")
    assert vault.members(loader) == before


@superuser
def test_a_secret_that_is_not_filled_in_is_one_clear_error(
    vault: Vault, loader: str, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = vault.add("iot_loader", "x", host="")
    with pytest.raises(DatabaseSecretError, match=r"is not filled in: .*host"):
        vault.begin(empty).run("createSecret")
    assert "AWSPENDING" in vault.stages(empty)
    monkeypatch.setenv("ADMIN_SECRET_ARN", empty)
    with pytest.raises(DatabaseSecretError, match="is not filled in"):
        vault.begin(loader).run("createSecret")


@superuser
def test_steps_out_of_order_make_nothing_current(vault: Vault, loader: str) -> None:
    before = vault.members(loader)
    for step in ("setSecret", "finishSecret"):
        with pytest.raises(RotationError, match="has no value: it was never created"):
            vault.begin(loader).run(step)
    assert vault.members(loader) == before


@superuser
@pytest.mark.parametrize("text", ["none", "the current one's"])
def test_setting_rotation_up_is_possible_while_there_is_no_database(vault: Vault, text: str, admin: str) -> None:
    # What Secrets Manager does then: the test step alone, and the version is taken away again.
    secret = vault.add("iot_loader", "x", host="127.0.0.1", port=1)
    begun = vault.begin(secret)
    if text != "none":
        vault.client.put_secret_value(
            SecretId=secret,
            ClientRequestToken=begun.token,
            SecretString=vault.client.get_secret_value(SecretId=secret, VersionStage="AWSCURRENT")["SecretString"],
            VersionStages=["AWSPENDING"],
        )
    begun.run("testSecret")
    assert vault.members(secret)["password"] == "x"


@superuser
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("ALTER ROLE iot_loader_clone NOLOGIN", "is not permitted to log in"),
        ("ALTER ROLE iot_loader_clone PASSWORD 'another'", "password authentication failed"),
        ("REVOKE iot_loader FROM iot_loader_clone", "does not have the rights of iot_loader"),
    ],
)
def test_a_login_that_the_database_refuses_does_not_become_current(
    fault: str, reason: str, vault: Vault, loader: str, connection: psycopg.Connection
) -> None:
    before = vault.members(loader)
    begun = vault.begin(loader)
    begun.run("createSecret", "setSecret")
    connection.execute(fault.encode())
    with pytest.raises(RotationError, match=reason) as refused:
        begun.run("testSecret")
    assert "\n" not in str(refused.value)
    assert vault.members(loader) == before
    assert logs_in(before)
    begun.run()
    assert logs_in(vault.members(loader))


@superuser
def test_a_server_that_cannot_prove_who_it_is_is_not_given_the_new_password(vault: Vault, loader: str) -> None:
    begun = vault.begin(loader)
    begun.run("createSecret", "setSecret")
    vault.store(loader, ca=make_identity().ca_certificate)
    with pytest.raises(RotationError, match="certificate verify failed"):
        begun.run("testSecret")


@superuser
def test_a_version_for_somebody_else_gets_no_password(
    vault: Vault, loader: str, connection: psycopg.Connection
) -> None:
    begun = vault.begin(loader)
    text = as_secret(vault.members(loader))
    vault.client.put_secret_value(
        SecretId=loader,
        ClientRequestToken=begun.token,
        SecretString=f'{{"host": "{text.host}", "username": "{ADMIN}", "password": "mine"}}',
        VersionStages=["AWSPENDING"],
    )
    with pytest.raises(RotationError, match=f"is for {ADMIN}, not for {CLONE}"):
        begun.run()


def test_a_restored_server_gets_what_it_lacks(vault: Vault, loader: str, connection: psycopg.Connection) -> None:
    vault.rotate(loader)
    # As of before the second login was made.
    connection.execute("DROP ROLE iot_loader_clone")
    set_login(connection, "iot_loader", "of-long-ago")
    assert not logs_in(vault.members(loader))
    vault.rotate(loader)
    assert vault.members(loader)["username"] == "iot_loader"
    vault.rotate(loader)
    with log_in(vault.members(loader)) as opened:
        assert opened.execute("SELECT current_user, count(*) FROM telemetry").fetchone() == (CLONE, 0)


@superuser
def test_no_rotation_before_the_migrator_has_run(vault: Vault, admin: str) -> None:
    secret = vault.add("iot_reader_that_is_not", "x")
    with pytest.raises(RotationError, match="there is no role iot_reader_that_is_not: the migrator must run before"):
        vault.rotate(secret)


@superuser
@pytest.mark.parametrize("rotations", [0, 1])
def test_the_migrator_gives_whichever_login_is_current_its_password(
    rotations: int, vault: Vault, loader: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(rotations):
        vault.rotate(loader)
    current = vault.members(loader)
    connection.execute("DROP ROLE iot_loader_clone")
    set_login(connection, "iot_loader", "of-long-ago")
    monkeypatch.setenv("LOADER_CONNECTION_LIMIT", "7")
    assert migrator.handler({}, None) == {"applied": []}
    assert logs_in(current)
    limits = connection.execute("SELECT rolconnlimit FROM pg_roles WHERE rolname LIKE 'iot_loader%'").fetchall()
    assert limits == [(7,), (7,)]


@superuser
def test_the_migrator_logs_in_in_the_midst_of_the_administrators_rotation(
    vault: Vault, loader: str, admin: str
) -> None:
    begun = vault.begin(admin)
    begun.run("createSecret", "setSecret")
    assert not logs_in(vault.members(admin))
    migrator.handler({}, None)
    vault.rotate(loader)
    begun.run("testSecret", "finishSecret")
    assert logs_in(vault.members(admin))


@superuser
def test_a_server_restored_from_before_the_administrators_rotation_is_brought_up_to_date(
    vault: Vault, loader: str, admin: str, connection: psycopg.Connection
) -> None:
    vault.rotate(admin)
    set_login(connection, ADMIN, "first-admin-password")
    assert not logs_in(vault.members(admin))
    migrator.handler({}, None)
    assert logs_in(vault.members(admin))


@superuser
def test_an_administrator_whom_the_server_knows_by_no_password_is_one_clear_error(
    vault: Vault, loader: str, admin: str, connection: psycopg.Connection
) -> None:
    set_login(connection, ADMIN, "nobody-knows")
    with pytest.raises(RotationError, match=f"{ADMIN} cannot log in at .* with any password of its secret: .*failed"):
        vault.rotate(admin)
    with pytest.raises(RotationError, match=f"cannot give {CLONE} its new password: .*failed"):
        vault.rotate(loader)


@superuser
def test_the_migrator_waits_for_a_database_that_is_being_set_up(
    vault: Vault, loader: str, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = vault.members(admin)["port"]
    vault.store(admin, port=1)
    with pytest.raises(psycopg.OperationalError):
        migrator.handler({}, None)
    monkeypatch.setenv("DATABASE_WAIT_SECONDS", "30")
    monkeypatch.setattr("lambdas.migrator.handler.time.sleep", lambda _: vault.store(admin, port=port))
    assert migrator.handler({}, None) == {"applied": []}
