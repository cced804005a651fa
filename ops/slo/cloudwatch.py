"""What AWS counted of a span: messages that devices published, and records that Firehose took."""

from datetime import timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from dashboards.reading.macros import TimeRange
from infra.names import Names

# https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html (of the whole account in the region),
# https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html
_PUBLISHED = ("AWS/IoT", "PublishIn.Success", "Protocol", "MQTT")


def offered(cloudwatch: Any, names: Names, span: TimeRange) -> str:
    """The busiest minute, or five minutes of a long span, in words; why it is not known, where AWS does not tell."""
    metrics = {
        "published": _PUBLISHED,
        "taken": ("AWS/Firehose", "IncomingRecords", "DeliveryStreamName", names.stream),
    }
    period = 60 if span.length <= timedelta(days=1) else 300
    queries = [
        {
            "Id": name,
            "MetricStat": {
                "Metric": {
                    "Namespace": namespace,
                    "MetricName": metric,
                    "Dimensions": [{"Name": dimension, "Value": value}],
                },
                "Period": period,
                "Stat": "Sum",
            },
        }
        for name, (namespace, metric, dimension, value) in metrics.items()
    ]
    try:
        pages = cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries, StartTime=span.begin, EndTime=span.end
        )
        highest: dict[str, float] = {}
        for page in pages:
            for result in page["MetricDataResults"]:
                highest[result["Id"]] = max([highest.get(result["Id"], 0.0), *result["Values"]])
    except (ClientError, BotoCoreError) as error:
        return f"CloudWatch does not tell ({type(error).__name__})"
    published, taken = (highest.get(name, 0.0) / period for name in metrics)
    return f"at most {published:,.1f} messages/s published to AWS IoT, {taken:,.1f} records/s to Firehose"
