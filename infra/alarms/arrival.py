"""Alarms from the devices to the raw objects: the broker, the rule, Firehose."""

from infra.alarms.metrics import Metrics
from infra.alarms.model import Alarm, Math, Query, Quiet
from infra.settings import Settings

_SPARSE = "AWS sends it only when it happens."
_FRESHNESS_SECONDS = 300
_DELIVERY_MARGIN_SECONDS = 240


def freshness_threshold_seconds(settings: Settings) -> int:
    """The runbook's five minutes, or the buffer's time and four minutes more where buffering alone takes that long."""
    return max(_FRESHNESS_SECONDS, settings.buffer_interval_seconds + _DELIVERY_MARGIN_SECONDS)


def broker(metrics: Metrics) -> tuple[Alarm, ...]:
    """What keeps devices from reaching the account."""
    names = metrics.names
    unreachable = Quiet(by=("iot-unreachable",))
    return (
        Alarm(
            key="iot-unreachable",
            severity="P0",
            title="AWS IoT Core does not answer",
            means="The probe fails to complete a TLS handshake with this account's IoT endpoint, three minutes running.",
            act="Look at the AWS Health Dashboard for IoT Core in this region; then read the probe's log.",
            measure=metrics.of_function(names.probe, "IotReachable", "Maximum"),
            comparison="<",
            threshold=1,
            out_of=(3, 3),
            missing="ignore",
            because="No value says that the probe is broken, which has an alarm of its own, and nothing about IoT Core.",
        ),
        Alarm(
            key="no-messages",
            severity="P0",
            title="No message ingested for 5 minutes",
            means="Nothing has reached Firehose, by whichever topic it was published.",
            act="Check that the rule is enabled and the stream ACTIVE, then whether devices can connect.",
            # Not IoT's PublishIn.Success: that one is the account's, and Basic Ingest is not a broker message.
            measure=metrics.stream("IncomingRecords", "Sum"),
            comparison="<",
            threshold=1,
            out_of=(5, 5),
            missing="breaching",
            because="A stream that gets nothing sends nothing: silence is what the alarm is about.",
            quiet=Quiet(by=("iot-unreachable",), wait_seconds=60),
        ),
        Alarm(
            key="iot-connect-errors",
            severity="P1",
            title="AWS IoT Core fails to accept connections",
            means="Connections fail by an internal error of AWS; single ones are normal, and devices try again.",
            act="Look at the AWS Health Dashboard for IoT Core; open a support case when it shows nothing.",
            measure=metrics.broker("Connect.ServerError", 300),
            comparison=">",
            threshold=10,
            out_of=(2, 3),
            missing="notBreaching",
            because=_SPARSE,
            quiet=unreachable,
        ),
        Alarm(
            key="iot-publish-errors",
            severity="P1",
            title="AWS IoT Core fails to take messages",
            means="Publishes fail by an internal error of AWS; devices with QoS 1 send again, those with QoS 0 lose them.",
            act="Look at the AWS Health Dashboard for IoT Core; open a support case when it shows nothing.",
            measure=metrics.broker("PublishIn.ServerError", 300),
            comparison=">",
            threshold=10,
            out_of=(2, 3),
            missing="notBreaching",
            because=_SPARSE,
            quiet=unreachable,
        ),
        Alarm(
            key="iot-devices-refused",
            severity="P3",
            title="Devices are refused",
            means="Connections are not authorised: certificates revoked or not attached, or somebody who is no device.",
            act="List the client ids in the IoT log; register again what is ours, leave refused what is not.",
            measure=metrics.broker("Connect.AuthError", 300),
            comparison=">",
            threshold=50,
            out_of=(3, 3),
            missing="notBreaching",
            because=_SPARSE,
        ),
    )


