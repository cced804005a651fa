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
    thing = "${iot:Connection.Thing.ThingName}"
    attached = {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
    iot.CfnPolicy(
        scope,
        "DevicePolicy",
        policy_name=names.device_policy,
        policy_document={
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "iot:Connect",
                    "Resource": iot_arn(scope, "client", thing),
                    "Condition": attached,
                },
                {
                    "Effect": "Allow",
                    "Action": "iot:Publish",
                    "Resource": [
                        iot_arn(scope, "topic", f"{names.topic}/{thing}"),
                        iot_arn(scope, "topic", f"{names.basic_ingest_topic}/{thing}"),
                    ],
                    # Here too, since a message over HTTPS comes without a connection that was asked.
                    "Condition": attached,
                },
            ],
        },
    )


def iot_arn(scope: Stack, resource: str, name: str) -> str:
    """ARN of a resource of AWS IoT in the stack's account and region."""
    return scope.format_arn(
        service="iot", resource=resource, resource_name=name, arn_format=ArnFormat.SLASH_RESOURCE_NAME
    )
