"""Evaluates synthesised CloudWatch alarms over simulated series, by the rules of AWS's manual.

The emulator does not evaluate alarms as AWS does, so this does: periods and statistics, M of N over an evaluation range,
missing data, the metric math and Metrics Insights that we use, composite alarms and the suppression of their actions.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
"""

import ast
import math
import operator
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
EXTRA_RANGE = 2
"""How many points more than N CloudWatch looks at when some are missing: as in the manual's tables, 5 for N = 3."""
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
MetricKey = tuple[str, str, frozenset[tuple[str, str]]]
"""Namespace, name and dimensions."""
Samples = Mapping[MetricKey, Sequence[tuple[int, float]]]
"""Samples by metric: (second, value), in order."""


def judge(points: Sequence[bool | None], m: int, n: int, missing: str) -> State | None:
    """The state that the points of the evaluation range give, oldest first: True breaches, None is missing.

    None means that the alarm keeps the state it has.
    """
    known = [(age, point) for age, point in enumerate(reversed(points), start=1) if point is not None]
    if len(known) >= n:
        return _enough(sum(breaches for _, breaches in known[:n]), m)
    if not known and missing in {"missing", "ignore"}:
        return "INSUFFICIENT_DATA" if missing == "missing" else None
    breaching = sum(breaches for _, breaches in known)
    if missing == "breaching":
        return _enough(breaching + n - len(known), m)
    if missing == "notBreaching" or breaching >= m or not all(breaches for _, breaches in known):
        return _enough(breaching, m)
    # "Avoiding premature transitions to alarm state": only breaching points, and too few.
    if known[-1][0] >= m:
        return "ALARM" if missing == "missing" else None
    return "INSUFFICIENT_DATA" if missing == "missing" else None


def _enough(breaching: int, m: int) -> State:
    return "ALARM" if breaching >= m else "OK"


def statistic(name: str, values: Sequence[float]) -> float | None:
    """One number for the samples of a period; None when there are none."""
    if not values:
        return None
    if name.startswith("p"):
        ordered = sorted(values)
        return ordered[max(math.ceil(float(name[1:]) / 100 * len(ordered)), 1) - 1]
    return {
        "Sum": sum(values),
        "Average": sum(values) / len(values),
        "Minimum": min(values),
        "Maximum": max(values),
        "SampleCount": float(len(values)),
    }[name]


def metric_key(stat: Mapping[str, Any], text: Callable[[Any], str]) -> MetricKey:
    """The metric of an alarm's properties, or of a `MetricStat`'s `Metric`."""
    dimensions = frozenset((item["Name"], text(item["Value"])) for item in stat.get("Dimensions", []))
    return stat["Namespace"], stat["MetricName"], dimensions


@dataclass
class MetricAlarm:
    """An `AWS::CloudWatch::Alarm` under evaluation."""

    properties: Mapping[str, Any]
    text: Callable[[Any], str]
    state: State = "INSUFFICIENT_DATA"
    _points: dict[int, float | None] = field(default_factory=dict)
    _of: Samples | None = None

    @property
    def period_seconds(self) -> int:
        """The period of the alarm's points."""
        for query in self.properties.get("Metrics", []):
            if "MetricStat" in query:
                return int(query["MetricStat"]["Period"])
            if "Period" in query:
                return int(query["Period"])
        return int(self.properties["Period"])

    def evaluate(self, samples: Samples, now: int) -> State:
        """The state at a second, from what was sampled before it."""
        n = self.properties["EvaluationPeriods"]
        points = []
        for back in range(n + EXTRA_RANGE, 0, -1):
            end = now - (back - 1) * self.period_seconds
            value = self._point(samples, end)
            points.append(None if value is None else self._breaches(value))
        found = judge(points, self.properties.get("DatapointsToAlarm", n), n, self.properties["TreatMissingData"])
        self.state = found or self.state
        return self.state

    def _point(self, samples: Samples, end: int) -> float | None:
        """The period that ends then; periods are looked at many times, minute after minute."""
        if self._of is not samples:
            self._of, self._points = samples, {}
        if end not in self._points:
            self._points[end] = self._value(samples, end - self.period_seconds, end)
        return self._points[end]

    def _breaches(self, value: float) -> bool:
        return _COMPARE[self.properties["ComparisonOperator"]](value, self.properties["Threshold"])

    def _value(self, samples: Samples, start: int, end: int) -> float | None:
        if "MetricName" in self.properties:
            name = self.properties.get("Statistic") or self.properties["ExtendedStatistic"]
            return statistic(name, _within(samples.get(metric_key(self.properties, self.text), ()), start, end))
        values: dict[str, float | None] = {}
        expressions = []
        for query in self.properties["Metrics"]:
            if "MetricStat" in query:
                stat = query["MetricStat"]
                found = _within(samples.get(metric_key(stat["Metric"], self.text), ()), start, end)
                values[query["Id"]] = statistic(stat["Stat"], found)
            else:
                expressions.append(query["Expression"])
        [expression] = expressions
        if expression.startswith("SELECT"):
            return _insights(expression, samples, start, end)
        return calculate(expression, values)


