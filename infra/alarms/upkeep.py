"""Alarms on the database, and on what runs by the clock."""

from infra.alarms.metrics import Metrics
from infra.alarms.model import Alarm, Metric, Quiet, SeverityName
from infra.settings import Settings

_WATCH = (
    "No value says that the watch does not run, which has an alarm of its own; a fault lasts until it says otherwise."
)
_AGENT = "That the agent is silent has an alarm of its own; a fault lasts until the agent says otherwise."
_BLIND = Quiet(by=("database-unreachable", "database-instance-down", "database-agent-silent"), group="instance-unseen")
_RPO_SECONDS = 300
_BACKUP_SECONDS = 26 * 3600
_DAY_SECONDS = 86_400
_STALE_SECONDS = 600
_MISSING_PPM = 100
"""The SLO's, as of the alarm `loss`."""


def database(metrics: Metrics) -> tuple[Alarm, ...]:
    """Of the database, wherever it is."""
    return (
        Alarm(
            key="database-unreachable",
            severity="P1",
            title="TimescaleDB does not answer",
            means="Nothing is loaded. Nothing is lost either: objects wait in S3 and their announcements in the queue.",
            act="See whether the instance runs and its disk has room; restart the database; verify that the queue drains.",
            measure=metrics.watch("DatabaseReachable"),
            comparison="<",
            threshold=1,
            out_of=(3, 3),
            missing="ignore",
            because=_WATCH,
        ),
        Alarm(
            key="database-connections",
            severity="P2",
            title="More than 80 % of the database's connections are used",
            means="At 100 % nobody gets a new one: neither the loader nor you.",
            act="See who holds them (pg_stat_activity), end what is idle in a transaction, lower the clients' pools.",
            measure=metrics.watch("DatabaseConnectionsPercent"),
            comparison=">",
            threshold=80,
            out_of=(5, 5),
            missing="ignore",
            because=_WATCH,
        ),
    )


def own_database(metrics: Metrics) -> tuple[Alarm, ...]:
    """Of a database on an instance of ours: what its agent and the watch measure."""
    return (
        _disk(metrics, "database-disk-filling", "P2", 80, Quiet(by=("database-disk-full",))),
        _disk(metrics, "database-disk-full", "P1", 90, None),
        Alarm(
            key="database-memory",
            severity="P2",
            title="The database's instance is short of memory",
            means="More than 90 % is used besides caches; the kernel may end the database.",
            act="See which queries use it; lower work_mem or take a larger instance.",
            measure=metrics.database("mem_used_percent"),
            comparison=">",
            threshold=90,
            out_of=(10, 10),
            missing="ignore",
            because=_AGENT,
        ),
        Alarm(
            key="database-agent-silent",
            severity="P2",
            title="The database's instance sends no measurements",
            means="Disk and memory are not watched.",
            act="Restart the CloudWatch agent by Session Manager; check the instance's role and endpoints.",
            measure=metrics.database("mem_used_percent", "SampleCount"),
            comparison="<",
            threshold=1,
            out_of=(5, 5),
            missing="breaching",
            because="Silence is what the alarm is about.",
            quiet=Quiet(by=("database-unreachable", "database-instance-down"), group="instance-gone", wait_seconds=180),
        ),
        Alarm(
            key="database-backup-age",
            severity="P1",
            title="There is no fresh backup",
            means="The newest complete backup is older than 26 hours, or there is none; restoring takes ever more WAL.",
            act="Read pgBackRest's log on the instance, mend the cause, and take a backup by hand.",
            measure=metrics.database("BackupAgeSeconds", "Maximum", 900),
            comparison=">",
            threshold=_BACKUP_SECONDS,
            out_of=(2, 2),
            missing="breaching",
            because="An age that nobody measures is not known to be young.",
            quiet=_BLIND,
        ),
        Alarm(
            key="database-wal-unarchived",
            severity="P1",
            title="WAL is not archived",
            means="The oldest unarchived WAL is more than 5 minutes old: losing the volume now would lose more than the RPO.",
            act="Read the archiver's error (pg_stat_archiver) and pgBackRest's log; check the bucket, its key and endpoint.",
            measure=metrics.watch("UnarchivedWalSeconds"),
            comparison=">",
            threshold=_RPO_SECONDS,
            out_of=(3, 3),
            missing="ignore",
            because=_WATCH,
        ),
    )


