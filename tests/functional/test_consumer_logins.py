"""The migrator and the logins of consumers: passwords, limits, where the database is, and who is shut out."""

import json
from collections.abc import Iterator

import boto3
import psycopg
import pytest
from moto import mock_aws

from lambdas.migrator.logins import CONSUMERS, keep_logins, tell_where
from lambdas.rotation.passwords import AlternatingLogins
from lambdas.shared.database import DatabaseSecret
from lambdas.shared.logins import role_exists, set_login
from tests.functional.rotation_environment import Vault, as_secret, logs_in

PLACE = {"host", "port", "dbname", "ca"}


@pytest.fixture
def vault(database_dsn: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    """Secrets Manager, played by moto; the logins are as they were when the test is over."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        vault = Vault(boto3.client("secretsmanager"), lambda *_: None, database_dsn)
        monkeypatch.setenv("LOADER_SECRET_ARN", vault.add("iot_loader", "of-the-loader"))
        yield vault
    for role in ("iot_loader", *CONSUMERS):
        connection.execute(f"ALTER ROLE {role} NOLOGIN CONNECTION LIMIT {-1 if role == 'iot_loader' else 10}")
        connection.execute(f"DROP ROLE IF EXISTS {role}_clone")
    connection.execute("CREATE ROLE iot_loader_clone NOLOGIN")
    connection.execute("GRANT iot_loader TO iot_loader_clone")


def admin(vault: Vault) -> DatabaseSecret:
    """Where the database is, as the administrator's secret says."""
    return as_secret(vault.members(vault.add("postgres", "x")))


def test_they_get_the_passwords_of_their_secrets_and_their_share(
    vault: Vault, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    arns = {name: vault.add(name, f"of-{name}", host="", ca="", port=1, dbname="unknown") for name in CONSUMERS}
    for name, arn in arns.items():
        monkeypatch.setenv(f"{name.upper()}_SECRET_ARN", arn)
    monkeypatch.setenv("SCADA_CONNECTION_LIMIT", "3")
    where = admin(vault)
    for _ in range(2):
        keep_logins(connection, where)
    for name, arn in arns.items():
        members = vault.members(arn)
        assert logs_in(members)
        assert {key: members[key] for key in PLACE} == {
            "host": where.host, "port": where.port, "dbname": where.dbname, "ca": where.ca
        }  # fmt: skip
        versions = vault.client.list_secret_version_ids(SecretId=arn, IncludeDeprecated=True)["Versions"]
        assert len(versions) == 2, f"{name}: told again what it knew"
    limits = "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolname LIKE %s ORDER BY 1"
    assert connection.execute(limits, ["scada%"]).fetchall() == [("scada", 3), ("scada_clone", 3)]
    assert connection.execute(limits, ["grafana%"]).fetchall() == [("grafana", 10), ("grafana_clone", 10)]


def test_who_is_not_asked_for_any_more_is_shut_out(
    vault: Vault, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = vault.add("scada", "of-scada")
    monkeypatch.setenv("SCADA_SECRET_ARN", arn)
    keep_logins(connection, admin(vault))
    set_login(connection, "scada_clone", "of-scada")
    monkeypatch.delenv("SCADA_SECRET_ARN")
    keep_logins(connection, admin(vault))
    for login in ("scada", "scada_clone"):
        assert not logs_in(vault.members(arn) | {"username": login})
    assert connection.execute(
        "SELECT count(*) FROM pg_authid WHERE rolname IN ('scada', 'scada_clone') AND rolpassword IS NOT NULL"
    ).fetchone() == (0,)


def test_a_place_that_an_operator_gave_is_left_alone(vault: Vault) -> None:
    where = admin(vault)
    arn = vault.add("grafana", "of-grafana", host="proxy.example.org", ca="theirs")
    tell_where(vault.client, arn, where)
    assert vault.members(arn)["host"] == "proxy.example.org"
    arn = vault.add("grafana", "of-grafana", ca="of a certificate before")
    tell_where(vault.client, arn, where)
    assert vault.members(arn)["ca"] == where.ca
    assert vault.members(arn)["password"] == "of-grafana"


@pytest.mark.parametrize("name", CONSUMERS)
def test_a_rotation_gives_the_second_login_the_same_rights_and_bounds(
    name: str, vault: Vault, connection: psycopg.Connection, database_dsn: str
) -> None:
    set_login(connection, name, "first")
    first = vault.members(vault.add(name, "first"))
    second = first | {"username": f"{name}_clone", "password": "second"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "lambdas.rotation.passwords.connect_as_admin",
            lambda *_, **__: psycopg.connect(database_dsn, autocommit=True),
        )
        strategy = AlternatingLogins("arn")
        assert strategy.next_username(name) == second["username"]
        strategy.give(as_secret(second))
    strategy.test(as_secret(second))
    assert logs_in(first)
    settings = "SELECT setconfig FROM pg_db_role_setting WHERE setrole = %s::regrole AND setdatabase = 0"
    assert role_exists(connection, f"{name}_clone")
    before, after = (sorted(connection.execute(settings, [role]).fetchone()[0]) for role in (name, f"{name}_clone"))  # type: ignore[index]
    assert before == after
    assert "default_transaction_read_only=on" in after
    assert json.dumps(after).count("timeout") == 2
