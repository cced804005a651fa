"""What AWS counted itself, beside what was counted here: an independent opinion, not a proof.

https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html
https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html
"""

from datetime import datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.alarms.metrics import Metrics
from infra.alarms.model import Metric
from infra.names import Names

_PERIOD_SECONDS = 3600


PARSE_ERRORS = "messages that the rule could not read (ParseError)"


def _figures(names: Names) -> dict[str, Metric]:
    metrics = Metrics(names)
    return {
        "messages that the broker took in (whole account, not by Basic Ingest)": metrics.broker("PublishIn.Success"),
        "messages that the rule matched": metrics.rule("TopicMatch"),
        PARSE_ERRORS: metrics.rule("ParseError"),
        "messages that the rule was too slow for": metrics.rule("RuleMessageThrottled"),
        "records that Firehose took in": metrics.stream("IncomingRecords", "Sum"),
        "records that Firehose wrote to S3": metrics.stream("DeliveryToS3.Records", "Sum"),
    }


def cross_check(cloudwatch: Any, names: Names, since: datetime, until: datetime) -> dict[str, float] | None:
    """Sums of the whole hours that are touched; None where there is none of these metrics, or nobody may read them."""
    try:
        return _sums(cloudwatch, names, since, until)
    except (BotoCoreError, ClientError):  # a second opinion: the balance does not rest on it
        return None


def _sums(cloudwatch: Any, names: Names, since: datetime, until: datetime) -> dict[str, float] | None:
    figures = _figures(names)
    queries = [
        {
            "Id": f"m{number}",
            "MetricStat": {
                "Metric": {
                    "Namespace": metric.namespace,
                    "MetricName": metric.name,
                    "Dimensions": [{"Name": name, "Value": value} for name, value in metric.dimensions.items()],
                },
                "Period": _PERIOD_SECONDS,
                "Stat": "Sum",
            },
        }
        for number, metric in enumerate(figures.values())
    ]
    begin = since.replace(minute=0, second=0, microsecond=0)
    sums: dict[str, float] = {}
    pages = cloudwatch.get_paginator("get_metric_data").paginate(
        MetricDataQueries=queries, StartTime=begin, EndTime=until
    )
    for page in pages:
        for result in page["MetricDataResults"]:
            if result["Values"]:
                sums[result["Id"]] = sums.get(result["Id"], 0.0) + sum(result["Values"])
    return {what: sums.get(f"m{number}", 0.0) for number, what in enumerate(figures)} if sums else None
