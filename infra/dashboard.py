"""The CloudWatch dashboard, in the order in which data flows: devices, rule, Firehose, queue, loader, database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from cdk_monitoring_constructs import (
    CustomMetricGroup,
    DashboardRenderingPreference,
    DefaultDashboardFactory,
    MonitoringFacade,
)
from constructs import Construct

from infra.alarms.arrival import freshness_threshold_seconds
from infra.alarms.metrics import Metrics
from infra.alarms.model import Metric
from infra.alarms.rows import detection_threshold_seconds, latency_threshold_seconds
from infra.settings import Settings

_WIDTH = 24
_BROKER = ("Connect.Success", "Connect.AuthError", "Connect.ServerError", "PublishIn.Success", "PublishIn.ServerError")
_READINGS = ("Rows", "ReadingsChecked", "ReadingsOutOfRange", "DetectionFaults", "Duplicates", "Quarantined")
_SLO_LATENCY_SECONDS = 5
_SLO_DETECTION_SECONDS = 30
_SLO_LOSS_PARTS_PER_MILLION = 100
_SLO_OFFLINE_PERCENT = 0.5


def metric(measure: Metric) -> cloudwatch.Metric:
    """The CDK's form of a metric."""
    return cloudwatch.Metric(
        namespace=measure.namespace,
        metric_name=measure.name,
        dimensions_map=dict(measure.dimensions),
        statistic=measure.statistic,
        period=Duration.seconds(measure.period_seconds),
    )


@dataclass(frozen=True)
class _Chart:
    title: str
    metrics: Sequence[Metric]
    lines: Mapping[str, float] = field(default_factory=dict)


