"""The custom metrics that what is deployed emits: each name with its dimension is billed as one.

They are not in the template (Lambda writes them to its log, the instance's agent sends them), so they stand here.
"""

LAMBDA_METRICS: dict[str, tuple[str, ...]] = {
    "loader": (
        "ObjectsLoaded",
        "ObjectsRejected",
        "ObjectsAlreadyLoaded",
        "Rows",
        "Duplicates",
        "Quarantined",
        "LoadMilliseconds",
        "EndToEndSeconds",
        "MessagesFailed",
        "ReadingsChecked",
        "DetectionFaults",
        "ReadingsOutOfRange",
        "DatabaseUnreachable",
    ),
    "sweeper": ("ObjectsNeverLoaded", "OldestNeverLoadedSeconds"),
    "watch": (
        "DatabaseReachable",
        "DatabaseConnectionsPercent",
        "DatabaseBytes",
        "DevicesKnown",
        "DevicesOffline",
        "DevicesOfflinePercent",
        "DevicesOfflineOverAnHour",
        "LatencySeconds",
        "MissingPartsPerMillion",
        "QuarantinedPartsPerMillion",
        "UnarchivedWalSeconds",
        "AnomaliesOpen",
        "AnomaliesOpenCritical",
        "AnomaliesOpenWarning",
        "AnomaliesOpenInfo",
        "AnomaliesDetected",
        "AnomaliesCritical",
        "AnomalyDetectionSeconds",
    ),
    "maintenance": (
        "BucketsRecomputed",
        "OldestTouchedSeconds",
        "ChunksDropped",
        "BalancesWritten",
        "BalanceMissingPartsPerMillion",
    ),
    "probe": ("IotReachable", "IotHandshakeMilliseconds"),
}
"""By the attribute of infra.names.Names that gives the function's name."""
INSTANCE_METRICS = ("mem_used_percent", "disk_used_percent", "BackupAgeSeconds")
