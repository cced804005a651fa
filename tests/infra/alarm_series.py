"""What the metrics look like while all is well, and while one thing is broken: simulated series for the alarms.

The values are what AWS and our functions would send, written down here apart from the thresholds they are to meet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from infra.settings import Settings
from tests.infra.alarm_evaluation import MetricKey, Samples

INSTANCE = "i-0123456789abcdef0"
Value = float | None
"""None: nothing is sent."""
Values = dict[str, Value]
"""By metric, in short: `who.MetricName`."""


@dataclass(frozen=True)
class World:
    """Who sends which metrics in an environment."""

    settings: Settings

    def metric(self, short: str) -> MetricKey:
        """`watch.LatencySeconds` as namespace, name and dimensions."""
        names = self.settings.names
        who, _, name = short.partition(".")
        namespace, dimensions = {
            **{
                ours: ("Fleetledger", {"service": service})
                for ours, service in {
                    "watch": names.watch,
                    "probe": names.probe,
                    "loader": names.loader,
                    "sweeper": names.sweeper,
                    "maintenance": names.maintenance,
                }.items()
            },
            **{
                f"{function}-function": ("AWS/Lambda", {"FunctionName": name_of})
                for function, name_of in {
                    "watch": names.watch,
                    "loader": names.loader,
                    "sweeper": names.sweeper,
                    "rotation": names.rotation,
                }.items()
            },
            "agent": ("Fleetledger/Database", {"service": names.database_service}),
            "instance": ("AWS/EC2", {"InstanceId": INSTANCE}),
            "broker": ("AWS/IoT", {"Protocol": "MQTT"}),
            "rule": ("AWS/IoT", {"RuleName": names.rule}),
            "error-action": ("AWS/IoT", {"RuleName": names.rule, "ActionType": "SQS"}),
            "stream": ("AWS/Firehose", {"DeliveryStreamName": names.stream}),
            "objects": ("AWS/SQS", {"QueueName": names.object_queue}),
            "objects-dlq": ("AWS/SQS", {"QueueName": names.object_dead_letters}),
            "rule-errors": ("AWS/SQS", {"QueueName": names.rule_error_queue}),
            "rule-errors-dlq": ("AWS/SQS", {"QueueName": names.rule_error_dead_letters}),
        }[who]
        return namespace, name, frozenset(dimensions.items())

    def every_minutes(self, short: str) -> int:
        """How often a metric is sent, in minutes."""
        return self.settings.sweep_interval_minutes if short.startswith("sweeper") else 1


WELL: Values = {
    "probe.IotReachable": 1,
    "broker.Connect.AuthError": 2,
    "rule.TopicMatch": 2400,
    "stream.IncomingRecords": 2400,
    "stream.DeliveryToS3.Success": 1,
    "stream.DeliveryToS3.DataFreshness": 64,
    "objects.ApproximateAgeOfOldestMessage": 0,
    "objects-dlq.ApproximateNumberOfMessagesVisible": 0,
    "rule-errors.ApproximateAgeOfOldestMessage": 0,
    "rule-errors-dlq.ApproximateNumberOfMessagesVisible": 0,
    "loader.Rows": 60_000,
    "loader.ReadingsChecked": 60_000,
    "loader.DetectionFaults": 0,
    "loader.ObjectsRejected": 0,
    "loader.DatabaseUnreachable": 0,
    "loader-function.Errors": 0,
    "loader-function.Throttles": 0,
    "loader-function.Duration": 350,
    "sweeper.ObjectsNeverLoaded": 0,
    "sweeper-function.Errors": 0,
    "watch-function.Errors": 0,
    "watch.DatabaseReachable": 1,
    "watch.DatabaseConnectionsPercent": 22,
    "watch.DevicesOfflinePercent": 0.3,
    "watch.DevicesOfflineOverAnHour": 0,
    "watch.LatencySeconds": 4.1,
    "watch.MissingPartsPerMillion": 12,
    "watch.QuarantinedPartsPerMillion": 40,
    "watch.UnarchivedWalSeconds": 20,
    "watch.AnomalyDetectionSeconds": 5.2,
    "watch.AnomaliesCritical": 0,
    "maintenance.OldestTouchedSeconds": 35,
    "maintenance.BalanceMissingPartsPerMillion": 12,
    "agent.mem_used_percent": 41,
    "agent.disk_used_percent": 55,
    "agent.BackupAgeSeconds": 40_000,
    "instance.StatusCheckFailed": 0,
    "instance.CPUUtilization": 35,
    "instance.CPUSurplusCreditsCharged": 0,
}
_OF_DATABASE: Values = {name: None for name in WELL if name.startswith("watch.")} | {"watch.DatabaseReachable": 0}


@dataclass(frozen=True)
class Fault:
    """What differs from WELL while something is broken, by the minutes since it broke."""

    values: Values = field(default_factory=dict)
    rising: Mapping[str, Callable[[int], Value]] = field(default_factory=dict)

    def at(self, minute: int) -> dict[str, Value]:
        """What is sent in a minute of the fault."""
        return {**self.values, **{name: value(minute) for name, value in self.rising.items()}}


def samples(
    world: World,
    *,
    minutes: int,
    fault: Fault,
    broken: range,
    after: Callable[[int], Values] = lambda _: {},
) -> Samples:
    """All series over so many minutes; `after` is what still differs, by the minutes since it was mended."""
    series: dict[MetricKey, list[tuple[int, float]]] = {}
    for minute in range(minutes):
        values: dict[str, Value] = dict(WELL)
        if minute in broken:
            values |= fault.at(minute - broken.start)
        elif minute >= broken.stop:
            values |= after(minute - broken.stop)
        for short, value in values.items():
            if value is not None and minute % world.every_minutes(short) == 0:
                series.setdefault(world.metric(short), []).append((minute * 60 + 1, value))
    return series


def _since(start: int, value: float, before: Value = 0) -> Callable[[int], Value]:
    return lambda minute: value if minute >= start else before


def _age(minute: int) -> Value:
    return 60.0 * minute


# One fault for each alarm, and for `fires` no more than what its metric needs.
FAULTS: Mapping[str, Fault] = {
    "iot-unreachable": Fault({"probe.IotReachable": 0}),
    "no-messages": Fault({"stream.IncomingRecords": None}),
    "iot-connect-errors": Fault({"broker.Connect.ServerError": 9}),
    "iot-publish-errors": Fault({"broker.PublishIn.ServerError": 9}),
    "iot-devices-refused": Fault({"broker.Connect.AuthError": 30}),
    "rule-failures": Fault({"rule-errors.NumberOfMessagesSent": 7}),
    "rule-messages-lost": Fault({"error-action.ErrorActionFailure": 1}),
    "rule-throttled": Fault({"rule.RuleExecutionThrottled": 3}),
    "rule-parse-errors": Fault({"rule.ParseError": 1}),
    "rule-errors-stuck": Fault(rising={"rule-errors.ApproximateAgeOfOldestMessage": _age}),
    "rule-errors-dead-letters": Fault({"rule-errors-dlq.ApproximateNumberOfMessagesVisible": 1}),
    "firehose-delivery-failures": Fault({"stream.DeliveryToS3.Success": 0.9}),
    "firehose-freshness": Fault(rising={"stream.DeliveryToS3.DataFreshness": _age}),
    "firehose-throttled": Fault({"stream.ThrottledRecords": 500}),
    "objects-waiting": Fault(rising={"objects.ApproximateAgeOfOldestMessage": _age}),
    "objects-dead-letters": Fault({"objects-dlq.ApproximateNumberOfMessagesVisible": 1}),
    "objects-never-loaded": Fault({"sweeper.ObjectsNeverLoaded": 4}),
    "objects-rejected": Fault({"loader.ObjectsRejected": 1}),
    "loader-crashes": Fault({"loader-function.Errors": 2}),
    "loader-cannot-connect": Fault({"loader.DatabaseUnreachable": 5}),
    "loader-retries": Fault({"loader.MessagesFailed": 1}),
    "loader-throttled": Fault({"loader-function.Throttles": 12}),
    "loader-slow": Fault({"loader-function.Duration": 110_000}),
    "devices-offline": Fault({"watch.DevicesOfflinePercent": 61}),
    "device-offline": Fault({"watch.DevicesOfflineOverAnHour": 1}),
    "latency": Fault({"watch.LatencySeconds": 140}),
    "loss": Fault({"watch.MissingPartsPerMillion": 180}),
    "loss-high": Fault({"watch.MissingPartsPerMillion": 80_000}),
    "quarantine": Fault({"watch.QuarantinedPartsPerMillion": 2500}),
    "detection-not-running": Fault({"loader.ReadingsChecked": None}),
    "detection-late": Fault({"watch.AnomalyDetectionSeconds": 170}),
    "anomalies-critical": Fault({"watch.AnomaliesCritical": 2}),
    "database-unreachable": Fault(_OF_DATABASE),
    "database-connections": Fault({"watch.DatabaseConnectionsPercent": 93}),
    "database-disk-filling": Fault({"agent.disk_used_percent": 85}),
    "database-disk-full": Fault({"agent.disk_used_percent": 94}),
    "database-memory": Fault({"agent.mem_used_percent": 96}),
    "database-agent-silent": Fault({name: None for name in WELL if name.startswith("agent.")}),
    "database-backup-age": Fault({"agent.BackupAgeSeconds": 97_000}),
    "database-wal-unarchived": Fault(rising={"watch.UnarchivedWalSeconds": _age}),
    "database-instance-down": Fault({"instance.StatusCheckFailed": 1}),
    "database-cpu": Fault({"instance.CPUUtilization": 97}),
    "database-cpu-credits": Fault({"instance.CPUSurplusCreditsCharged": 0.4}),
    "watch-silent": Fault({name: None for name in WELL if name.startswith("watch.")}),
    "watch-errors": Fault({"watch-function.Errors": 1}),
    "probe-silent": Fault({"probe.IotReachable": None}),
    "sweeper-errors": Fault({"sweeper-function.Errors": 1}),
    "sweeper-silent": Fault({"sweeper.ObjectsNeverLoaded": None}),
    "maintenance-silent": Fault({name: None for name in WELL if name.startswith("maintenance.")}),
    "rollups-stale": Fault(rising={"maintenance.OldestTouchedSeconds": _age}),
    "balance-missing": Fault({"maintenance.BalanceMissingPartsPerMillion": 400}),
    "rotation-errors": Fault({"rotation-function.Errors": 1}),
}

# Whole faults, with everything that follows from them.
_NOTHING_LOADED: Values = {
    "loader.Rows": None,
    "loader.ReadingsChecked": None,
    "loader.DetectionFaults": None,
    "loader.ObjectsRejected": None,
    "watch.LatencySeconds": None,
    "watch.AnomalyDetectionSeconds": None,
}
_NOBODY_SEEN: Mapping[str, Callable[[int], Value]] = {
    "watch.DevicesOfflinePercent": _since(10, 100),
    "watch.DevicesOfflineOverAnHour": _since(60, 1000),
}
_NO_LOADER: Values = _NOTHING_LOADED | {name: None for name in WELL if name.startswith(("loader.", "loader-function."))}
_SILENT_STREAM: Values = _NO_LOADER | {
    "stream.IncomingRecords": None,
    "stream.DeliveryToS3.Success": None,
    "stream.DeliveryToS3.DataFreshness": None,
    "rule.TopicMatch": None,
}
_DATABASE_DOWN = Fault(
    _OF_DATABASE
    | _NOTHING_LOADED
    | {
        "loader.DatabaseUnreachable": 5,
        "loader.MessagesFailed": 20,
        "sweeper.ObjectsNeverLoaded": None,
        "sweeper-function.Errors": 1,
        "maintenance.OldestTouchedSeconds": None,
        "maintenance.BalanceMissingPartsPerMillion": None,
    },
    {"objects.ApproximateAgeOfOldestMessage": _age, "loader-function.Duration": _since(0, 30_000)},
)
INCIDENTS: Mapping[str, tuple[str, Fault]] = {
    "the database is down": ("database-unreachable", _DATABASE_DOWN),
    "the database's instance is gone": (
        "database-unreachable",
        replace(
            _DATABASE_DOWN,
            values=_DATABASE_DOWN.values | {name: None for name in WELL if name.startswith(("agent.", "instance."))},
        ),
    ),
    "the database's host fails its checks": (
        "database-unreachable",
        replace(
            _DATABASE_DOWN,
            values=_DATABASE_DOWN.values
            | {name: None for name in WELL if name.startswith("agent.")}
            | {"instance.StatusCheckFailed": 1},
        ),
    ),
    "no device sends": ("no-messages", Fault(_SILENT_STREAM, _NOBODY_SEEN)),
    "AWS IoT Core is unreachable": (
        "iot-unreachable",
        Fault(
            _SILENT_STREAM
            | {"probe.IotReachable": 0, "broker.Connect.ServerError": 400, "broker.PublishIn.ServerError": 300},
            _NOBODY_SEEN,
        ),
    ),
    "the rule may not write to Firehose": (
        "no-messages",
        Fault(
            _SILENT_STREAM | {"rule.TopicMatch": 2400, "rule-errors.NumberOfMessagesSent": 2400},
            _NOBODY_SEEN,
        ),
    ),
    "Firehose may not write to S3": (
        "firehose-delivery-failures",
        Fault(
            _NO_LOADER | {"stream.DeliveryToS3.Success": 0},
            {**_NOBODY_SEEN, "stream.DeliveryToS3.DataFreshness": _age},
        ),
    ),
    "the loader is stopped": (
        "objects-waiting",
        Fault(
            _NO_LOADER,
            {
                **_NOBODY_SEEN,
                "objects.ApproximateAgeOfOldestMessage": _age,
                "sweeper.ObjectsNeverLoaded": _since(20, 300),
            },
        ),
    ),
    "the loader crashes at once": (
        "loader-crashes",
        Fault(
            _NO_LOADER | {"loader-function.Errors": 30},
            {
                **_NOBODY_SEEN,
                "objects.ApproximateAgeOfOldestMessage": _age,
                "sweeper.ObjectsNeverLoaded": _since(20, 300),
            },
        ),
    ),
    "the loader's password is wrong": (
        "loader-cannot-connect",
        Fault(
            _NOTHING_LOADED | {"loader.DatabaseUnreachable": 5, "loader.MessagesFailed": 20},
            {
                **_NOBODY_SEEN,
                "objects.ApproximateAgeOfOldestMessage": _age,
                "sweeper.ObjectsNeverLoaded": _since(20, 300),
            },
        ),
    ),
    "the detection fails on some readings": ("detection-not-running", Fault({"loader.DetectionFaults": 3})),
    "the watch is broken": ("watch-silent", Fault(FAULTS["watch-silent"].values | {"watch-function.Errors": 1})),
    "a query of the watch fails": (
        "watch-errors",
        Fault({"watch-function.Errors": 1, "watch.MissingPartsPerMillion": None}),
    ),
    "readings and so anomalies are late": (
        "latency",
        Fault({"watch.LatencySeconds": 140, "watch.AnomalyDetectionSeconds": 170}),
    ),
    "maintenance is broken": ("maintenance-silent", FAULTS["maintenance-silent"]),
    "the sweeper is broken": (
        "sweeper-errors",
        Fault({"sweeper.ObjectsNeverLoaded": None, "sweeper-function.Errors": 1}),
    ),
    "the agent on the instance is dead": ("database-agent-silent", FAULTS["database-agent-silent"]),
    "most readings are lost": ("loss-high", FAULTS["loss-high"]),
}