def rule(metrics: Metrics) -> tuple[Alarm, ...]:
    """What goes wrong between the broker and Firehose."""
    names = metrics.names
    throttled = {name: metrics.rule(metric) for name, metric in _THROTTLED.items()}
    return (
        Alarm(
            key="rule-failures",
            severity="P1",
            title="The rule cannot hand messages to Firehose",
            means="Its action fails minute after minute. The messages are kept: they go to the error queue and quarantine.",
            act="Check the rule's role and the stream's state; redrive quarantine once it works.",
            # The queue counts a failure whatever IoT calls the action's type, which its own metric has as a dimension.
            measure=metrics.queue(names.rule_error_queue, "NumberOfMessagesSent", "Sum"),
            comparison=">",
            threshold=0,
            out_of=(3, 5),
            missing="notBreaching",
            because="An idle queue sends nothing.",
            # Where every message fails, nothing reaches Firehose, which is the greater alarm and noticed later.
            quiet=Quiet(by=("no-messages",), wait_seconds=240),
        ),
        Alarm(
            key="rule-messages-lost",
            severity="P1",
            title="Messages are lost at the rule",
            means="The rule's action failed, and so did the action that keeps such messages. They are gone.",
            act="Check the error queue's policy, its key and the rule's second role.",
            measure=Query("SUM", "AWS/IoT", "ErrorActionFailure", ("ActionType", "RuleName"), {"RuleName": names.rule}),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because=_SPARSE,
        ),
        Alarm(
            key="rule-throttled",
            severity="P1",
            title="The rules engine throttles the rule",
            means="More messages arrive than the account's quota lets the rule take; the excess is dropped.",
            act="Find the devices that send too much, and request a higher quota for inbound rule evaluations.",
            # IoT's manual has had both names for it; whichever is sent counts.
            measure=Math("FILL(older, 0) + FILL(newer, 0)", throttled),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because=_SPARSE,
        ),
        Alarm(
            key="rule-parse-errors",
            severity="P2",
            title="Payloads that are no JSON",
            means="The rule's SQL cannot read them.",
            act="Find which devices send them in quarantine, and what firmware they run.",
            measure=metrics.rule("ParseError", 300),
            comparison=">",
            threshold=0,
            out_of=(2, 3),
            missing="notBreaching",
            because=_SPARSE,
        ),
        Alarm(
            key="rule-errors-stuck",
            severity="P2",
            title="Messages of failed rule actions are not moved to quarantine",
            means="The oldest waits for more than 15 minutes.",
            act=f"Read the log of {names.rule_errors_loader}.",
            measure=metrics.queue(names.rule_error_queue, "ApproximateAgeOfOldestMessage", "Maximum"),
            comparison=">",
            threshold=900,
            out_of=(3, 3),
            missing="notBreaching",
            because="An idle queue sends nothing.",
            quiet=Quiet(by=("database-unreachable",)),
        ),
        Alarm(
            key="rule-errors-dead-letters",
            severity="P1",
            title="Messages of failed rule actions could not be quarantined",
            means="They lie in the dead-letter queue, and expire there after 14 days.",
            act="List them with fleet quarantine, see why, and redrive them.",
            measure=metrics.queue(names.rule_error_dead_letters, "ApproximateNumberOfMessagesVisible", "Maximum"),
            comparison=">",
            threshold=0,
            out_of=(1, 1),
            missing="notBreaching",
            because="An idle queue sends nothing.",
            quiet=Quiet(by=("database-unreachable",)),
        ),
    )


_THROTTLED = {"older": "RuleMessageThrottled", "newer": "RuleExecutionThrottled"}


def firehose(settings: Settings, metrics: Metrics) -> tuple[Alarm, ...]:
    """What goes wrong between Firehose and the bucket."""
    return (
        Alarm(
            key="firehose-delivery-failures",
            severity="P1",
            title="Firehose fails to write more than 5 % of its objects",
            means="It tries each for 24 hours and then drops it.",
            act="Read the stream's error log; check its role, the bucket's policy and the key.",
            measure=metrics.stream("DeliveryToS3.Success", "Average", 300),
            comparison="<",
            threshold=0.95,
            # Attempts may be further apart than a period: one that failed counts for a quarter of an hour.
            out_of=(1, 3),
            missing="notBreaching",
            because="Without an attempt there is no value; that nothing arrives has an alarm of its own.",
        ),
        Alarm(
            key="firehose-freshness",
            severity="P1",
            title="Firehose falls behind",
            means="The oldest record it holds is older than buffering explains.",
            act="Check delivery failures and throttling first, then the AWS Health Dashboard for Firehose and S3.",
            measure=metrics.stream("DeliveryToS3.DataFreshness", "Maximum"),
            comparison=">",
            threshold=freshness_threshold_seconds(settings),
            out_of=(3, 3),
            missing="notBreaching",
            because="A stream that holds nothing has no oldest record.",
            quiet=Quiet(by=("firehose-delivery-failures",), wait_seconds=300),
        ),
        Alarm(
            key="firehose-throttled",
            severity="P2",
            title="Firehose throttles what the rule sends",
            means="The stream's quota is reached. What the rule fails to hand over goes to its error queue.",
            act="Request a higher quota for the stream, or have devices send envelopes.",
            measure=metrics.stream("ThrottledRecords", "Sum"),
            comparison=">",
            threshold=0,
            out_of=(3, 5),
            missing="notBreaching",
            because=_SPARSE,
        ),
    )
