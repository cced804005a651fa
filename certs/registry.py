"""The registry of AWS IoT Core, one call each: things, certificates, and what is attached to what.

Every write here may be repeated: its second time changes nothing. The order in which they are safe to be cut off is
for `certs.registration` and `certs.removal`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ops.errors import UserError

_SETTLE_SECONDS = 30.0
_SETTLE_FIRST_PAUSE_SECONDS = 0.25


class IoTClient(Protocol):
    """The calls of `boto3.client("iot")` that are used here."""

    def attach_policy(self, *args: Any, **kwargs: Any) -> Any: ...
    def attach_thing_principal(self, *args: Any, **kwargs: Any) -> Any: ...
    def create_thing(self, *args: Any, **kwargs: Any) -> Any: ...
    def delete_certificate(self, *args: Any, **kwargs: Any) -> Any: ...
    def delete_thing(self, *args: Any, **kwargs: Any) -> Any: ...
    def describe_certificate(self, *args: Any, **kwargs: Any) -> Any: ...
    def describe_endpoint(self, *args: Any, **kwargs: Any) -> Any: ...
    def describe_thing(self, *args: Any, **kwargs: Any) -> Any: ...
    def describe_thing_type(self, *args: Any, **kwargs: Any) -> Any: ...
    def detach_policy(self, *args: Any, **kwargs: Any) -> Any: ...
    def detach_thing_principal(self, *args: Any, **kwargs: Any) -> Any: ...
    def get_policy(self, *args: Any, **kwargs: Any) -> Any: ...
    def list_attached_policies(self, *args: Any, **kwargs: Any) -> Any: ...
    def list_principal_things(self, *args: Any, **kwargs: Any) -> Any: ...
    def list_thing_principals(self, *args: Any, **kwargs: Any) -> Any: ...
    def register_certificate_without_ca(self, *args: Any, **kwargs: Any) -> Any: ...
    def update_certificate(self, *args: Any, **kwargs: Any) -> Any: ...
    def update_thing(self, *args: Any, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Thing:
    """A thing as it is registered."""

    thing_type: str | None
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Certificate:
    """A certificate as it is registered. Only one whose status is `ACTIVE` lets a device in."""

    id: str
    arn: str
    status: str
    pem: str

    @property
    def active(self) -> bool:
        """Whether it lets a device in."""
        return self.status == "ACTIVE"


def client_config(concurrency: int) -> Config:
    """How a boto3 client for a whole fleet is to be set up: `session.client("iot", config=client_config(8))`.

    AWS throttles most of these calls at some ten per second and account; the adaptive mode finds that rate and keeps
    to it. https://docs.aws.amazon.com/general/latest/gr/iot-core.html
    """
    return Config(retries={"mode": "adaptive", "max_attempts": 6}, max_pool_connections=max(10, concurrency))


def fault(error: ClientError | BotoCoreError, about: str) -> UserError:
    """What a user is told of a failed call: which call, about what, and what to do."""
    if isinstance(error, BotoCoreError):
        return UserError(
            f"AWS IoT cannot be asked about {about} ({_one_line(error)}): check that it is up, and your credentials"
        )
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    message = _one_line(error.response.get("Error", {}).get("Message", ""))
    if "AccessDenied" in code or code == "UnauthorizedException":
        remedy = f"allow iot:{error.operation_name} to these credentials"
    elif "Token" in code or "Signature" in code:
        remedy = "renew your AWS credentials"
    else:
        remedy = "run the command again, what is done is kept"
    return UserError(f"{error.operation_name} for {about} failed ({code}: {message}): {remedy}")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


class ThingRegistry:
    """The registry behind a client. Methods raise botocore's errors; `fault` makes them fit for a user."""

    def __init__(self, client: IoTClient) -> None:
        self._client = client

    def has_thing_type(self, thing_type: str) -> bool:
        """Whether there is such a thing type."""
        return _found(lambda: self._client.describe_thing_type(thingTypeName=thing_type)) is not None

    def has_policy(self, policy_name: str) -> bool:
        """Whether there is such a policy."""
        return _found(lambda: self._client.get_policy(policyName=policy_name)) is not None

    def thing(self, name: str) -> Thing | None:
        """The thing of that name, or None."""
        answer = _found(lambda: self._client.describe_thing(thingName=name))
        if answer is None:
            return None
        return Thing(answer.get("thingTypeName") or None, dict(answer.get("attributes") or {}))

    def create_thing(self, name: str, thing_type: str, attributes: Mapping[str, str]) -> None:
        """Create the thing; one of the same type and attributes may exist."""
        self._client.create_thing(
            thingName=name, thingTypeName=thing_type, attributePayload={"attributes": dict(attributes)}
        )

    def set_attributes(self, name: str, attributes: Mapping[str, str]) -> None:
        """Set these attributes and leave the thing's others."""
        self._client.update_thing(thingName=name, attributePayload={"attributes": dict(attributes), "merge": True})

    def delete_thing(self, name: str) -> None:
        """Delete the thing, if it exists. AWS takes some seconds to see that a certificate was detached."""
        _settled(lambda: _found(lambda: self._client.delete_thing(thingName=name)))

    def certificate(self, certificate_id: str) -> Certificate | None:
        """The registered certificate of that id, or None."""
        answer = _found(lambda: self._client.describe_certificate(certificateId=certificate_id))
        if answer is None:
            return None
        found = answer["certificateDescription"]
        return Certificate(certificate_id, found["certificateArn"], found["status"], found.get("certificatePem", ""))

    def register_certificate(self, certificate_id: str, pem: str) -> Certificate:
        """Register a certificate as ACTIVE, or find it as it is, in whatever status, if it is registered already."""
        try:
            arn = self._client.register_certificate_without_ca(certificatePem=pem, status="ACTIVE")["certificateArn"]
        except ClientError as error:
            if _code(error) != "ResourceAlreadyExistsException":
                raise
            existing = self.certificate(certificate_id)
            if existing is None:
                raise
            return existing
        return Certificate(certificate_id, arn, "ACTIVE", pem)

    def deactivate(self, certificate: Certificate) -> None:
        """Shut out whoever has this certificate. One that is not ACTIVE keeps its status."""
        if certificate.active:
            self._client.update_certificate(certificateId=certificate.id, newStatus="INACTIVE")

    def delete_certificate(self, certificate: Certificate) -> None:
        """Delete a certificate that is deactivated and detached from its things and policies."""
        _settled(lambda: _found(lambda: self._client.delete_certificate(certificateId=certificate.id)))

    def policies_of(self, certificate: Certificate) -> list[str]:
        """The policies attached to the certificate. AWS allows ten each, so one page has them all."""
        policies = self._client.list_attached_policies(target=certificate.arn)["policies"]
        return [policy["policyName"] for policy in policies]

    def attach_policy(self, certificate: Certificate, policy_name: str) -> None:
        """Give the certificate what the policy allows."""
        self._client.attach_policy(policyName=policy_name, target=certificate.arn)

    def detach_policy(self, certificate: Certificate, policy_name: str) -> None:
        """Take it away again."""
        _found(lambda: self._client.detach_policy(policyName=policy_name, target=certificate.arn))

    def certificate_ids_of(self, thing_name: str) -> list[str]:
        """The ids of the certificates attached to a thing. (A Cognito identity can be attached too: none of ours.)"""
        arns = _pages(self._client.list_thing_principals, "principals", thingName=thing_name)
        return [arn.rpartition("/")[2] for arn in arns if ":cert/" in arn]

    def things_of(self, certificate: Certificate) -> list[str]:
        """The things that a certificate is attached to."""
        return _pages(self._client.list_principal_things, "things", principal=certificate.arn)

    def attach_certificate(self, thing_name: str, certificate: Certificate) -> None:
        """Attach the certificate to this thing and, by `EXCLUSIVE_THING`, never to another one beside it.

        https://docs.aws.amazon.com/iot/latest/developerguide/exclusive-thing.html
        """
        self._client.attach_thing_principal(
            thingName=thing_name, principal=certificate.arn, thingPrincipalType="EXCLUSIVE_THING"
        )

    def detach_certificate(self, thing_name: str, certificate: Certificate) -> None:
        """Detach the certificate from the thing."""
        _found(lambda: self._client.detach_thing_principal(thingName=thing_name, principal=certificate.arn))


