"""The handler of iot-telemetry-probe, which EventBridge invokes every minute.

It writes its metrics to its log (embedded metric format): namespace `Fleetledger`, dimension `service`.
"""

import ssl
from functools import cache
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.config import Config

from lambdas.probe.handshake import UnreachableError, handshake

logger = Logger()
metrics = Metrics(namespace="Fleetledger")
_MQTT_PORT = 8883
_DEADLINE_SECONDS = 10.0


def handler(event: dict[str, Any], context: object) -> None:
    """Connects to the account's data endpoint as a device would, and says whether and how soon it could.

    Raises botocore's errors when the endpoint's name cannot be had: then nothing is known of it.
    """
    milliseconds: float | None = None
    try:
        milliseconds = handshake(_endpoint(), _MQTT_PORT, context=_trust(), deadline_seconds=_DEADLINE_SECONDS)
    except UnreachableError as error:
        logger.warning("AWS IoT Core cannot be reached", extra={"detail": str(error)})
        _endpoint.cache_clear()
    metrics.add_metric("IotReachable", MetricUnit.Count, int(milliseconds is not None))
    if milliseconds is not None:
        metrics.add_metric("IotHandshakeMilliseconds", MetricUnit.Milliseconds, milliseconds)
    metrics.flush_metrics()


@cache
def _endpoint() -> str:
    """The account's endpoint with a certificate of Amazon Trust Services.

    https://docs.aws.amazon.com/iot/latest/apireference/API_DescribeEndpoint.html
    """
    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "max_attempts": 3})
    address: str = boto3.client("iot", config=config).describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    return address


@cache
def _trust() -> ssl.SSLContext:
    """The runtime's own authorities, among which are Amazon's."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
