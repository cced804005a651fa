"""The Monitoring stack of every environment: what each alarm says, what it rests on, and when it fires and clears."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
import typer
from aws_cdk import App, Stack
from aws_cdk import aws_kms as kms
from aws_cdk.assertions import Annotations, Match

from infra.alarms.catalogue import catalogue
from infra.alarms.model import DESCRIPTION_LIMIT, SEVERITIES, Alarm
from infra.alarms.rows import detection_threshold_seconds, latency_threshold_seconds
from infra.notifications import Notifications
from infra.settings import load
from lambdas.processor import metrics as loader_metrics
from lambdas.processor.load import Outcome
from ops import cli
from ops.paths import ROOT
from tests.infra.alarm_evaluation import MetricAlarm
from tests.infra.alarm_series import FAULTS, INSTANCE, World, samples
from tests.infra.templates import ENVIRONMENTS, Synthesised, statements, synthesised
from tests.infra.test_ingest import text

_ALARM, _COMPOSITE = "AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm"
_EXTERNAL = "prod with an external database"
# Namespace -> metric -> its dimensions, and where the manual says so.
AWS_METRICS: dict[str, dict[str, tuple[str, ...]]] = {
    # https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html
    "AWS/IoT": {
        "Connect.ServerError": ("Protocol",),
        "Connect.AuthError": ("Protocol",),
        "PublishIn.ServerError": ("Protocol",),
        "ParseError": ("RuleName",),
        "RuleMessageThrottled": ("RuleName",),
        "RuleExecutionThrottled": ("RuleName",),
        "ErrorActionFailure": ("ActionType", "RuleName"),
    },
    # https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html
    "AWS/Firehose": {
        "IncomingRecords": ("DeliveryStreamName",),
        "ThrottledRecords": ("DeliveryStreamName",),
        "DeliveryToS3.Success": ("DeliveryStreamName",),
        "DeliveryToS3.DataFreshness": ("DeliveryStreamName",),
    },
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
    "AWS/SQS": {
        "ApproximateAgeOfOldestMessage": ("QueueName",),
        "ApproximateNumberOfMessagesVisible": ("QueueName",),
        "NumberOfMessagesSent": ("QueueName",),
    },
    # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
    "AWS/Lambda": {"Errors": ("FunctionName",), "Throttles": ("FunctionName",), "Duration": ("FunctionName",)},
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_metrics_with_cloudwatch.html
    "AWS/EC2": {
        "StatusCheckFailed": ("InstanceId",),
        "CPUUtilization": ("InstanceId",),
        "CPUSurplusCreditsCharged": ("InstanceId",),
    },
}


def named(template: Synthesised) -> Callable[[Any], str]:
    """Writes out what the Monitoring stack refers to: alarms and topics by name, the instance by an id."""
    resources = template.template["Resources"]

    def resolve(value: Any) -> str:
        match value:
            case {"Fn::Join": [separator, parts]}:
                return str(separator).join(resolve(part) for part in parts)
            case {"Ref": name} | {"Fn::GetAtt": [name, "Arn"]}:
                properties = resources[name]["Properties"]
                return str(properties.get("AlarmName") or properties["TopicName"])
            case {"Fn::GetStackOutput": _}:
                return INSTANCE
        return str(value)

    return resolve


@cache
def monitoring(environment: str) -> Synthesised:
    if environment == _EXTERNAL:
        return synthesised("prod", database="external").of("monitoring")
    return synthesised(environment).of("monitoring")


RUNBOOK = ROOT / "docs" / "runbook.md"


@pytest.fixture(params=[*ENVIRONMENTS, _EXTERNAL])
def template(request: pytest.FixtureRequest) -> Synthesised:
    return monitoring(request.param)


_PUBLISHED = "https://example.com/runbook"


def everything_told() -> Synthesised:
    """Prod with every way of telling somebody."""
    return synthesised(
        "prod",
        runbook_url=_PUBLISHED,
        pager_secret="iot-pager",
        alert_email="team@example.com",
        slack_workspace_id="T0123",
        slack_channel_id="C0123",
    ).of("monitoring")


def subscriptions(template: Synthesised, protocol: str) -> set[tuple[str, str]]:
    """Topics and endpoints."""
    found = [body["Properties"] for body in template.of_type("AWS::SNS::Subscription").values()]
    return {(named(template)(each["TopicArn"]), each["Endpoint"]) for each in found if each["Protocol"] == protocol}


def catalogued(template: Synthesised) -> dict[str, Alarm]:
    settings = template.settings
    instance = INSTANCE if settings.database == "self_hosted" else None
    return {alarm.key: alarm for alarm in catalogue(settings, database_instance_id=instance)}


def alarms(template: Synthesised) -> dict[str, dict[str, Any]]:
    """Properties of metric alarms and composite alarms, by name."""
    found = [*template.of_type(_ALARM).values(), *template.of_type(_COMPOSITE).values()]
    return {body["Properties"]["AlarmName"]: body["Properties"] for body in found}


def measurements(template: Synthesised) -> dict[str, dict[str, Any]]:
    """Properties of the metric alarms, by the catalogue's key."""
    suffix = template.settings.names.suffix
    by_name = {alarm.name(""): key for key, alarm in catalogued(template).items()}
    return {
        by_name[name.removesuffix(suffix).removesuffix("-measured")]: properties
        for name, properties in alarms(template).items()
        if "AlarmRule" not in properties
    }


