"""Clients of AWS services, the emulator's or an account's: boto3 sessions cannot carry an endpoint themselves."""

from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from local import emulator


@dataclass(frozen=True)
class AwsSession:
    """Makes clients that talk to one environment."""

    session: boto3.Session
    endpoint_url: str | None = None

    def client(self, service: str, *, config: Config | None = None) -> Any:
        """A boto3 client of `service`."""
        return self.session.client(service, endpoint_url=self.endpoint_url, config=config)  # type: ignore[call-overload]


def emulator_session(port: int) -> AwsSession:
    """Clients of the emulator that listens on `port`."""
    session = boto3.Session(
        aws_access_key_id=emulator.ACCOUNT, aws_secret_access_key=emulator.SECRET_KEY, region_name=emulator.REGION
    )
    return AwsSession(session, f"http://{emulator.HOST}:{port}")
