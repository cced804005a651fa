"""Everything that an environment uses in a month: `usage(settings, templates)`. No price is known here."""

from collections.abc import Mapping

from infra.settings import Settings
from ops.cost import database, functions, ingest, network, observability, security, storage
from ops.cost.assumptions import DEFAULT, GIB, SECONDS_PER_MONTH, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed, Template
from ops.cost.pipeline import Pipeline, load_of, pipeline_of

RECKONED = {
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::CompositeAlarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::EC2::EIP",
    "AWS::EC2::FlowLog",
    "AWS::EC2::Instance",
    "AWS::EC2::NatGateway",
    "AWS::EC2::VPCEndpoint",
    "AWS::EC2::Volume",
    "AWS::Events::Rule",
    "AWS::IoT::TopicRule",
    "AWS::KMS::Key",
    "AWS::KinesisFirehose::DeliveryStream",
    "AWS::Lambda::EventInvokeConfig",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Lambda::Function",
    "AWS::Logs::LogGroup",
    "AWS::Route53::HostedZone",
    "AWS::S3::Bucket",
    "AWS::SQS::Queue",
    "AWS::SecretsManager::Secret",
}
"""Types of which the bill has lines."""
FREE = {
    "AWS::Budgets::Budget",  # without actions
    "AWS::CDK::Metadata",
    "AWS::Chatbot::SlackChannelConfiguration",
    "AWS::CloudFormation::WaitCondition",
    "AWS::CloudFormation::WaitConditionHandle",
    "AWS::EC2::LaunchTemplate",
    "AWS::EC2::NetworkInterface",
    "AWS::EC2::Route",
    "AWS::EC2::RouteTable",
    "AWS::EC2::SecurityGroup",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::EC2::Subnet",
    "AWS::EC2::SubnetRouteTableAssociation",
    "AWS::EC2::VPC",
    "AWS::EC2::VolumeAttachment",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::OIDCProvider",
    "AWS::IAM::Policy",
    "AWS::IAM::Role",
    "AWS::IoT::Policy",
    "AWS::IoT::ThingType",
    "AWS::KMS::Alias",
    "AWS::Lambda::LayerVersion",
    "AWS::Lambda::Permission",
    "AWS::Lambda::Version",
    "AWS::Logs::LogStream",
    "AWS::Logs::MetricFilter",
    "AWS::Logs::QueryDefinition",
    "AWS::Route53::RecordSet",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",  # a few messages when something is wrong
    "AWS::SNS::Topic",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SSM::Document",
    "AWS::SSM::Parameter",  # standard
    "AWS::SecretsManager::ResourcePolicy",
    "AWS::SecretsManager::RotationSchedule",
    "AWS::SecretsManager::SecretTargetAttachment",
}
"""Types that cost nothing, or next to nothing, by themselves; nor do custom resources, beside what they make."""


def usage(
    settings: Settings,
    templates: Mapping[str, Template],
    assumptions: Assumptions = DEFAULT,
    pipeline: Pipeline | None = None,
) -> list[Item]:
    """What a month uses, with the fleet of the settings, once as much expires as arrives.

    `pipeline` takes the place of the templates' own, for comparisons. Raises UserError when the templates have no
    pipeline.
    """
    deployed = Deployed(templates)
    pipeline = pipeline or pipeline_of(deployed)
    load = load_of(settings, pipeline, assumptions)
    invoked = functions.invocations(settings, deployed, pipeline, load, assumptions)
    s3 = list(storage.s3_items(settings, deployed, pipeline, load, assumptions))
    requests = sum(item.quantity * 1e3 for item in s3 if item.price.endswith("_requests"))
    items = [
        *ingest.iot_items(settings, pipeline, load, assumptions),
        *ingest.firehose_items(load),
        *s3,
        *ingest.sqs_items(deployed, load, assumptions),
        *functions.lambda_items(invoked),
        *database.instance_items(deployed),
        *database.volume_items(deployed),
        *database.backup_items(settings, deployed, assumptions),
        *network.vpc_items(deployed, load, assumptions),
        *observability.log_items(deployed, invoked, assumptions),
        *observability.flow_log_items(deployed, assumptions),
        *observability.metric_items(settings, deployed),
        *observability.alarm_items(deployed),
        *observability.access_log_items(deployed, requests, assumptions),
        *security.kms_items(deployed, load, assumptions),
        *security.secret_items(deployed, assumptions),
    ]
    return [item for item in items if item.quantity]


def readings_per_month(settings: Settings) -> float:
    """What the fleet of the settings measures in a month of 730 hours."""
    return settings.readings_per_second * SECONDS_PER_MONTH


def unknown_kinds(templates: Mapping[str, Template]) -> list[str]:
    """Types of resources that the model knows nothing of: what they cost is missing from the bill."""
    known = RECKONED | FREE
    return [kind for kind in Deployed(templates).kinds if kind not in known and not kind.startswith("Custom::")]


def remarks(settings: Settings, templates: Mapping[str, Template], assumptions: Assumptions = DEFAULT) -> list[str]:
    """What a reader of the bill should know about this environment, a line each."""
    found = []
    if unknown := unknown_kinds(templates):
        found.append(f"not reckoned, because the model does not know them: {', '.join(unknown)}")
    deployed = Deployed(templates)
    pipeline = pipeline_of(deployed)
    load = load_of(settings, pipeline, assumptions)
    if pipeline.lifecycle.archive_after_days is not None and not storage.archived(pipeline, load):
        found.append(
            f"objects of {load.object_bytes / 1024:.0f} KiB stay in S3 Standard: S3 moves none under 128 KiB to "
            "Glacier, where they would cost more"
        )
    if settings.database == "external":
        found.append("the database is external: what its operator charges is not reckoned")
    elif (needed := database.database_bytes(settings, assumptions) / GIB) > settings.database_volume_gib:
        found.append(
            f"the readings of {settings.retention_days} days need about {needed:,.0f} GiB; the volume has "
            f"{settings.database_volume_gib:,}"
        )
    return found