def telling(template: Synthesised) -> dict[str, dict[str, Any]]:
    """Properties of the alarm that tells, by the catalogue's key."""
    return {
        key: alarms(template)[alarm.name(template.settings.names.suffix)] for key, alarm in catalogued(template).items()
    }


def test_the_template_has_the_catalogues_alarms_and_no_others(template: Synthesised) -> None:
    assert measurements(template).keys() == catalogued(template).keys()
    causes = {name for name in alarms(template) if name.startswith("iot-cause-")}
    assert len(alarms(template)) == len(measurements(template)) + len(template.of_type(_COMPOSITE))
    assert len(causes) + sum("AlarmRule" in each for each in telling(template).values()) == len(
        template.of_type(_COMPOSITE)
    )


def test_the_runbooks_alarms_are_there_in_prod() -> None:
    keys = catalogued(monitoring("prod"))
    severities = {
        "iot-unreachable": "P0",
        "no-messages": "P0",
        "firehose-delivery-failures": "P1",
        "database-unreachable": "P1",
        "devices-offline": "P1",
        "latency": "P2",
        "detection-not-running": "P2",
        "device-offline": "P3",
    }
    assert {key: keys[key].severity for key in severities} == severities


def test_every_alarm_says_severity_owner_meaning_action_and_runbook(template: Synthesised) -> None:
    runbook = RUNBOOK.read_text(encoding="utf-8")
    for key, alarm in catalogued(template).items():
        for properties in (measurements(template)[key], telling(template)[key]):
            description = properties["AlarmDescription"]
            assert len(description) <= DESCRIPTION_LIMIT
            assert description.isascii()
            assert description.startswith(f"{alarm.severity} (respond: {SEVERITIES[alarm.severity].response})")
            assert f"Owner: {template.settings.alarm_owner} |" in description
            assert alarm.means in description
            assert f"| Action: {alarm.act} |" in description
            assert description.endswith(f"docs/runbook.md#{key}")
        assert f"\n### {key}\n" in runbook


def test_the_runbooks_link_is_the_published_one_where_there_is_one() -> None:
    assert all(f"{_PUBLISHED}#" in properties["AlarmDescription"] for properties in alarms(everything_told()).values())