def _disk(metrics: Metrics, key: str, severity: SeverityName, percent: int, quiet: Quiet | None) -> Alarm:
    return Alarm(
        key=key,
        severity=severity,
        title=f"The database's disk is more than {percent} % full",
        means="A full disk stops the database.",
        act="See what grows (docs/runbook.md): rows, WAL that is not archived, logs. Then grow the volume.",
        measure=metrics.database("disk_used_percent"),
        comparison=">",
        threshold=percent,
        out_of=(5, 5),
        missing="ignore",
        because=_AGENT,
        quiet=quiet,
    )


def instance(settings: Settings, metrics: Metrics, instance_id: str) -> tuple[Alarm, ...]:
    """Of the instance itself, by what EC2 measures from outside. Its monitoring is detailed: a value a minute."""
    alarms = [
        Alarm(
            key="database-instance-down",
            severity="P1",
            title="The database's instance fails its status checks",
            means="EC2 cannot reach it, its volume stalls, or it is stopped.",
            act="Look at its system log; EC2 recovers it from failed hardware by itself; otherwise stop and start it.",
            measure=metrics.instance(instance_id, "StatusCheckFailed", "Maximum", 60),
            comparison=">",
            threshold=0,
            out_of=(5, 5),
            missing="breaching",
            because="A stopped instance sends nothing.",
            quiet=Quiet(by=("database-unreachable",)),
        ),
        Alarm(
            key="database-cpu",
            severity="P2",
            title="The database's CPU is busy",
            means="More than 90 % for 15 minutes; loading and queries slow down.",
            act="See which queries run long (pg_stat_activity), and whether a backup or a replay runs; take a larger instance.",
            measure=metrics.instance(instance_id, "CPUUtilization", "Average", 300),
            comparison=">",
            threshold=90,
            out_of=(3, 3),
            missing="ignore",
            because="That the instance is silent has an alarm of its own.",
        ),
    ]
    if settings.database_instance_type.startswith("t"):
        alarms.append(
            Alarm(
                key="database-cpu-credits",
                severity="P3",
                title="The burstable instance uses more CPU than it pays for",
                means="Surplus credits are charged by the hour; a larger or a fixed type may cost less.",
                act="Compare the surplus with the price of the next type (fleet cost), and change the type.",
                measure=metrics.instance(instance_id, "CPUSurplusCreditsCharged", "Maximum", 300),
                comparison=">",
                threshold=0,
                out_of=(3, 3),
                missing="ignore",
                because="That the instance is silent has an alarm of its own.",
            )
        )
    return tuple(alarms)


