"""IoT Core, Firehose and SQS: what passes a message on."""

from collections.abc import Iterator

from infra.settings import Settings
from ops.cost.assumptions import DAYS_PER_MONTH, GIB, HOURS_PER_MONTH, SECONDS_PER_MONTH, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed
from ops.cost.pipeline import Load, Pipeline, object_queues


def iot_items(settings: Settings, pipeline: Pipeline, load: Load, assumptions: Assumptions) -> Iterator[Item]:
    """IoT Core: https://aws.amazon.com/iot-core/pricing/additional-details/.

    Acknowledgements sent by the service and pings cost nothing. A rule and an action are counted in steps of 5 KB of
    the message, as the message itself is.
    """
    minutes = settings.devices * HOURS_PER_MONTH * 60
    yield Item("IoT Core", "devices connected", minutes / 1e6, "iot.usd_per_million_connection_minutes")
    connects = settings.devices * assumptions.reconnects_per_device_per_day * DAYS_PER_MONTH
    yield Item("IoT Core", "CONNECT messages", connects / 1e6, "iot.usd_per_million_messages")
    if not assumptions.basic_ingest:
        yield Item("IoT Core", "messages to the broker", load.message_units / 1e6, "iot.usd_per_million_messages")
    yield Item("IoT Core", "rule triggered", load.message_units / 1e6, "iot.usd_per_million_rules_triggered")
    actions = load.message_units * pipeline.actions
    yield Item("IoT Core", "Firehose action", actions / 1e6, "iot.usd_per_million_actions_executed")
    operations = settings.devices * assumptions.registry_operations_per_device_per_month
    yield Item("IoT Core", "registry", operations / 1e6, "iot.usd_per_million_registry_operations")


def firehose_items(load: Load) -> Iterator[Item]:
    """Firehose: each record rounded up to 5 KB."""
    yield Item("Firehose", "records in 5 KB steps", load.firehose_bytes / GIB, "firehose.usd_per_gib_ingested")


def sqs_items(deployed: Deployed, load: Load, assumptions: Assumptions) -> Iterator[Item]:
    """SQS: S3's send, Lambda's receive and delete for each object, and the long polls that come back empty.

    Objects are taken to come one at a time. https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
    """
    announced = len(object_queues(deployed))
    yield Item("SQS", "send, receive, delete per object", announced * 3 * load.objects / 1e6, _REQUESTS)
    polled = len(deployed.of_type("AWS::Lambda::EventSourceMapping"))
    polls = polled * assumptions.pollers_per_queue * SECONDS_PER_MONTH / assumptions.long_poll_seconds
    yield Item("SQS", f"empty long polls of {polled} queues", polls / 1e6, _REQUESTS)


_REQUESTS = "sqs.usd_per_million_requests"