def _found(call: Callable[[], Any]) -> Any:
    """What the call answers, or None where AWS says that there is no such resource."""
    try:
        return call()
    except ClientError as error:
        if _code(error) != "ResourceNotFoundException":
            raise
        return None


def _pages(call: Callable[..., Any], member: str, **kwargs: str) -> list[str]:
    found: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = call(**kwargs, **token)
        found += answer[member]
        if not answer.get("nextToken"):
            return found
        token = {"nextToken": answer["nextToken"]}


def _settled(call: Callable[[], Any]) -> None:
    """Repeat a deletion while AWS still sees what was detached or deactivated a moment ago.

    https://docs.aws.amazon.com/iot/latest/apireference/API_DetachThingPrincipal.html ("asynchronous")
    """
    deadline, pause = time.monotonic() + _SETTLE_SECONDS, _SETTLE_FIRST_PAUSE_SECONDS
    while True:
        try:
            call()
        except ClientError as error:
            if not _settles(error) or time.monotonic() + pause > deadline:
                raise
        else:
            return
        time.sleep(pause)
        pause *= 2


def _settles(error: ClientError) -> bool:
    attached = _code(error) == "InvalidRequestException" and "attached" in str(error)
    return attached or _code(error) in ("DeleteConflictException", "CertificateStateException")
