"""What the simulator and the operator's commands aim at: the endpoint, the devices and the database of an environment."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from botocore.exceptions import ClientError
from psycopg import errors

from certs.endpoint import amazon_root_cas, data_endpoint, write_trust_anchor
from certs.registration import register
from certs.registry import client_config
from certs.store import DeviceIdentity, IdentityStore
from infra.settings import load
from lambdas.shared.database import DatabaseSecret, connect, decode_secret
from lambdas.shared.stamp import Stamps, StampSecretError, decode_stamps
from ops.aws import session_for
from ops.errors import UserError
from ops.paths import identity_store

_MQTT_PORT = 8883
_CONCURRENCY = 8


def mqtt_endpoint(environment: str) -> tuple[str, int]:
    """Host and port of the device endpoint. Raises UserError when the environment cannot be reached."""
    if environment == "local":
        from local.emulator import HOST
        from local.stack import running_emulator

        return HOST, running_emulator().mqtt_port
    return data_endpoint(session_for(environment).client("iot")), _MQTT_PORT


def ensure_devices(
    environment: str,
    thing_names: Sequence[str],
    *,
    store: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Sequence[DeviceIdentity]:
    """Issues and registers whatever the things lack, and returns their identities in order."""
    names = load(environment).names
    identities = IdentityStore(store or identity_store(environment))
    write_trust_anchor(identities, _root_ca(environment))
    identities.ensure(thing_names)
    register(
        session_for(environment).client("iot", config=client_config(_CONCURRENCY)),
        identities,
        thing_names,
        thing_type=names.thing_type,
        policy_name=names.device_policy,
        concurrency=_CONCURRENCY,
        progress=progress,
    )
    return [identities.identity(name) for name in thing_names]


def _root_ca(environment: str) -> str:
    if environment == "local":
        from local.emulator import authority
        from local.stack import running_emulator

        return authority(running_emulator())
    return amazon_root_cas()


def database(environment: str, *, application_name: str) -> psycopg.Connection:
    """An operator's connection, in autocommit mode. Raises UserError when the database cannot be reached."""
    secret = database_secret(environment, "admin")
    try:
        connection = connect(secret, application_name=application_name, statement_timeout_seconds=60)
    except psycopg.OperationalError as error:
        raise cannot_connect(secret, error) from None
    connection.autocommit = True
    return connection


def cannot_connect(secret: DatabaseSecret, error: psycopg.OperationalError) -> UserError:
    """One line of a database that does not let us in."""
    return UserError(f"cannot connect to the database at {secret.host}:{secret.port}: {connection_fault(error)}")


def connection_fault(error: psycopg.OperationalError) -> str:
    """Why there is no connection, in a few words: libpq says first where it was to lead, and asks questions after it."""
    return (str(error).strip() or repr(error)).splitlines()[0].rpartition("failed: ")[2]


@contextmanager
def using_database(environment: str, *, application_name: str) -> Iterator[psycopg.Connection]:
    """`database` for as long as the context lasts, whose faults are clear lines."""
    with database_faults_named(environment), database(environment, application_name=application_name) as connection:
        yield connection


@contextmanager
def database_faults_named(environment: str) -> Iterator[None]:
    """Raises UserError for a database of an older schema, and for one that goes away or gives up."""
    try:
        yield
    except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction):
        raise UserError(f"the database of {environment} has an older schema: deploy this release first") from None
    except psycopg.OperationalError as error:
        reason = error.diag.message_primary or " ".join(str(error).split())
        raise UserError(f"the database gave up: {reason}: try again") from None


def database_secret(environment: str, role: str) -> DatabaseSecret:
    """A database secret of the environment, read with the operator's own AWS credentials."""
    secrets = session_for(environment).client("secretsmanager")
    name = load(environment).names.secret(role)
    return decode_secret(secrets.get_secret_value(SecretId=name)["SecretString"], name)


def stamps(environment: str) -> Stamps:
    """The stamps by which lines are told to be the rule's, read with the operator's own AWS credentials.

    Raises UserError when the secret cannot be read or used.
    """
    name = load(environment).names.stamp_secret
    try:
        text = session_for(environment).client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
        return decode_stamps(text, name)
    except StampSecretError as error:
        raise UserError(f"{error}: see docs/security.md for what belongs in it") from None
    except ClientError as error:
        reason = " ".join(str(error.response["Error"].get("Message", "")).split())
        raise UserError(
            f"the stamp secret {name} cannot be read ({reason}): deploy this release, and check the credentials"
        ) from None
