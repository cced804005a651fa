"""The loader's metrics, written to its log in CloudWatch's embedded metric format: no call, no agent, no permission.

Namespace `Fleetledger`, dimension `service` (the function's name).
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from datetime import datetime

from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit

from lambdas.processor.load import Outcome

NAMESPACE = "Fleetledger"
_metrics = Metrics(namespace=NAMESPACE)


def count(outcome: Outcome, now: datetime) -> None:
    """Counts what became of one object. An object that was loaded already is counted as such and as nothing else."""
    if outcome.status == "already_loaded":
        _metrics.add_metric("ObjectsAlreadyLoaded", MetricUnit.Count, 1)
        return
    rejected = outcome.status == "rejected"
    _metrics.add_metric("ObjectsRejected", MetricUnit.Count, int(rejected))
    _metrics.add_metric("ObjectsLoaded", MetricUnit.Count, int(not rejected))
    _metrics.add_metric("Rows", MetricUnit.Count, outcome.rows)
    _metrics.add_metric("Duplicates", MetricUnit.Count, outcome.duplicates)
    _metrics.add_metric("Quarantined", MetricUnit.Count, outcome.quarantined)
    # What is quarantined has no values that could be judged.
    _metrics.add_metric("ReadingsChecked", MetricUnit.Count, outcome.checked)
    _metrics.add_metric("DetectionFaults", MetricUnit.Count, outcome.detection_faults)
    _metrics.add_metric("ReadingsOutOfRange", MetricUnit.Count, outcome.out_of_range)
    _metrics.add_metric("LoadMilliseconds", MetricUnit.Milliseconds, outcome.milliseconds)
    if outcome.first is not None:
        # Of the object's oldest reading: no other waited longer. A backlog sent late counts as the delay it is.
        _metrics.add_metric("EndToEndSeconds", MetricUnit.Seconds, (now - outcome.first).total_seconds())


def count_batch(*, failed: int, unreachable: int) -> None:
    """Counts, of one batch, the messages to be delivered again, and how often the database could not be connected to."""
    if failed:
        _metrics.add_metric("MessagesFailed", MetricUnit.Count, failed)
    # Zero too: without it, a database that is well and a loader that does not run would look the same.
    _metrics.add_metric("DatabaseUnreachable", MetricUnit.Count, unreachable)


def flush() -> None:
    """Writes what was counted since the last flush; nothing when there is nothing."""
    if _metrics.metric_set:
        _metrics.flush_metrics()