def schedules(settings: Settings, metrics: Metrics) -> tuple[Alarm, ...]:
    """Of what runs by the clock, each by a metric that it sends with every run that gets to its end."""
    names = metrics.names
    sweep = min(settings.sweep_interval_minutes * 60, _DAY_SECONDS // 2)
    return (
        _silent(
            "watch",
            names.watch,
            metrics.watch("DatabaseReachable", "SampleCount"),
            means="Devices, loss, latency and the database are not watched.",
        ),
        Alarm(
            key="watch-errors",
            severity="P2",
            title="Runs of the watch fail",
            means="The database answers, and a query of the watch fails: what comes after it is not measured.",
            act=f"Read the log of {names.watch}.",
            measure=metrics.invocations(names.watch, "Errors", "Sum"),
            comparison=">",
            threshold=0,
            out_of=(3, 5),
            missing="notBreaching",
            because="A function that is not invoked sends nothing.",
            quiet=Quiet(by=("database-unreachable", "watch-silent"), group="watch-stopped"),
        ),
        _silent(
            "probe",
            names.probe,
            metrics.of_function(names.probe, "IotReachable", "SampleCount"),
            means="An outage of AWS IoT Core would not be noticed as such.",
        ),
        Alarm(
            key="sweeper-errors",
            severity="P2",
            title="A run of the sweeper failed",
            means="Objects that were never loaded are found later, or not at all where the daily sweep of everything failed.",
            act=f"Read the log of {names.sweeper}; invoke it by hand once it is mended.",
            measure=metrics.invocations(names.sweeper, "Errors", "Sum", 3600),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because="A function that is not invoked sends nothing.",
            quiet=Quiet(by=("database-unreachable",)),
        ),
        _silent(
            "sweeper",
            names.sweeper,
            metrics.of_function(names.sweeper, "ObjectsNeverLoaded", "SampleCount", sweep),
            means="Objects that were never loaded are not found.",
            out_of=(2, 2),
            quiet=Quiet(by=("database-unreachable", "sweeper-errors"), group="sweeper-stopped"),
        ),
    )


def maintenance(metrics: Metrics) -> tuple[Alarm, ...]:
    """Of the rollups, and of what keeps them up to date."""
    function = metrics.names.maintenance
    return (
        _silent(
            "maintenance",
            function,
            metrics.of_function(function, "OldestTouchedSeconds", "SampleCount"),
            means="Rollups fall behind what was loaded, and what has expired is not dropped.",
            quiet=Quiet(by=("database-unreachable",)),
        ),
        Alarm(
            key="rollups-stale",
            severity="P2",
            title="Rollups are stale",
            means="A change waits for more than 10 minutes to be seen in them; after a great replay that is the time it takes.",
            act=f"See in the log of {function} whether it goes on; on the Community edition look at the database's job.",
            measure=metrics.of_function(function, "OldestTouchedSeconds", "Maximum"),
            comparison=">",
            threshold=_STALE_SECONDS,
            out_of=(3, 3),
            missing="ignore",
            because="That maintenance is silent has an alarm of its own; rollups are stale until it says otherwise.",
            quiet=Quiet(by=("database-unreachable", "maintenance-silent"), group="maintenance-stopped"),
        ),
        Alarm(
            key="balance-missing",
            severity="P2",
            title="The balance of the last day does not come out",
            means="Of the readings of the last 24 closed hours more than 0.01 % are neither rows nor in quarantine.",
            act="Draw up the balance (fleet audit), see which devices and hours it names, compare S3 (fleet replay --dry-run).",
            measure=metrics.of_function(function, "BalanceMissingPartsPerMillion", "Maximum"),
            comparison=">",
            threshold=_MISSING_PPM,
            out_of=(15, 15),
            missing="ignore",
            because="That maintenance is silent has an alarm of its own; what is missing stays so until it says otherwise.",
            quiet=Quiet(
                by=("objects-waiting", "objects-dead-letters", "loss", "loss-high", "maintenance-silent"),
                group="loss-known",
                wait_seconds=300,
            ),
        ),
    )


def _silent(
    what: str, function: str, sent: Metric, *, means: str, out_of: tuple[int, int] = (3, 5), quiet: Quiet | None = None
) -> Alarm:
    return Alarm(
        key=f"{what}-silent",
        severity="P2",
        title=f"The {what} does not run to its end",
        means=means,
        act=f"Check that its schedule is enabled, then read the log of {function}.",
        measure=sent,
        comparison="<",
        threshold=1,
        out_of=out_of,
        missing="breaching",
        because="Silence is what the alarm is about.",
        quiet=quiet,
    )


def rotation(metrics: Metrics) -> tuple[Alarm, ...]:
    """Of the rotation of passwords."""
    return (
        Alarm(
            key="rotation-errors",
            severity="P2",
            title="A password could not be rotated",
            means="The old one stays valid, so nothing stops; it is only older than it should be.",
            act=f"Read the log of {metrics.names.rotation}; then have Secrets Manager rotate again.",
            measure=metrics.invocations(metrics.names.rotation, "Errors", "Sum", 300),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because="A function that is not invoked sends nothing.",
        ),
    )