def _within(samples: Sequence[tuple[int, float]], start: int, end: int) -> list[float]:
    return [value for _, value in samples[bisect_left(samples, (start,)) : bisect_left(samples, (end,))]]


_SELECT = re.compile(r'SELECT SUM\("(.+)"\) FROM SCHEMA\("(.+?)", (.+)\) WHERE (\w+) = \'(.+)\'')


def _insights(query: str, samples: Samples, start: int, end: int) -> float | None:
    matched = _SELECT.fullmatch(query)
    assert matched, query
    name, namespace, dimensions, key, value = matched.groups()
    found = [
        sample
        for (of_namespace, of_name, of_dimensions), series in samples.items()
        if (of_namespace, of_name) == (namespace, name)
        and {dimension for dimension, _ in of_dimensions} == set(dimensions.split(", "))
        and (key, value) in of_dimensions
        for sample in _within(series, start, end)
    ]
    return statistic("Sum", found)


def calculate(expression: str, values: Mapping[str, float | None]) -> float | None:
    """Metric math: arithmetic, comparisons, AND, OR, IF and FILL; a missing operand makes the result missing.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
    """
    python = expression.replace(" AND ", " and ").replace(" OR ", " or ")
    return _node(ast.parse(python, mode="eval").body, values)


_ARITHMETIC: Mapping[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def _node(node: ast.expr, values: Mapping[str, float | None]) -> float | None:
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Call):
        return _call(node, values)
    if isinstance(node, ast.BoolOp):
        operands = [_node(value, values) for value in node.values]
        if any(operand is None for operand in operands):
            return None
        return float(all(operands) if isinstance(node.op, ast.And) else any(operands))
    if isinstance(node, ast.BinOp):
        left, right, kind = node.left, node.right, type(node.op)
    else:
        assert isinstance(node, ast.Compare), ast.dump(node)
        left, right, kind = node.left, node.comparators[0], type(node.ops[0])  # type: ignore[assignment]
    one, other = _node(left, values), _node(right, values)
    return None if one is None or other is None else float(_ARITHMETIC[kind](one, other))


def _call(node: ast.Call, values: Mapping[str, float | None]) -> float | None:
    assert isinstance(node.func, ast.Name)
    arguments = [_node(argument, values) for argument in node.args]
    if node.func.id == "FILL":
        return arguments[1] if arguments[0] is None else arguments[0]
    assert node.func.id == "IF", node.func.id
    return None if arguments[0] is None else arguments[1] if arguments[0] else arguments[2]


_RULE_STATE = re.compile(r'(ALARM|OK|INSUFFICIENT_DATA)\("?([^")]+)"?\)')


def holds(rule: str, states: Mapping[str, State]) -> bool:
    """Whether an AlarmRule is true: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutCompositeAlarm.html"""
    python = _RULE_STATE.sub(lambda found: str(states[found.group(2)] == found.group(1)), rule)
    for word, of_python in {"AND": "and", "OR": "or", "NOT": "not", "TRUE": "True", "FALSE": "False"}.items():
        python = re.sub(rf"\b{word}\b", of_python, python)
    return _truth(ast.parse(python.strip(), mode="eval").body)


