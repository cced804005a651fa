"""Alarms on what was loaded, as the watch measures it from the rows: devices, latency, loss, quarantine, detection."""

from infra.alarms.metrics import Metrics
from infra.alarms.model import Alarm, Math, Quiet
from infra.settings import Settings

_WATCH = (
    "No value says that the watch does not run, which has an alarm of its own; a fault lasts until it says otherwise."
)
_STALLED = (
    "iot-unreachable",
    "no-messages",
    "firehose-delivery-failures",
    "firehose-freshness",
    "objects-waiting",
    "loader-crashes",
    "loader-cannot-connect",
    "database-unreachable",
)
"""What stops rows from coming: seen from the rows, every device is then offline, late and incomplete."""
_SLO_SECONDS = 10
_UNBUFFERED_SECONDS = 5
_SLO_DETECTION_SECONDS = 30


def latency_threshold_seconds(settings: Settings) -> int:
    """The runbook's 10 s where Firehose buffers for as little as that allows (prod: 3 s).

    An environment that buffers longer, to save money, is late by design: a reading waits for one buffer, and for a
    second while S3 is slow, before the 10 s begin.
    """
    if settings.buffer_interval_seconds <= _UNBUFFERED_SECONDS:
        return _SLO_SECONDS
    return _SLO_SECONDS + 2 * settings.buffer_interval_seconds


def detection_threshold_seconds(settings: Settings) -> int:
    """The runbook's 30 s, and where Firehose buffers for longer as much later as readings then are."""
    return _SLO_DETECTION_SECONDS + latency_threshold_seconds(settings) - _SLO_SECONDS


def rows(settings: Settings, metrics: Metrics) -> tuple[Alarm, ...]:
    """What is wrong with what was loaded, as the watch measures it from the rows."""
    stalled = Quiet(by=_STALLED, group="pipeline-stalled", wait_seconds=300)
    counted = {
        "rows": metrics.loader("Rows", period_seconds=300),
        "checked": metrics.loader("ReadingsChecked", "Sum", 300),
        "faults": metrics.loader("DetectionFaults", "Sum", 300),
    }
    return (
        Alarm(
            key="devices-offline",
            severity="P1",
            title="More than half of the devices are offline",
            means=f"They have sent no reading for {settings.offline_after_minutes} minutes, while others have.",
            act="See what they have in common: site, network, firmware, certificate.",
            measure=metrics.watch("DevicesOfflinePercent"),
            comparison=">",
            threshold=50,
            out_of=(3, 3),
            missing="ignore",
            because=_WATCH,
            quiet=stalled,
        ),
        Alarm(
            key="device-offline",
            severity="P3",
            title="A device is offline for an hour",
            means="At least one known device has sent nothing for more than an hour.",
            act="Find it in the database (docs/runbook.md); check its power, network and certificate; retire one that is gone.",
            measure=metrics.watch("DevicesOfflineOverAnHour"),
            comparison=">",
            threshold=0,
            out_of=(5, 5),
            missing="ignore",
            because=_WATCH,
            quiet=Quiet(by=(*_STALLED, "devices-offline"), group="devices-unseen", wait_seconds=300),
        ),
        Alarm(
            key="latency",
            severity="P2",
            title="Readings are late",
            means="One in twenty takes longer from the device to the table than the SLO and this environment's buffering allow.",
            act="See which stage is slow on the dashboard: Firehose's freshness, the queue's age, the loader's time.",
            measure=metrics.watch("LatencySeconds"),
            comparison=">",
            threshold=latency_threshold_seconds(settings),
            out_of=(5, 5),
            missing="notBreaching",
            because="Without readings there is no latency; that nothing arrives, or nobody measures, has its own alarms.",
            quiet=stalled,
        ),
        Alarm(
            key="loss",
            severity="P2",
            title="More than 0.01 % of readings are missing",
            means="There are gaps in the devices' sequence numbers beyond the SLO.",
            act="Find whether the gaps share devices or minutes; compare S3 with the ledger (fleet replay --dry-run).",
            measure=metrics.watch("MissingPartsPerMillion"),
            comparison=">",
            threshold=100,
            out_of=(5, 5),
            missing="ignore",
            because=_WATCH,
            quiet=Quiet(by=(*_STALLED, "loss-high"), group="readings-held-up", wait_seconds=300),
        ),
        Alarm(
            key="loss-high",
            severity="P1",
            title="More than 5 % of readings are missing",
            means="There are gaps in the devices' sequence numbers on a scale that is no matter of single devices.",
            act="Find where they are lost: compare devices, rule, S3 and the ledger, in this order.",
            measure=metrics.watch("MissingPartsPerMillion"),
            comparison=">",
            threshold=50_000,
            out_of=(3, 3),
            missing="ignore",
            because=_WATCH,
            quiet=stalled,
        ),
        Alarm(
            key="quarantine",
            severity="P2",
            title="More than 0.1 % of readings go to quarantine",
            means="They are refused with a reason and kept.",
            act="See the reasons with fleet quarantine list; mend the devices or the rules, then redrive.",
            measure=metrics.watch("QuarantinedPartsPerMillion"),
            comparison=">",
            threshold=1000,
            out_of=(5, 5),
            missing="ignore",
            because=_WATCH,
        ),
        Alarm(
            key="detection-not-running",
            severity="P2",
            title="Anomaly detection does not run",
            means="Rows are loaded whose values nobody judged, or the detection fails on some of them. No reading is lost.",
            act="Read the loader's log; roll back the last deployment of the loader.",
            measure=Math("IF((rows > 0 AND FILL(checked, 0) == 0) OR FILL(faults, 0) > 0, 1, 0)", counted, 300),
            comparison=">",
            threshold=0,
            out_of=(2, 2),
            missing="notBreaching",
            because="Without rows there is nothing to detect.",
        ),
        Alarm(
            key="detection-late",
            severity="P2",
            title="Anomalies are found late",
            means="One in twenty that loaders find takes longer from AWS IoT Core to its episode than the SLO allows.",
            act="See which stage is slow on the dashboard, as for late readings; then whether loaders wait for locks.",
            measure=metrics.watch("AnomalyDetectionSeconds"),
            comparison=">",
            threshold=detection_threshold_seconds(settings),
            out_of=(5, 5),
            missing="notBreaching",
            because="Without an anomaly there is nothing to be late with; that nobody looks has its own alarms.",
            quiet=Quiet(by=(*_STALLED, "latency"), group="readings-late", wait_seconds=300),
        ),
        Alarm(
            key="anomalies-critical",
            severity="P2",
            title="A critical anomaly was found",
            means="Within the last five minutes, in at least one device: readings that cannot be right, or a plant that is not.",
            act="See which with fleet anomalies list --severity critical; look at the device, then resolve it with a note.",
            measure=metrics.watch("AnomaliesCritical"),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because="The watch sends 0 when there is none; that it is silent has an alarm of its own.",
        ),
    )