def test_every_section_of_the_runbook_is_an_alarms_and_its_links_lead_somewhere() -> None:
    runbook = RUNBOOK.read_text(encoding="utf-8")
    sections = re.findall(r"^### (.+)$", runbook, re.MULTILINE)
    keys = {key for environment in ENVIRONMENTS for key in catalogued(monitoring(environment))}
    assert sorted(sections) == sorted({*keys, "budget"})
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", runbook, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", runbook)) <= anchors
    for path in re.findall(r"\]\((?!#|https:)([^)#]+)", runbook):
        assert (RUNBOOK.parent / path).exists(), path
    for section in re.split(r"^### ", runbook, flags=re.MULTILINE)[1:]:
        key = section.partition("\n")[0]
        assert (
            key in {"loss-high", "database-disk-filling", "iot-publish-errors"}
            or "\nAct:" in section
            or "act" in section
        ), key


def test_the_runbooks_fleet_commands_exist_with_their_options() -> None:
    if len(cli.app.registered_groups) == 0:
        cli._add_rooms()
    root: Any = typer.main.get_command(cli.app)
    commands = re.findall(
        r"fleet ((?:[a-z]+ )*[a-z]+(?: --?[a-z-]+[^`\n]*| [A-Z]+[^`\n]*)?)", RUNBOOK.read_text(encoding="utf-8")
    )
    assert len(commands) > 20
    for line in commands:
        command, words = root, line.split()
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert command is not root, line
        assert {word.rstrip(";,.)") for word in words if word.startswith("-") and not word[1].isdigit()} <= options, (
            line
        )


def runbook_commands(program: str) -> list[str]:
    """The lines of the runbook that begin so, in blocks and in sentences, each on one line."""
    text = RUNBOOK.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [" ".join(line.split()) for line in [*"\n".join(blocks).splitlines(), *spans]]
    return [line for line in lines if line.startswith(program)]


def test_the_runbooks_fleet_commands_say_which_environment_and_which_device() -> None:
    """Without, they are about `local`; and `unregister` is about fifty devices."""
    commands = runbook_commands(".venv/bin/fleet ")
    assert len(commands) > 25
    for line in commands:
        assert " --env prod" in line or " -c env=" in line, line
        if " unregister" in line or " discard" in line:
            assert re.search(r" (THING|ID) ", line), line


def test_the_alarms_that_test_the_way_to_a_person_tell_at_once_one_of_each_severity() -> None:
    template = monitoring("prod")
    names = [line.partition("--alarm-name ")[2].split()[0] for line in runbook_commands("aws cloudwatch set-alarm")]
    for name, severity in zip(names, SEVERITIES, strict=True):
        properties = alarms(template)[name]
        assert [named(template)(topic) for topic in properties["AlarmActions"]] == [f"iot-alarms-{severity.lower()}"]
        assert "ActionsSuppressor" not in properties, f"{name} is OK again before it tells"


def test_the_runbook_shows_no_stamp() -> None:
    assert all("rule.[ruleDisabled,actions]" in line for line in runbook_commands("aws iot get-topic-rule"))


def test_names_are_unique_in_an_environment_and_between_environments() -> None:
    names: list[str] = []
    for environment in ("dev", "staging", "prod"):
        layers = synthesised(environment).stacks
        own = [
            body["Properties"]["AlarmName"]
            for layer in layers
            for kind in (_ALARM, _COMPOSITE)
            for body in synthesised(environment).of(layer).of_type(kind).values()
        ]
        assert all(name.startswith("iot-") for name in own)
        names += own
        names += [
            body["Properties"]["TopicName"] for body in monitoring(environment).of_type("AWS::SNS::Topic").values()
        ]
        names += [
            body["Properties"]["DashboardName"]
            for body in monitoring(environment).of_type("AWS::CloudWatch::Dashboard").values()
        ]
    assert len(names) == len(set(names))


# What the alarms rest on.


