"""CloudWatch: logs, custom metrics, alarms, dashboards; and the logs that the network and S3 keep of themselves."""

from collections.abc import Iterator

from infra.settings import Settings
from ops.cost.assumptions import DAYS_PER_MONTH, GIB, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed, Resource
from ops.cost.functions import Invocations
from ops.cost.metrics import INSTANCE_METRICS, LAMBDA_METRICS

_STORED = "cloudwatch.usd_per_gib_month_logs_stored"
_EC2_DETAILED_METRICS = 7
"""https://aws.amazon.com/cloudwatch/pricing/, "Amazon CloudWatch Metrics": billed as custom metrics."""


def log_items(deployed: Deployed, invoked: list[Invocations], assumptions: Assumptions) -> Iterator[Item]:
    """Log groups of functions and of the database's instance: what goes in, and what stays for their retention."""
    for one in invoked:
        each = assumptions.loader_log_bytes if one.of_objects else assumptions.scheduled_log_bytes
        group = deployed.target(one.function.at("LoggingConfig", "LogGroup"), one.function.stack)
        yield from _logged(one.name, one.count * each, group, assumptions)
    for instance in deployed.of_type("AWS::EC2::Instance"):
        group = next((g for g in deployed.of_type("AWS::Logs::LogGroup") if g.stack == instance.stack), None)
        yield from _logged("database", assumptions.database_log_bytes_per_day * DAYS_PER_MONTH, group, assumptions)


def metric_items(settings: Settings, deployed: Deployed) -> Iterator[Item]:
    """Custom metrics, by what emits them. AWS's own metrics cost nothing."""
    names = {function.at("FunctionName") for function in deployed.of_type("AWS::Lambda::Function")}
    for attribute, metrics in LAMBDA_METRICS.items():
        if (name := getattr(settings.names, attribute)) in names:
            yield Item("CloudWatch", f"metrics of {name}", len(metrics), "cloudwatch.usd_per_custom_metric_month")
    for instance in deployed.of_type("AWS::EC2::Instance"):
        count = len(INSTANCE_METRICS) + (_EC2_DETAILED_METRICS if instance.at("Monitoring") is True else 0)
        yield Item("CloudWatch", "metrics of the database", count, "cloudwatch.usd_per_custom_metric_month")


def alarm_items(deployed: Deployed) -> Iterator[Item]:
    """Alarms by the metrics they look at, composite alarms and dashboards by number."""
    standard = high = 0
    for alarm in deployed.of_type("AWS::CloudWatch::Alarm"):
        stats = [metric["MetricStat"] for metric in alarm.at("Metrics") or [] if "MetricStat" in metric]
        periods = [stat["Period"] for stat in stats] or [alarm.at("Period") or 60]
        if min(periods) < 60:
            high += len(periods)
        else:
            standard += len(periods)
    yield Item("CloudWatch", "alarms", standard, "cloudwatch.usd_per_alarm_metric_month")
    yield Item("CloudWatch", "alarms under a minute", high, "cloudwatch.usd_per_high_resolution_alarm_metric_month")
    composite = len(deployed.of_type("AWS::CloudWatch::CompositeAlarm"))
    yield Item("CloudWatch", "composite alarms", composite, "cloudwatch.usd_per_composite_alarm_month")
    dashboards = len(deployed.of_type("AWS::CloudWatch::Dashboard"))
    yield Item("CloudWatch", "dashboards", dashboards, "cloudwatch.usd_per_dashboard_month")


def flow_log_items(deployed: Deployed, assumptions: Assumptions) -> Iterator[Item]:
    """Flow logs, to a log group or to S3."""
    monthly = assumptions.flow_log_records_per_minute * 60 * 24 * DAYS_PER_MONTH * assumptions.flow_log_record_bytes
    for flow_log in deployed.of_type("AWS::EC2::FlowLog"):
        if flow_log.at("LogDestinationType") == "s3":
            price = "cloudwatch.usd_per_gib_logs_delivered_to_s3"
            yield Item("CloudWatch logs", "flow logs, to S3", monthly / GIB, price)
        else:
            group = deployed.target([flow_log.at("LogGroupName"), flow_log.at("LogDestination")], flow_log.stack)
            yield from _logged("flow logs", monthly, group, assumptions)


def access_log_items(deployed: Deployed, requests: float, assumptions: Assumptions) -> Iterator[Item]:
    """S3's access logs cost their storage: a line for each of the raw bucket's requests.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerLogs.html
    """
    for bucket in deployed.of_type("AWS::S3::Bucket"):
        target = deployed.target(bucket.at("LoggingConfiguration", "DestinationBucketName"), bucket.stack)
        if target is None or bucket.at("NotificationConfiguration") is None:
            continue
        rules = target.at("LifecycleConfiguration", "Rules") or []
        days = min((rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule), default=365)
        kept = requests / DAYS_PER_MONTH * days * assumptions.access_log_record_bytes
        yield Item("S3 access logs", f"kept ({days} days)", kept / GIB, "s3.usd_per_gib_month_standard")


def _logged(who: str, bytes_per_month: float, group: Resource | None, assumptions: Assumptions) -> Iterator[Item]:
    infrequent = group is not None and group.at("LogGroupClass") == "INFREQUENT_ACCESS"
    price = "cloudwatch.usd_per_gib_infrequent_access_logs_ingested" if infrequent else _INGESTED
    yield Item("CloudWatch logs", f"{who}: ingested", bytes_per_month / GIB, price)
    days = (group.at("RetentionInDays") if group else None) or 3650
    kept = bytes_per_month / DAYS_PER_MONTH * days * assumptions.stored_log_ratio
    yield Item("CloudWatch logs", f"{who}: kept {days} days", kept / GIB, _STORED)


_INGESTED = "cloudwatch.usd_per_gib_logs_ingested"