def telemetry_dashboard(
    scope: Construct,
    construct_id: str,
    *,
    settings: Settings,
    runbook: str,
    alarms: Sequence[cloudwatch.AlarmBase],
    database_instance_id: str | None,
) -> None:
    """Adds the dashboard `iot-telemetry` of an environment, with the SLOs as lines and the alarms at the end."""
    metrics = Metrics(settings.names)
    facade = MonitoringFacade(
        scope,
        construct_id,
        dashboard_factory=DefaultDashboardFactory(
            scope,
            f"{construct_id}Factory",
            dashboard_name_prefix=f"iot-telemetry{settings.names.suffix}",
            rendering_preference=DashboardRenderingPreference.INTERACTIVE_ONLY,
            detail_dashboard_range=Duration.hours(3),
        ),
    )
    facade.add_widget(
        cloudwatch.TextWidget(
            markdown=f"# Telemetry, {settings.environment}\nEach alarm has a section in the runbook: {_link(runbook)}",
            width=_WIDTH,
            height=2,
        )
    )
    for title, charts in _segments(settings, metrics, database_instance_id).items():
        facade.monitor_custom(
            human_readable_name=title,
            alarm_friendly_name=title.partition(" ")[0],
            metric_groups=[_group(chart, _WIDTH // len(charts)) for chart in charts],
        )
    facade.add_medium_header("Alarms")
    facade.add_widget(cloudwatch.AlarmStatusWidget(alarms=alarms, width=_WIDTH, height=8, title="Alarms that tell"))


def _segments(settings: Settings, metrics: Metrics, instance_id: str | None) -> dict[str, list[_Chart]]:
    """The charts of each stretch of the pipeline. Lines are the runbook's SLOs, and where alarms begin."""
    names = settings.names
    handshake = metrics.of_function(names.probe, "IotHandshakeMilliseconds", "Maximum")
    segments = {
        "Devices and AWS IoT Core": [
            _Chart("Devices", [metrics.watch("DevicesKnown"), metrics.watch("DevicesOffline")]),
            _Chart(
                "Devices offline (%)",
                [metrics.watch("DevicesOfflinePercent")],
                {"SLO: 99.5 % connected": _SLO_OFFLINE_PERCENT, "alarm": 50},
            ),
            *([_Chart("Handshake with IoT Core (ms)", [handshake])] if settings.probe_iot else []),
            _Chart(
                "Broker (account)",
                [metrics.broker(name) for name in _BROKER],
            ),
        ],
        "Rule": [
            _Chart("Messages matched", [metrics.rule("TopicMatch"), metrics.rule("ParseError")]),
            _Chart(
                "Messages whose action failed",
                [
                    metrics.queue(names.rule_error_queue, "NumberOfMessagesSent", "Sum"),
                    metrics.queue(names.rule_error_dead_letters, "ApproximateNumberOfMessagesVisible", "Maximum"),
                ],
            ),
        ],
        "Firehose": [
            _Chart("Records", [metrics.stream("IncomingRecords", "Sum"), metrics.stream("ThrottledRecords", "Sum")]),
            _Chart(
                "Freshness (s)",
                [metrics.stream("DeliveryToS3.DataFreshness", "Maximum")],
                {"alarm": freshness_threshold_seconds(settings)},
            ),
            _Chart("Objects written, share", [metrics.stream("DeliveryToS3.Success", "Average", 300)], {"alarm": 0.95}),
        ],
        "Queue": [
            _Chart(
                "Announcements",
                [
                    metrics.queue(names.object_queue, "ApproximateNumberOfMessagesVisible", "Maximum"),
                    metrics.queue(names.object_dead_letters, "ApproximateNumberOfMessagesVisible", "Maximum"),
                ],
            ),
            _Chart(
                "Oldest announcement (s)",
                [metrics.queue(names.object_queue, "ApproximateAgeOfOldestMessage", "Maximum")],
                {"alarm": 300},
            ),
            _Chart("Never loaded", [metrics.of_function(names.sweeper, "ObjectsNeverLoaded", "Maximum", 300)]),
        ],
        "Loader": [
            _Chart(
                "Objects", [metrics.loader(name) for name in ("ObjectsLoaded", "ObjectsRejected", "MessagesFailed")]
            ),
            _Chart(
                "Readings",
                [metrics.loader(name) for name in _READINGS],
            ),
            _Chart("Time per object (ms)", [metrics.loader("LoadMilliseconds", "p95")]),
            _Chart(
                "Invocations",
                [metrics.invocations(names.loader, name, "Sum") for name in ("Invocations", "Errors", "Throttles")],
            ),
        ],
        "Rows": [
            _Chart(
                "From device to row, p95 (s)",
                [metrics.watch("LatencySeconds")],
                {"SLO": _SLO_LATENCY_SECONDS, "alarm": latency_threshold_seconds(settings)},
            ),
            _Chart(
                "Missing (ppm)",
                [metrics.watch("MissingPartsPerMillion")],
                {"SLO and alarm": _SLO_LOSS_PARTS_PER_MILLION},
            ),
            _Chart("Quarantined (ppm)", [metrics.watch("QuarantinedPartsPerMillion")], {"alarm": 1000}),
        ],
        "Anomalies": [
            _Chart(
                "Open",
                [metrics.watch(f"AnomaliesOpen{severity}") for severity in ("Critical", "Warning", "Info")],
            ),
            _Chart("Found", [metrics.watch("AnomaliesDetected"), metrics.watch("AnomaliesCritical")]),
            _Chart(
                "From device to episode, p95 (s)",
                [metrics.watch("AnomalyDetectionSeconds")],
                {"SLO": _SLO_DETECTION_SECONDS, "alarm": detection_threshold_seconds(settings)},
            ),
        ],
        "Database": [
            _Chart("Connections used (%)", [metrics.watch("DatabaseConnectionsPercent")], {"alarm": 80}),
            _Chart("Size (bytes)", [metrics.watch("DatabaseBytes")]),
            _Chart(
                "Oldest change that rollups lack (s)",
                [metrics.of_function(names.maintenance, "OldestTouchedSeconds", "Maximum")],
                {"alarm": 600},
            ),
            _Chart("Rollups computed (buckets)", [metrics.of_function(names.maintenance, "BucketsRecomputed", "Sum")]),
        ],
    }
    if instance_id:
        segments["Database instance"] = [
            _Chart(
                "Disk and memory (%)",
                [metrics.database("disk_used_percent"), metrics.database("mem_used_percent")],
                {"alarm": 90},
            ),
            _Chart("CPU (%)", [metrics.instance(instance_id, "CPUUtilization", "Average", 60)], {"alarm": 90}),
            _Chart(
                "Newest backup, age (s)", [metrics.database("BackupAgeSeconds", "Maximum", 900)], {"alarm": 26 * 3600}
            ),
            _Chart("WAL not archived (s)", [metrics.watch("UnarchivedWalSeconds")], {"RPO and alarm": 300}),
        ]
    return segments


def _group(chart: _Chart, width: int) -> CustomMetricGroup:
    return CustomMetricGroup(
        title=chart.title,
        metrics=[metric(measure) for measure in chart.metrics],
        horizontal_annotations=[
            cloudwatch.HorizontalAnnotation(value=value, label=label) for label, value in chart.lines.items()
        ],
        graph_widget_width=width,
    )


def _link(runbook: str) -> str:
    return f"[{runbook}]({runbook})" if runbook.startswith("https://") else f"`{runbook}`"