def rests_on(properties: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Namespace, name and dimensions of every metric of an alarm; of a query, the dimensions it groups over as None."""
    if "MetricName" in properties:
        yield properties["Namespace"], properties["MetricName"], _dimensions(properties)
    for query in properties.get("Metrics", []):
        if "MetricStat" in query:
            metric = query["MetricStat"]["Metric"]
            yield metric["Namespace"], metric["MetricName"], _dimensions(metric)
        elif query["Expression"].startswith("SELECT"):
            found = re.fullmatch(
                r'SELECT SUM\("(.+)"\) FROM SCHEMA\("(.+?)", (.+)\) WHERE (\w+) = \'(.+)\'', query["Expression"]
            )
            assert found
            name, namespace, dimensions, key, value = found.groups()
            yield namespace, name, {**dict.fromkeys(dimensions.split(", ")), key: value}


def _dimensions(metric: dict[str, Any]) -> dict[str, Any]:
    return {item["Name"]: item["Value"] for item in metric["Dimensions"]}


def deployed(template: Synthesised, kind: str, property_name: str) -> set[str]:
    return {str(body["Properties"].get(property_name)) for body in template.everywhere(kind).values()}


def test_aws_own_metrics_exist_and_are_of_what_is_deployed(template: Synthesised) -> None:
    there = {
        "FunctionName": deployed(template, "AWS::Lambda::Function", "FunctionName"),
        "QueueName": deployed(template, "AWS::SQS::Queue", "QueueName"),
        "DeliveryStreamName": deployed(template, "AWS::KinesisFirehose::DeliveryStream", "DeliveryStreamName"),
        "RuleName": deployed(template, "AWS::IoT::TopicRule", "RuleName"),
        "Protocol": {"MQTT"},
    }
    seen = 0
    for key, properties in measurements(template).items():
        for namespace, name, dimensions in rests_on(properties):
            if not namespace.startswith("AWS/"):
                continue
            seen += 1
            assert tuple(sorted(dimensions)) == AWS_METRICS[namespace][name], key
            for dimension, value in dimensions.items():
                if dimension == "InstanceId":
                    assert value["Fn::GetStackOutput"]["StackName"] == template.settings.names.stack("database")
                elif value is not None:
                    assert value in there[dimension], key
    assert seen > 15


def test_the_instance_of_the_alarms_is_the_databases() -> None:
    template = synthesised("prod")
    properties = measurements(monitoring("prod"))["database-instance-down"]
    [(_, _, dimensions)] = rests_on(properties)
    output = dimensions["InstanceId"]["Fn::GetStackOutput"]["OutputName"]
    database = template.of("database")
    assert database.template["Outputs"][output]["Value"] == {"Ref": next(iter(database.of_type("AWS::EC2::Instance")))}


def emitted(folder: str) -> set[str]:
    """The names of the metrics that the code of a function adds."""
    found = set()
    for path in (ROOT / "lambdas" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_metric":
                assert isinstance(node.args[0], ast.Constant), path
                found.add(str(node.args[0].value))
    return found


def emitted_by_the_agent() -> set[str]:
    """The names of the metrics that the database's instance sends."""
    instance = ROOT / "infra" / "instance"
    agent = json.loads((instance / "templates" / "cloudwatch-agent.json").read_text(encoding="utf-8"))["metrics"]
    assert agent["namespace"] == "Fleetledger/Database"
    assert ["service"] in agent["aggregation_dimensions"]
    collected = {
        f"{plugin}_{name}"
        for plugin, what in agent["metrics_collected"].items()
        for name in what.get("measurement", [])
    }
    assert "statsd" in agent["metrics_collected"]
    return collected | set(re.findall(r"printf '(\w+):%d\|g", (instance / "metrics.sh").read_text(encoding="utf-8")))


def test_our_metrics_are_emitted_by_what_is_deployed(template: Synthesised) -> None:
    names = template.settings.names
    folders = {
        names.loader: "processor",
        names.watch: "watch",
        names.probe: "probe",
        names.sweeper: "sweeper",
        names.maintenance: "maintenance",
    }
    functions = {
        body["Properties"].get("FunctionName"): body["Properties"]
        for body in template.everywhere("AWS::Lambda::Function").values()
    }
    seen = set()
    for key, properties in measurements(template).items():
        for namespace, name, dimensions in rests_on(properties):
            if namespace.startswith("AWS/"):
                continue
            [(dimension, service)] = dimensions.items()
            assert dimension == "service", key
            if namespace == "Fleetledger/Database":
                assert (service, template.settings.database) == (names.database_service, "self_hosted")
                assert name in emitted_by_the_agent(), key
            else:
                assert namespace == "Fleetledger"
                function = functions[service]
                assert function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"] == service
                assert function["Handler"] == f"lambdas.{folders[service]}.handler.handler"
                assert name in emitted(folders[service]), key
            seen.add(service)
    assert {names.loader, names.watch, names.sweeper} <= seen


def test_the_loader_writes_its_metrics_under_the_names_and_the_dimension_of_the_alarms(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = load("prod").names.loader
    monkeypatch.setattr(loader_metrics._metrics, "service", service)
    loader_metrics.count(Outcome("rejected", 1, "gzip_corrupt"), datetime.now(UTC))
    loader_metrics.count_batch(failed=1, unreachable=1)
    loader_metrics.flush()
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    [directive] = document["_aws"]["CloudWatchMetrics"]
    sent = {(directive["Namespace"], metric["Name"], document["service"]) for metric in directive["Metrics"]}
    assert directive["Dimensions"] == [["service"]]
    expected = {
        (namespace, name, dimensions["service"])
        for properties in measurements(monitoring("prod")).values()
        for namespace, name, dimensions in rests_on(properties)
        if dimensions.get("service") == service
    }
    assert expected
    assert expected <= sent


# When they fire.


def test_missing_data_are_treated_as_the_catalogue_says_and_never_by_default(template: Synthesised) -> None:
    for key, alarm in catalogued(template).items():
        properties = measurements(template)[key]
        assert properties["TreatMissingData"] == alarm.missing
        assert alarm.because.endswith(".")
        assert alarm.missing == "breaching" or "ilence is what" not in alarm.because


def test_a_silence_that_is_the_fault_breaches_and_one_that_is_rest_does_not(template: Synthesised) -> None:
    found = {key: properties["TreatMissingData"] for key, properties in measurements(template).items()}
    assert {found["watch-silent"], found["sweeper-silent"]} == {"breaching"}
    if template.settings.devices_always_send:
        assert found["no-messages"] == "breaching"
    sparse = {"objects-dead-letters", "loader-crashes", "firehose-throttled", "rule-failures", "iot-connect-errors"}
    assert {found[key] for key in sparse} == {"notBreaching"}


@pytest.mark.parametrize("environment", ["local", "dev", "prod"])
def test_a_simulated_fault_fires_every_alarm_and_its_end_clears_it(environment: str) -> None:
    template = monitoring(environment)
    world = World(template.settings)
    for key, properties in measurements(template).items():
        alarm = MetricAlarm(properties, named(template))
        window = alarm.period_seconds * properties["EvaluationPeriods"] // 60
        # A fault that rises needs a while to be one; a period may have begun before it; missing data are waited for.
        enough = 3 * window + 40
        start, stop = enough, 2 * enough
        series = samples(world, minutes=3 * enough, fault=FAULTS[key], broken=range(start, stop))
        # Not right at the beginning: before it there is nothing at all.
        states = {minute: alarm.evaluate(series, minute * 60) for minute in range(start - 20, 3 * enough + 1)}
        assert {states[minute] for minute in range(start - 10, start + 1)} == {"OK"}, key
        fired = [minute for minute, state in states.items() if state == "ALARM"]
        assert fired, key
        assert fired[0] > start
        assert states[stop] == "ALARM", key
        assert states[3 * enough] == "OK", key
        assert fired == list(range(fired[0], fired[-1] + 1)), f"{key} flaps"


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_one_minute_of_a_fault_pages_nobody_but_for_what_is_lost_or_stuck_at_once(environment: str) -> None:
    template = monitoring(environment)
    world = World(template.settings)
    at_once = set()
    for key, properties in measurements(template).items():
        alarm = MetricAlarm(properties, named(template))
        series = samples(world, minutes=200, fault=FAULTS[key], broken=range(120, 121))
        if "ALARM" in {alarm.evaluate(series, minute * 60) for minute in range(100, 200)}:
            at_once.add(key)
    assert at_once <= {
        "anomalies-critical",
        "rule-messages-lost",
        "rule-throttled",
        "rule-errors-dead-letters",
        "objects-dead-letters",
        "objects-rejected",
        "rotation-errors",
        "sweeper-errors",
    }


def test_detection_is_allowed_what_buffering_takes() -> None:
    allowed = {name: detection_threshold_seconds(load(name)) for name in ENVIRONMENTS}
    assert (allowed["prod"], allowed["dev"]) == (30, 150)


def test_latency_is_allowed_what_buffering_takes() -> None:
    assert {name: latency_threshold_seconds(load(name)) for name in ENVIRONMENTS} == {
        "local": 10,
        "dev": 130,
        "staging": 130,
        "prod": 10,
    }


def test_evaluation_windows_are_what_cloudwatch_takes() -> None:
    """At most a day: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html"""
    for minutes in ("2", "1440"):
        for alarm in catalogue(load("dev", {"sweep_interval_minutes": minutes}), database_instance_id=INSTANCE):
            assert alarm.period_seconds % 60 == 0
            assert alarm.period_seconds * alarm.out_of[1] <= 86_400


# Whom they tell.


def test_each_alarm_tells_the_topic_of_its_severity_on_the_way_in_and_out_and_not_on_a_lack_of_data(
    template: Synthesised,
) -> None:
    for key, alarm in catalogued(template).items():
        properties = telling(template)[key]
        topics = [named(template)(topic) for topic in properties["AlarmActions"]]
        assert topics == [f"iot-alarms-{alarm.severity.lower()}{template.settings.names.suffix}"]
        assert properties["OKActions"] == properties["AlarmActions"]
    for properties in alarms(template).values():
        assert "InsufficientDataActions" not in properties


def test_what_may_follow_from_another_tells_only_through_its_composite(template: Synthesised) -> None:
    for key, alarm in catalogued(template).items():
        measured, told = measurements(template)[key], telling(template)[key]
        causes = [cause for cause in alarm.quiet.by if cause in measurements(template)] if alarm.quiet else []
        if alarm.quiet is None or not causes or template.settings.alarms == "plain":
            assert measured is told
            continue
        assert "AlarmActions" not in measured
        assert named(template)(told["AlarmRule"]) == f'ALARM("{measured["AlarmName"]}")'
        assert told["ActionsSuppressorWaitPeriod"] == alarm.quiet.wait_seconds
        assert told["ActionsSuppressorExtensionPeriod"] == alarm.hold_seconds
        suppressor = alarms(template)[named(template)(told["ActionsSuppressor"])]
        suppressing = (
            {suppressor["AlarmName"]}
            if "AlarmRule" not in suppressor
            else set(re.findall(r'ALARM\("([^"]+)"\)', named(template)(suppressor["AlarmRule"])))
        )
        assert suppressing == {measurements(template)[cause]["AlarmName"] for cause in causes}
        assert "AlarmActions" not in suppressor or "AlarmRule" not in suppressor


def test_topics_are_encrypted_and_only_alarms_and_budgets_of_this_environment_may_publish(
    template: Synthesised,
) -> None:
    names = template.settings.names
    topics = template.of_type("AWS::SNS::Topic")
    assert {body["Properties"]["TopicName"] for body in topics.values()} == {
        f"iot-alarms-{severity.lower()}{names.suffix}" for severity in SEVERITIES
    }
    assert all("ExportsOutputFnGetAttData" in text(body["Properties"]["KmsMasterKeyId"]) for body in topics.values())
    policies = [body["Properties"] for body in template.of_type("AWS::SNS::TopicPolicy").values()]
    assert len(policies) == len(topics)
    budgeted = bool(template.of_type("AWS::Budgets::Budget"))
    for policy in policies:
        [topic] = policy["Topics"]
        severity = topics[topic["Ref"]]["Properties"]["TopicName"].removeprefix("iot-alarms-")[:2]
        allowed = {}
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Action"] == "sns:Publish"
            assert statement["Resource"] == topic
            if statement["Effect"] == "Deny":
                assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
                continue
            allowed[statement["Principal"]["Service"]] = text(statement["Condition"]["ArnLike"]["aws:SourceArn"])
            assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
        assert allowed.pop("cloudwatch.amazonaws.com").endswith(f":<AWS::AccountId>:alarm:iot-*{names.suffix}")
        assert allowed.keys() == ({"budgets.amazonaws.com"} if severity == "p3" and budgeted else set())


def test_the_pager_hears_p0_and_p1_and_its_url_is_in_no_template() -> None:
    assert subscriptions(everything_told(), "https") == {
        (f"iot-alarms-{severity}", "{{resolve:secretsmanager:iot-pager:SecretString:url::}}")
        for severity in ("p0", "p1")
    }


def test_without_a_pager_mail_and_chat_hear_the_worst_too() -> None:
    template = synthesised(
        "staging", alert_email="team@example.com", slack_workspace_id="T0123", slack_channel_id="C0123"
    ).of("monitoring")
    every = [f"iot-alarms-{severity.lower()}-staging" for severity in SEVERITIES]
    assert subscriptions(template, "email") == {(topic, "team@example.com") for topic in every}
    chat = template.only("AWS::Chatbot::SlackChannelConfiguration")
    assert [named(template)(topic) for topic in chat["SnsTopicArns"]] == every


def test_mail_and_chat_hear_p2_and_p3() -> None:
    template = everything_told()
    assert subscriptions(template, "email") == {
        (f"iot-alarms-{severity}", "team@example.com") for severity in ("p2", "p3")
    }
    chat = template.only("AWS::Chatbot::SlackChannelConfiguration")
    assert [named(template)(topic) for topic in chat["SnsTopicArns"]] == ["iot-alarms-p2", "iot-alarms-p3"]
    [policy_id] = template.of_type("AWS::IAM::ManagedPolicy")
    assert chat["GuardrailPolicies"] == [{"Ref": policy_id}]
    role = template.template["Resources"][chat["IamRoleArn"]["Fn::GetAtt"][0]]["Properties"]
    assert role["ManagedPolicyArns"] == [{"Ref": policy_id}]
    assert statements(template, chat["IamRoleArn"]["Fn::GetAtt"][0]) == {}
    policy = template.template["Resources"][policy_id]["Properties"]["PolicyDocument"]
    [statement] = policy["Statement"]
    assert all(re.match(r"cloudwatch:(Describe|Get|List)\w+$", action) for action in statement["Action"])


@pytest.mark.parametrize(
    ("environment", "overrides", "warns"),
    [("prod", {}, True), ("prod", {"pager_secret": "iot-pager"}, False), ("dev", {}, False)],
)
def test_prod_without_a_pager_is_warned_of_and_no_error(
    environment: str, overrides: dict[str, str], warns: bool
) -> None:
    stack = Stack(App(), "stack")
    Notifications(stack, "Notifications", settings=load(environment, overrides), key=kms.Key(stack, "Key"))
    found = Annotations.from_stack(stack)
    warning = Match.string_like_regexp("nobody is paged: .* set pager_secret")
    (found.has_warning if warns else found.has_no_warning)("*", warning)
    found.has_no_error("*", Match.any_value())


def test_the_budget_tells_at_80_and_100_percent_and_by_forecast(template: Synthesised) -> None:
    settings = template.settings
    if settings.alarms == "plain":
        assert template.of_type("AWS::Budgets::Budget") == {}
        return
    budget = template.only("AWS::Budgets::Budget")
    assert budget["Budget"]["BudgetLimit"] == {"Amount": settings.budget_dollars_per_month, "Unit": "USD"}
    told = [(each["Notification"], each["Subscribers"]) for each in budget["NotificationsWithSubscribers"]]
    assert [(each["NotificationType"], each["Threshold"]) for each, _ in told] == [
        ("ACTUAL", 80),
        ("ACTUAL", 100),
        ("FORECASTED", 100),
    ]
    for _, [subscriber] in told:
        assert named(template)(subscriber["Address"]) == f"iot-alarms-p3{settings.names.suffix}"


def test_plain_has_nothing_that_the_emulator_rejects() -> None:
    template = monitoring("local")
    assert {body["Type"] for body in template.template["Resources"].values()} <= {
        _ALARM,
        "AWS::SNS::Topic",
        "AWS::SNS::TopicPolicy",
        "AWS::CloudWatch::Dashboard",
    }
    assert not any("Metrics" in properties for properties in alarms(template).values())


# The dashboard.


def dashboard(template: Synthesised) -> list[dict[str, Any]]:
    body = template.only("AWS::CloudWatch::Dashboard")["DashboardBody"]

    def resolve(value: Any) -> str:
        match value:
            case {"Fn::Join": [separator, parts]}:
                return str(separator).join(resolve(part) for part in parts)
            case {"Ref": "AWS::Region"}:
                return "eu-west-1"
            case {"Fn::GetStackOutput": _}:
                return INSTANCE
            case {"Fn::GetAtt": [name, _]}:
                return str(template.template["Resources"][name]["Properties"]["AlarmName"])
        return str(value)

    return list(json.loads(resolve(body))["widgets"])


def test_the_dashboard_follows_the_data_and_ends_with_the_alarms(template: Synthesised) -> None:
    widgets = dashboard(template)
    headings = [widget["properties"]["markdown"].lstrip("# ") for widget in widgets if widget["type"] == "text"]
    own = ["Database instance"] if template.settings.database == "self_hosted" else []
    assert headings[1:] == [
        "Devices and AWS IoT Core", "Rule", "Firehose", "Queue", "Loader", "Rows", "Anomalies", "Database", *own,
        "Alarms",
    ]  # fmt: skip
    assert "docs/runbook.md" in headings[0]
    [status] = [widget for widget in widgets if widget["type"] == "alarm"]
    assert widgets[-1] is status
    suffix = template.settings.names.suffix
    assert status["properties"]["alarms"] == [alarm.name(suffix) for alarm in catalogued(template).values()]


def test_the_service_levels_are_lines_on_the_dashboard(template: Synthesised) -> None:
    lines = {
        widget["properties"]["title"]: {
            line["label"]: line["value"] for line in widget["properties"]["annotations"]["horizontal"]
        }
        for widget in dashboard(template)
        if widget["type"] == "metric" and widget["properties"].get("annotations")
    }
    assert lines["From device to row, p95 (s)"] == {"SLO": 5, "alarm": latency_threshold_seconds(template.settings)}
    late = detection_threshold_seconds(template.settings)
    assert lines["From device to episode, p95 (s)"] == {"SLO": 30, "alarm": late}
    assert lines["Missing (ppm)"] == {"SLO and alarm": 100}
    assert lines["Devices offline (%)"]["SLO: 99.5 % connected"] == 0.5


def test_what_the_runbook_looks_up_on_the_dashboard_is_there(template: Synthesised) -> None:
    shown = {metric[1] for widget in dashboard(template) for metric in widget["properties"].get("metrics", [])}
    text = " ".join(RUNBOOK.read_text(encoding="utf-8").split())
    looked_up = [
        name
        for names in re.findall(r"((?:`[\w.]+`(?: and | beside |, )?)+) on the dashboard", text)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(looked_up) >= 8
    assert set(looked_up) <= shown
