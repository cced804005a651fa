"""One secret in the course of a rotation: which of its versions is which, and the moves that Secrets Manager allows.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
"""

import json
import uuid
from typing import Any

from botocore.exceptions import ClientError

from lambdas.shared.database import DatabaseSecret, decode_secret

Members = dict[str, Any]
"""The whole secret as it is stored, members included that we do not know."""

_MERGED = "MERGED"
"""Our own label: a new version must have one, and must not be current before we say so."""
_ATTEMPTS = 5


class RotationError(Exception):
    """The rotation cannot go on; the message says why, and holds no value of a secret."""


class RotatedSecret:
    """A secret of which the version `token` is being made. Raises RotationError when it is not in rotation."""

    def __init__(self, client: Any, secret_id: str, token: str) -> None:
        self._client = client
        self._token = token
        try:
            described = client.describe_secret(SecretId=secret_id)
        except client.exceptions.ResourceNotFoundException:
            raise RotationError(f"there is no secret {secret_id}") from None
        self.arn: str = described["ARN"]
        self.name: str = described["Name"]
        if not described.get("RotationEnabled"):
            raise RotationError(f"secret {self.name} is not set up for rotation")
        stages = described["VersionIdsToStages"].get(token, [])
        self.is_finished = "AWSCURRENT" in stages or (not stages and self._has_gone_into_current())
        if not self.is_finished and "AWSPENDING" not in stages:
            raise RotationError(f"version {token} of secret {self.name} is not the one that is being rotated to")
        self._is_pending = "AWSPENDING" in stages

    def current(self) -> Members:
        """The version that clients use. Raises DatabaseSecretError when it is not filled in."""
        _, members = self._current()
        return members

    def pending(self) -> Members | None:
        """The version that is being made; None while it has no value."""
        try:
            answer = self._client.get_secret_value(SecretId=self.arn, VersionId=self._token)
        except self._client.exceptions.ResourceNotFoundException:
            return None
        members: Members | None = json.loads(answer["SecretString"]) if "SecretString" in answer else None
        return members

    def login(self, members: Members) -> DatabaseSecret:
        """Members as one connects with them. Raises DatabaseSecretError when they are not filled in."""
        return decode_secret(json.dumps(members), self.name)

    def store_pending(self, members: Members) -> None:
        """Gives the version that is being made its value; it cannot be changed afterwards."""
        self._client.put_secret_value(
            SecretId=self.arn,
            ClientRequestToken=self._token,
            SecretString=json.dumps(members),
            VersionStages=["AWSPENDING"],
        )

    def finish(self) -> None:
        """Makes the pending login the current one, and keeps whatever else was changed in the secret meanwhile.

        A version cannot be changed, so that a secret which was (the instance stored its new certificate authority, an
        operator a new host) gets another version, with the pending login. AWSPENDING ends on no version: left on this
        one, it would block the next rotation once anybody stores a version over it.
        https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html
        """
        if not self.is_finished:
            self._make_current()
        if self._is_pending:
            self._client.update_secret_version_stage(
                SecretId=self.arn, VersionStage="AWSPENDING", RemoveFromVersionId=self._token
            )

    def _make_current(self) -> None:
        pending = self.pending()
        if pending is None:
            raise RotationError(f"the new version of secret {self.name} has no value: it was never created")
        for _ in range(_ATTEMPTS):
            version, current = self._current()
            if same_login(current, pending):
                return  # an earlier run came as far as this
            merged = with_login(current, pending)
            try:
                # Fails when another version has become current since we looked, rather than undo what that one says.
                self._client.update_secret_version_stage(
                    SecretId=self.arn,
                    VersionStage="AWSCURRENT",
                    MoveToVersionId=self._token if merged == pending else self._store_merged(merged),
                    RemoveFromVersionId=version,
                )
            except ClientError as error:
                if error.response["Error"]["Code"] != "InvalidParameterException":
                    raise
            else:
                return
        raise RotationError(f"secret {self.name} is being changed all the time: try again later")

    def _store_merged(self, members: Members) -> str:
        answer = self._client.put_secret_value(
            SecretId=self.arn,
            ClientRequestToken=str(uuid.uuid4()),
            SecretString=json.dumps(members),
            VersionStages=[_MERGED],
        )
        version: str = answer["VersionId"]
        return version

    def _has_gone_into_current(self) -> bool:
        """Whether this version, which has no label, is one whose login a merged version carried on."""
        pending = self.pending()
        return pending is not None and same_login(self.current(), pending)

    def _current(self) -> tuple[str, Members]:
        answer = self._client.get_secret_value(SecretId=self.arn, VersionStage="AWSCURRENT")
        text = answer["SecretString"]
        decode_secret(text, self.name)
        members: Members = json.loads(text)
        return answer["VersionId"], members


def with_login(members: Members, of: Members) -> Members:
    """The members with the login of others."""
    return members | {"username": of["username"], "password": of["password"]}


def same_login(one: Members, other: Members) -> bool:
    """Whether both log in as the same with the same password."""
    return with_login(one, other) == one