def _truth(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.UnaryOp):
        return not _truth(node.operand)
    assert isinstance(node, ast.BoolOp), ast.dump(node)
    values = [_truth(value) for value in node.values]
    return all(values) if isinstance(node.op, ast.And) else any(values)


@dataclass
class Teller:
    """When an alarm performs its actions, with or without a suppressor.

    The actions of a change wait for WaitPeriod, during which the suppressor may go into ALARM; they are held back while it
    is, and for ExtensionPeriod after it; then they are performed if the state is still another than the one told last.
    """

    wait_seconds: int = 0
    extension_seconds: int = 0
    told: State = "OK"
    _state: State = "OK"
    _changed_at: int = 0
    _suppressed_at: int | None = None

    def see(self, state: State, now: int, *, suppressed: bool) -> State | None:
        """The state that is told in this second, if any."""
        if state != self._state:
            self._state, self._changed_at = state, now
        if suppressed:
            self._suppressed_at = now
            return None
        free_at = self._changed_at + self.wait_seconds
        if self._suppressed_at is not None:
            free_at = max(free_at, self._suppressed_at + self.extension_seconds)
        if now < free_at or state in {self.told, "INSUFFICIENT_DATA"}:
            return None
        self.told = state
        return state


@dataclass(frozen=True)
class Told:
    """A notification: when, by which alarm, of which state, to which topic."""

    second: int
    alarm: str
    state: State
    topic: str


@dataclass
class Monitor:
    """All alarms of a template, evaluated once a minute."""

    template: Mapping[str, Any]
    text: Callable[[Any], str]
    """Resolves what the template refers to: names of resources, and of alarms by their logical ids."""
    told: list[Told] = field(default_factory=list)

    def __post_init__(self) -> None:
        resources = self.template["Resources"].values()
        self.metric_alarms = {
            body["Properties"]["AlarmName"]: MetricAlarm(body["Properties"], self.text)
            for body in resources
            if body["Type"] == "AWS::CloudWatch::Alarm"
        }
        self._composites = {
            body["Properties"]["AlarmName"]: body["Properties"]
            for body in resources
            if body["Type"] == "AWS::CloudWatch::CompositeAlarm"
        }
        self._rules = self._in_order({name: self.text(each["AlarmRule"]) for name, each in self._composites.items()})
        self._properties = {
            **{name: alarm.properties for name, alarm in self.metric_alarms.items()},
            **self._composites,
        }
        self._tellers = {
            name: Teller(
                properties.get("ActionsSuppressorWaitPeriod", 0), properties.get("ActionsSuppressorExtensionPeriod", 0)
            )
            for name, properties in self._properties.items()
        }
        self.states: dict[str, State] = {}

    def run(self, samples: Samples, start: int, end: int) -> list[Told]:
        """Goes through the minutes of a simulation; returns what was told in it."""
        before = len(self.told)
        for now in range(start, end + 1, 60):
            self._minute(samples, now)
        return self.told[before:]

    def _in_order(self, rules: Mapping[str, str]) -> dict[str, str]:
        """The rules so that each comes after those of the composite alarms that it is about."""
        ordered: dict[str, str] = {}
        while len(ordered) < len(rules):
            ready = {
                name: rule
                for name, rule in rules.items()
                if name not in ordered
                and all(child in self.metric_alarms or child in ordered for _, child in _RULE_STATE.findall(rule))
            }
            assert ready, "rules that refer to each other in a circle"
            ordered |= ready
        return ordered

    def _minute(self, samples: Samples, now: int) -> None:
        for name, alarm in self.metric_alarms.items():
            self.states[name] = alarm.evaluate(samples, now)
        for name, rule in self._rules.items():
            self.states[name] = "ALARM" if holds(rule, self.states) else "OK"
        for name, properties in self._properties.items():
            suppressor = properties.get("ActionsSuppressor")
            suppressed = suppressor is not None and self.states[self.text(suppressor)] == "ALARM"
            state = self._tellers[name].see(self.states[name], now, suppressed=suppressed)
            actions = {"ALARM": "AlarmActions", "OK": "OKActions"}.get(state or "")
            for topic in properties.get(actions, []) if actions else []:
                assert state is not None
                self.told.append(Told(now, name, state, self.text(topic)))
