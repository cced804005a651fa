"""Alarms from the raw objects to the rows: queue, loader, sweeper."""

from infra.alarms.metrics import Metrics
from infra.alarms.model import Alarm, Quiet
from infra.settings import Settings

_IDLE_QUEUE = "An idle queue sends nothing."
_IDLE_LOADER = "A loader with nothing to load sends nothing."
_LOADING = ("database-unreachable", "loader-cannot-connect", "loader-crashes")
_DAY_SECONDS = 86_400


def loader(settings: Settings, metrics: Metrics) -> tuple[Alarm, ...]:
    """What keeps objects from becoming rows."""
    names = metrics.names
    database = Quiet(by=("database-unreachable",))
    return (
        Alarm(
            key="objects-waiting",
            severity="P1",
            title="Objects wait to be loaded",
            means="The oldest announcement is more than 5 minutes old: the loader is stopped, or too slow for what arrives.",
            act="Check that the loader's event source is enabled, that it is not throttled, and its log; raise its concurrency.",
            measure=metrics.queue(names.object_queue, "ApproximateAgeOfOldestMessage", "Maximum"),
            comparison=">",
            threshold=300,
            out_of=(3, 3),
            missing="notBreaching",
            because=_IDLE_QUEUE,
            quiet=Quiet(by=_LOADING, group="loader-stopped"),
        ),
        Alarm(
            key="objects-dead-letters",
            severity="P1",
            title="Objects could not be loaded",
            means="Their announcements lie in the dead-letter queue after hours of trying. The objects are in S3.",
            act="List them with fleet quarantine, mend the cause, and redrive them.",
            measure=metrics.queue(names.object_dead_letters, "ApproximateNumberOfMessagesVisible", "Maximum"),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because=_IDLE_QUEUE,
            quiet=database,
        ),
        Alarm(
            key="objects-never-loaded",
            severity="P1",
            title="Objects in S3 are not in the ledger",
            means="The sweeper found raw objects that nobody loaded, two sweeps running, although it announced them again.",
            act="Read the sweeper's log for their keys, then load them with fleet replay.",
            measure=metrics.of_function(
                names.sweeper, "ObjectsNeverLoaded", "Maximum", _sweep_period_seconds(settings)
            ),
            comparison=">",
            threshold=0,
            out_of=(2, 2),
            missing="ignore",
            because="Only a sweep can tell; until the next one nothing has changed.",
            quiet=Quiet(by=(*_LOADING, "objects-waiting", "objects-dead-letters"), group="objects-not-loaded"),
        ),
        Alarm(
            key="objects-rejected",
            severity="P2",
            title="Objects are rejected",
            means="They cannot be read (corrupt or truncated gzip, gone), so all of their readings are missing.",
            act="See the reason with fleet quarantine list; mend it and replay, or discard.",
            measure=metrics.loader("ObjectsRejected", period_seconds=300),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because=_IDLE_LOADER,
        ),
        Alarm(
            key="loader-crashes",
            severity="P1",
            title="The loader crashes or runs out of time",
            means="Whole batches fail, minute after minute. They are tried again, later and later.",
            act="Read the loader's log for the reason; roll back the last deployment when it began with it.",
            measure=metrics.invocations(names.loader, "Errors", "Sum"),
            comparison=">",
            threshold=0,
            out_of=(3, 5),
            missing="notBreaching",
            because="A function that is not invoked sends nothing.",
            quiet=database,
        ),
        Alarm(
            key="loader-cannot-connect",
            severity="P1",
            title="The loader cannot connect to the database",
            means="Its connections fail though the watch gets through: password, security group, or no connection left.",
            act="Read the loader's log for the error; compare the secret with the database's role.",
            measure=metrics.loader("DatabaseUnreachable"),
            comparison=">",
            threshold=0,
            out_of=(5, 5),
            missing="notBreaching",
            because=_IDLE_LOADER,
            quiet=database,
        ),
        Alarm(
            key="loader-retries",
            severity="P2",
            title="Messages fail and are tried again",
            means="Some do in every minute of ten: a fault that does not pass by itself.",
            act="Read the loader's log for what fails.",
            measure=metrics.loader("MessagesFailed"),
            comparison=">",
            threshold=0,
            out_of=(10, 10),
            missing="notBreaching",
            because=_IDLE_LOADER,
            quiet=Quiet(by=_LOADING, group="loader-stopped"),
        ),
        Alarm(
            key="loader-throttled",
            severity="P2",
            title="Lambda throttles the loader",
            means="The account's concurrency is used up by others; objects wait.",
            act="Find what uses the concurrency; request a higher quota.",
            measure=metrics.invocations(names.loader, "Throttles", "Sum"),
            comparison=">",
            threshold=0,
            out_of=(3, 5),
            missing="notBreaching",
            because="A function that is not invoked sends nothing.",
        ),
        Alarm(
            key="loader-slow",
            severity="P2",
            title="The loader comes near its timeout",
            means="One batch in a hundred takes more than 80 % of the time it has; what exceeds it fails and starts again.",
            act="Look at the database's CPU, disk and locks; then raise the loader's memory or timeout.",
            measure=metrics.invocations(names.loader, "Duration", "p99", 300),
            comparison=">",
            threshold=settings.loader_timeout_seconds * 1000 * 0.8,
            out_of=(3, 3),
            missing="notBreaching",
            because="A function that is not invoked sends nothing.",
        ),
    )


def _sweep_period_seconds(settings: Settings) -> int:
    """One sweep falls into each; two periods may be a day at most for CloudWatch."""
    return min(settings.sweep_interval_minutes * 60, _DAY_SECONDS // 2)
