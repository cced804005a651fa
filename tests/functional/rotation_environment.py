"""What a rotation needs: secrets, a database with an administrator of its own, and somebody who plays Secrets Manager."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from lambdas.rotation.handler import handler
from lambdas.shared.database import DatabaseSecret, connect, decode_secret

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
Members = dict[str, Any]


class FunctionDiedError(Exception):
    """Stands for a function that ended without a word."""


@dataclass
class Dying:
    """A Secrets Manager client whose user dies right after so many of its changes went through."""

    client: Any
    changes: int
    before_moving_current: Callable[[], None] = field(default=lambda: None)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if name not in {"put_secret_value", "update_secret_version_stage"}:
            return method

        def change(**arguments: Any) -> Any:
            if arguments.get("VersionStage") == "AWSCURRENT":
                self.before_moving_current()
            answer = method(**arguments)
            self.changes -= 1
            if self.changes == 0:
                raise FunctionDiedError(name)
            return answer

        return change


@dataclass
class Rotation:
    """One rotation of one secret, step by step as Secrets Manager does it."""

    arn: str
    token: str

    def run(self, *steps: str) -> None:
        """Some of the steps, or all."""
        for step in steps or STEPS:
            handler({"SecretId": self.arn, "ClientRequestToken": self.token, "Step": step}, None)


class Vault:
    """Secrets of a database, under rotation."""

    def __init__(self, client: Any, begin: Callable[[Any, str, str], None], dsn: str) -> None:
        self.client = client
        self._begin = begin
        address = conninfo_to_dict(dsn)
        self._where = {
            "host": address["host"],
            "port": int(address["port"] or 5432),
            "dbname": address["dbname"],
            "ca": Path(str(address["sslrootcert"])).read_text(),
        }

    def add(self, role: str, password: str, **members: Any) -> str:
        """A secret with a login; its ARN."""
        text = json.dumps(self._where | {"username": role, "password": password} | members)
        arn: str = self.client.create_secret(Name=f"database-{uuid.uuid4()}", SecretString=text)["ARN"]
        return arn

    def begin(self, arn: str) -> Rotation:
        """Secrets Manager's own part of a rotation: a version that has a label and no value."""
        token = str(uuid.uuid4())
        self._begin(self.client, arn, token)
        return Rotation(arn, token)

    def rotate(self, arn: str) -> None:
        """A whole rotation in which nothing goes wrong."""
        self.begin(arn).run()

    def members(self, arn: str, stage: str = "AWSCURRENT") -> Members:
        """The version with a label."""
        text = self.client.get_secret_value(SecretId=arn, VersionStage=stage)["SecretString"]
        members: Members = json.loads(text)
        return members

    def store(self, arn: str, **members: Any) -> None:
        """A new current version, in which these members are others: what the instance or an operator does."""
        before = self.client.get_secret_value(SecretId=arn, VersionStage="AWSCURRENT")
        # In two moves: moto's one would take the labels off whatever RotateSecret has begun.
        text = json.dumps(json.loads(before["SecretString"]) | members)
        version = self.client.put_secret_value(SecretId=arn, SecretString=text, VersionStages=["STORED"])["VersionId"]
        self.client.update_secret_version_stage(
            SecretId=arn, VersionStage="AWSCURRENT", MoveToVersionId=version, RemoveFromVersionId=before["VersionId"]
        )

    def stages(self, arn: str) -> list[str]:
        """The labels that any version has, each once."""
        versions = self.client.describe_secret(SecretId=arn)["VersionIdsToStages"]
        return sorted(stage for stages in versions.values() for stage in stages)

    def texts(self, arn: str) -> set[str]:
        """The passwords of all versions."""
        versions = self.client.describe_secret(SecretId=arn)["VersionIdsToStages"]
        found = [self.client.get_secret_value(SecretId=arn, VersionId=version) for version in versions]
        return {json.loads(answer["SecretString"])["password"] for answer in found if "SecretString" in answer}


def log_in(members: Members) -> psycopg.Connection:
    """A connection as a client with this secret makes it."""
    return connect(as_secret(members), application_name="test", statement_timeout_seconds=10)


def as_secret(members: Members) -> DatabaseSecret:
    """The members as clients read them."""
    return decode_secret(json.dumps(members), "test")


def logs_in(members: Members) -> bool:
    """Whether the server lets it in, as whom it says."""
    try:
        with log_in(members) as connection:
            return connection.execute("SELECT current_user").fetchone() == (members["username"],)
    except psycopg.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
