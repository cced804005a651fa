"""The metrics that alarms and dashboard rest on, by who emits them.

Ours are in the namespaces `Fleetledger` (functions, embedded metric format) and `Fleetledger/Database` (the CloudWatch
agent of a database instance of ours), each with the one dimension `service`.
"""

from dataclasses import dataclass

from infra.alarms.model import Metric
from infra.names import Names

OURS = "Fleetledger"
DATABASE = "Fleetledger/Database"


@dataclass(frozen=True)
class Metrics:
    """The metrics of one environment."""

    names: Names

    def of_function(self, function: str, name: str, statistic: str, period_seconds: int = 60) -> Metric:
        """What one of our functions writes to its log as a metric."""
        return Metric(OURS, name, {"service": function}, statistic, period_seconds)

    def watch(self, name: str, statistic: str = "Maximum", period_seconds: int = 60) -> Metric:
        """What the watch measures, once a minute."""
        return self.of_function(self.names.watch, name, statistic, period_seconds)

    def loader(self, name: str, statistic: str = "Sum", period_seconds: int = 60) -> Metric:
        """What the loader counts, with each batch."""
        return self.of_function(self.names.loader, name, statistic, period_seconds)

    def database(self, name: str, statistic: str = "Maximum", period_seconds: int = 60) -> Metric:
        """What the agent on the database instance measures."""
        return Metric(DATABASE, name, {"service": self.names.database_service}, statistic, period_seconds)

    @staticmethod
    def instance(instance_id: str, name: str, statistic: str, period_seconds: int) -> Metric:
        """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_metrics_with_cloudwatch.html"""
        return Metric("AWS/EC2", name, {"InstanceId": instance_id}, statistic, period_seconds)

    @staticmethod
    def broker(name: str, period_seconds: int = 60) -> Metric:
        """Of the account's message broker in this region, which all environments in it share.

        https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html
        """
        return Metric("AWS/IoT", name, {"Protocol": "MQTT"}, "Sum", period_seconds)

    def rule(self, name: str, period_seconds: int = 60) -> Metric:
        """Of the IoT rule, by the same page."""
        return Metric("AWS/IoT", name, {"RuleName": self.names.rule}, "Sum", period_seconds)

    def stream(self, name: str, statistic: str, period_seconds: int = 60) -> Metric:
        """https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html"""
        return Metric("AWS/Firehose", name, {"DeliveryStreamName": self.names.stream}, statistic, period_seconds)

    @staticmethod
    def queue(queue: str, name: str, statistic: str, period_seconds: int = 60) -> Metric:
        """A queue that was idle for six hours sends nothing until it is used again.

        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
        """
        return Metric("AWS/SQS", name, {"QueueName": queue}, statistic, period_seconds)

    @staticmethod
    def invocations(function: str, name: str, statistic: str, period_seconds: int = 60) -> Metric:
        """Sent when the function is invoked, and only then.

        https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
        """
        return Metric("AWS/Lambda", name, {"FunctionName": function}, statistic, period_seconds)
