"""What AWS IoT knows of devices: their type, and the policy of their certificates."""

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iot as iot

from infra.names import Names


def device_registry(scope: Stack, names: Names) -> None:
    """The thing type, and the policy that ties a connection to the thing its certificate belongs to.

    https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
    """
    iot.CfnThingType(
        scope,
        "ThingType",
        thing_type_name=names.thing_type,
        thing_type_properties=iot.CfnThingType.ThingTypePropertiesProperty(
            thing_type_description="A telemetry device",
            searchable_attributes=["location", "firmware"],
        ),
    )
    iot.CfnPolicy(
        scope,
        "DevicePolicy",
        policy_name=names.device_policy,
        policy_document={"Version": "2012-10-17", "Statement": _statements(scope, names)},
    )


def _statements(scope: Stack, names: Names) -> list[dict[str, object]]:
    """Connect as itself, publish as itself, and listen to what concerns it alone: its shadow and its jobs.

    `jobs/*/update` is of any job, whose id nobody knows yet. To its own jobs' answers it may listen as it likes: to name each
    would be more than the 2,048 characters that AWS takes.
    https://docs.aws.amazon.com/iot/latest/apireference/API_CreatePolicy.html
    """
    thing = "${iot:Connection.Thing.ThingName}"
    shadow, jobs = f"$aws/things/{thing}/shadow/update", f"$aws/things/{thing}/jobs"
    said = [f"{topic}/{thing}" for topic in (names.topic, names.basic_ingest_topic, names.status_topic)]

    def allow(action: str, resource: str, *own: str) -> dict[str, object]:
        arns = [iot_arn(scope, resource, name) for name in own]
        return {
            "Effect": "Allow",
            "Action": action,
            "Resource": arns[0] if len(arns) == 1 else arns,
            # Everywhere, and not with iot:Connect alone: a message over HTTPS comes without a connection that was asked.
            "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
        }

    return [
        allow("iot:Connect", "client", thing),
        allow("iot:Publish", "topic", *said, shadow, f"{jobs}/start-next", f"{jobs}/*/update"),
        allow("iot:Subscribe", "topicfilter", f"{shadow}/accepted", f"{jobs}/*"),
        allow("iot:Receive", "topic", f"{shadow}/accepted", f"{jobs}/*"),
    ]


def iot_arn(scope: Stack, resource: str, name: str) -> str:
    """ARN of a resource of AWS IoT in the stack's account and region."""
    return scope.format_arn(
        service="iot", resource=resource, resource_name=name, arn_format=ArnFormat.SLASH_RESOURCE_NAME
    )
