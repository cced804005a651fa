"""The Monitoring stack: who is told when something is wrong, the alarms, the budget and the dashboard."""

from typing import Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.alarms.catalogue import catalogue, causes_of
from infra.alarms.model import Alarm, Math, Metric
from infra.dashboard import metric, telemetry_dashboard
from infra.nag import acknowledge
from infra.notifications import Notifications
from infra.settings import Settings

RUNBOOK = "docs/runbook.md"
_OPERATORS = {
    ">": cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
    ">=": cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
    "<": cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
    "<=": cloudwatch.ComparisonOperator.LESS_THAN_OR_EQUAL_TO_THRESHOLD,
}
_MISSING = {
    "breaching": cloudwatch.TreatMissingData.BREACHING,
    "notBreaching": cloudwatch.TreatMissingData.NOT_BREACHING,
    "ignore": cloudwatch.TreatMissingData.IGNORE,
}
_TOLD_BY_ANOTHER = {
    "NIST.800.53.R5-CloudWatchAlarmAction": "What it finds is told by the composite alarm that refers to it, unless the "
    "cause has been told already."
}


class MonitoringStack(Stack):
    """The alarms of the catalogue, and whom they tell.

    An alarm that may follow from others is two: the measurement, which tells nobody, and a composite alarm of the
    alarm's own name, which tells unless one of those others is in alarm, so that one fault pages once.
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-combining.html
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        key: kms.IKey,
        database_instance_id: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        self._suffix = settings.names.suffix
        self._notifications = Notifications(self, "Notifications", settings=settings, key=key)
        self._groups: dict[str, cloudwatch.CompositeAlarm] = {}
        alarms = catalogue(settings, database_instance_id=database_instance_id)
        self._measured = {alarm.key: self._measurement(alarm, alarms) for alarm in alarms}
        told = {alarm.key: self._told(alarm, causes_of(alarm, alarms)) for alarm in alarms}
        if settings.budget_dollars_per_month and settings.alarms == "full":
            self._budget(settings.budget_dollars_per_month)
        telemetry_dashboard(
            self,
            "Dashboard",
            settings=settings,
            runbook=self._runbook,
            alarms=list(told.values()),
            database_instance_id=database_instance_id,
        )

    @property
    def _runbook(self) -> str:
        return self._settings.runbook_url or RUNBOOK

    def _keeps_quiet(self, causes: tuple[Alarm, ...]) -> bool:
        return bool(causes) and self._settings.alarms == "full"

    def _measurement(self, alarm: Alarm, alarms: tuple[Alarm, ...]) -> cloudwatch.Alarm:
        """The alarm on the metric. It has the name and the actions unless something may keep it quiet."""
        quiet = self._keeps_quiet(causes_of(alarm, alarms))
        m, n = alarm.out_of
        measured = cloudwatch.Alarm(
            self,
            f"{alarm.key}-measured",
            alarm_name=alarm.name(self._suffix, measured=quiet),
            alarm_description=self._description(alarm),
            metric=_metric(alarm),
            comparison_operator=_OPERATORS[alarm.comparison],
            threshold=alarm.threshold,
            datapoints_to_alarm=m,
            evaluation_periods=n,
            treat_missing_data=_MISSING[alarm.missing],
        )
        if quiet:
            acknowledge(measured, _TOLD_BY_ANOTHER)
        else:
            self._tell(measured, alarm)
        return measured

    def _told(self, alarm: Alarm, causes: tuple[Alarm, ...]) -> cloudwatch.AlarmBase:
        """The alarm that tells: the measurement itself, or the composite alarm that its causes keep quiet."""
        measured = self._measured[alarm.key]
        if alarm.quiet is None or not self._keeps_quiet(causes):
            return measured
        composite = cloudwatch.CompositeAlarm(
            self,
            alarm.key,
            composite_alarm_name=alarm.name(self._suffix),
            alarm_description=self._description(alarm),
            alarm_rule=cloudwatch.AlarmRule.from_alarm(measured, cloudwatch.AlarmState.ALARM),
            actions_suppressor=self._any_of(alarm.quiet.group, causes),
            actions_suppressor_wait_period=Duration.seconds(alarm.quiet.wait_seconds),
            actions_suppressor_extension_period=Duration.seconds(alarm.hold_seconds),
        )
        self._tell(composite, alarm)
        return composite

    def _any_of(self, group: str, causes: tuple[Alarm, ...]) -> cloudwatch.AlarmBase:
        """The measurement of the one cause, or an alarm that is on while any of several is."""
        if len(causes) == 1:
            return self._measured[causes[0].key]
        if group not in self._groups:
            self._groups[group] = cloudwatch.CompositeAlarm(
                self,
                f"cause-{group}",
                composite_alarm_name=f"iot-cause-{group}{self._suffix}",
                alarm_description=(
                    "Tells nobody: keeps the alarms quiet that follow from these. "
                    f"Owner: {self._settings.alarm_owner} | Runbook: {self._runbook}#one-fault-pages-once"
                ),
                alarm_rule=cloudwatch.AlarmRule.any_of(*(self._measured[cause.key] for cause in causes)),
            )
            acknowledge(self._groups[group], _TOLD_BY_ANOTHER)
        return self._groups[group]

    def _description(self, alarm: Alarm) -> str:
        return alarm.description(owner=self._settings.alarm_owner, runbook=self._runbook)

    def _tell(self, alarm: cloudwatch.AlarmBase, definition: Alarm) -> None:
        """On the way in and on the way out, so that the pager closes what it opened; not on a lack of data."""
        topic = actions.SnsAction(self._notifications.topics[definition.severity])
        alarm.add_alarm_action(topic)
        alarm.add_ok_action(topic)

    def _budget(self, dollars: int) -> None:
        """What this account spends in a month, whatever on.

        A budget by the tag `environment` would see nothing, and say nothing, until the tag is activated for cost
        allocation in the account that pays: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/activating-tags.html
        """
        topic = self._notifications.topics["P3"]
        self._notifications.let_budgets_publish(topic)
        told = [budgets.CfnBudget.SubscriberProperty(subscription_type="SNS", address=topic.topic_arn)]
        budget = budgets.CfnBudget(
            self,
            "Budget",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=f"iot-budget{self._suffix}",
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=dollars, unit="USD"),
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        notification_type=kind,
                        comparison_operator="GREATER_THAN",
                        threshold=percent,
                        threshold_type="PERCENTAGE",
                    ),
                    subscribers=told,
                )
                for kind, percent in (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))
            ],
        )
        # Budgets sends a test message when it is made.
        budget.node.add_dependency(topic)


def _metric(alarm: Alarm) -> cloudwatch.IMetric:
    measure = alarm.measure
    if isinstance(measure, Metric):
        return metric(measure)
    return cloudwatch.MathExpression(
        expression=measure.expression,
        using_metrics={name: metric(of) for name, of in measure.metrics.items()} if isinstance(measure, Math) else {},
        period=Duration.seconds(measure.period_seconds),
        label=alarm.key,
    )
