"""The handler of iot-database-rotation, which Secrets Manager invokes once for each step of a rotation.

Each step may fail, or end without a word, and be run again: it finds what was done and does the rest.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
"""

import os
from typing import Any, Literal

import msgspec
from aws_lambda_powertools import Logger

from lambdas.rotation.passwords import AlternatingLogins, OwnPassword, Strategy, new_password
from lambdas.rotation.versions import Members, RotatedSecret, RotationError, same_login, with_login
from lambdas.shared.database import read_secret, secrets_manager

logger = Logger()


class Order(msgspec.Struct, frozen=True, rename="pascal"):
    """The event; other members (there is one for rotation across accounts) are not for us."""

    secret_id: str
    client_request_token: str
    step: Literal["createSecret", "setSecret", "testSecret", "finishSecret"]


def handler(event: dict[str, Any], context: object) -> None:
    """Does one step. Raises RotationError or DatabaseSecretError, with one line, when it cannot."""
    order = _order(event)
    secret = RotatedSecret(secrets_manager(), order.secret_id, order.client_request_token)
    admin_arn = os.environ["ADMIN_SECRET_ARN"]
    strategy = OwnPassword(admin_arn) if secret.arn == admin_arn else AlternatingLogins(admin_arn)
    match order.step:
        case "createSecret":
            read_secret(admin_arn)  # no rotation begins that could not go on
            _create(secret, strategy)
        case "setSecret":
            _set(secret, strategy)
        case "testSecret":
            _test(secret, strategy)
        case "finishSecret":
            secret.finish()
    logger.info("rotation step done", step=order.step, secret=secret.name, already=secret.is_finished)


def _order(event: dict[str, Any]) -> Order:
    try:
        return msgspec.convert(event, Order)
    except msgspec.ValidationError as error:
        raise RotationError(f"not an event of a rotation: {error}") from None


def _create(secret: RotatedSecret, strategy: Strategy) -> None:
    current = secret.current()
    if secret.is_finished or secret.pending() is not None:
        return
    username = strategy.next_username(current["username"])
    secret.store_pending(current | {"username": username, "password": new_password()})


def _set(secret: RotatedSecret, strategy: Strategy) -> None:
    pending = _to_do(secret)
    if pending is None:
        if not secret.is_finished and secret.pending() is None:
            raise RotationError(f"the new version of secret {secret.name} has no value: it was never created")
        return
    current = secret.current()
    expected = strategy.next_username(current["username"])
    if pending["username"] != expected:
        # Else whoever may store a version of the secret could have the administrator give a password to any role.
        raise RotationError(f"the new version of secret {secret.name} is for {pending['username']}, not for {expected}")
    strategy.give(secret.login(pending))


def _test(secret: RotatedSecret, strategy: Strategy) -> None:
    """Tries the pending login.

    When rotation is set up without rotating at once, Secrets Manager runs this step alone, on a version that has no new
    login: that is a test of the function, and the database may not even be there yet.
    """
    pending = _to_do(secret)
    if pending is not None:
        strategy.test(secret.login(pending))


def _to_do(secret: RotatedSecret) -> Members | None:
    """The pending login, at the place that the current version names; None when there is none or it is current."""
    pending = None if secret.is_finished else secret.pending()
    if pending is None:
        return None
    current = secret.current()
    return None if same_login(current, pending) else with_login(current, pending)
