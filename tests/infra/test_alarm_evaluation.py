"""The evaluator against the manual's own tables, so that what it says of our alarms can be believed."""

import pytest

from tests.infra.alarm_evaluation import EXTRA_RANGE, MetricAlarm, State, Teller, calculate, holds, judge, statistic

KEEP = None
_POINTS = {"0": False, "X": True, "-": None}
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html: points, oldest first; then
# the state with missing, ignore, breaching, notBreaching.
THREE_OF_THREE: list[tuple[str, list[State | None]]] = [
    ("0 - X - X", ["OK", "OK", "OK", "OK"]),
    ("0 - - - -", ["OK", "OK", "OK", "OK"]),
    ("- - - - -", ["INSUFFICIENT_DATA", KEEP, "ALARM", "OK"]),
    ("0 X X - X", ["ALARM", "ALARM", "ALARM", "ALARM"]),
    ("- - X - -", ["ALARM", KEEP, "ALARM", "OK"]),
]
TWO_OF_THREE: list[tuple[str, list[State | None]]] = [
    ("0 - X - X", ["ALARM", "ALARM", "ALARM", "ALARM"]),
    ("0 0 X 0 X", ["ALARM", "ALARM", "ALARM", "ALARM"]),
    ("0 - X - -", ["OK", "OK", "ALARM", "OK"]),
    ("- - - - 0", ["OK", "OK", "ALARM", "OK"]),
    ("- - - X -", ["ALARM", KEEP, "ALARM", "OK"]),
]


@pytest.mark.parametrize(
    ("points", "m", "treatment", "state"),
    [
        (points, m, treatment, state)
        for m, table in ((3, THREE_OF_THREE), (2, TWO_OF_THREE))
        for points, states in table
        for treatment, state in zip(["missing", "ignore", "breaching", "notBreaching"], states, strict=True)
    ],
)
def test_the_manuals_tables_of_missing_data(points: str, m: int, treatment: str, state: State | None) -> None:
    assert judge([_POINTS[point] for point in points.split()], m, 3, treatment) == state


@pytest.mark.parametrize("points", ["- - - - X", "- - - X -"])
def test_one_breaching_point_does_not_alarm_prematurely(points: str) -> None:
    """ "The alarm does not go immediately into ALARM state", by the same page."""
    for treatment in ("missing", "ignore", "notBreaching"):
        assert judge([_POINTS[point] for point in points.split()], 3, 3, treatment) != "ALARM"


def test_the_figure_of_the_manual() -> None:
    """Three of three: alarm from the third breaching period on, OK at once after, and not for one period alone."""
    breaches = [False, False, True, True, True, False, False, False, True, False]
    alarm: list[State | None] = []
    for end in range(1, len(breaches) + 1):
        points = ([None] * (3 + EXTRA_RANGE) + breaches[:end])[-(3 + EXTRA_RANGE) :]
        alarm.append(judge(points, 3, 3, "notBreaching"))
    assert [number for number, state in enumerate(alarm, start=1) if state == "ALARM"] == [5]


@pytest.mark.parametrize(
    ("name", "value"),
    [("Sum", 110), ("Average", 11), ("Minimum", 2), ("Maximum", 20), ("SampleCount", 10), ("p50", 10), ("p99", 20)],
)
def test_statistics(name: str, value: float) -> None:
    assert statistic(name, [float(2 * n) for n in range(1, 11)]) == value
    assert statistic(name, []) is None


@pytest.mark.parametrize(
    ("expression", "a", "b", "value"),
    [
        ("a + b", 1, 2, 3),
        ("a + b", 1, None, None),
        ("FILL(a, 0) + FILL(b, 0)", None, 2, 2),
        ("IF(a > 0 AND FILL(b, 0) == 0, 1, 0)", 5, None, 1),
        ("IF(a > 0 AND FILL(b, 0) == 0, 1, 0)", 5, 7, 0),
        ("IF(a > 0 AND FILL(b, 0) == 0, 1, 0)", 0, None, 0),
        ("IF(a > 0 AND FILL(b, 0) == 0, 1, 0)", None, 7, None),
    ],
)
def test_metric_math(expression: str, a: float | None, b: float | None, value: float | None) -> None:
    assert calculate(expression, {"a": a, "b": b}) == value


@pytest.mark.parametrize(
    ("rule", "truth"),
    [
        ('ALARM("on")', True),
        ('ALARM("off") OR ALARM("on")', True),
        ('ALARM("off") AND ALARM("on")', False),
        ('ALARM("on") AND NOT ALARM("off")', True),
        ('(ALARM("on") OR ALARM("off")) AND OK("off")', True),
        ('INSUFFICIENT_DATA("off")', False),
        ("TRUE", True),
    ],
)
def test_rules_of_composite_alarms(rule: str, truth: bool) -> None:
    assert holds(rule, {"on": "ALARM", "off": "OK"}) is truth


def test_samples_are_gathered_by_period_and_dimension() -> None:
    alarm = MetricAlarm(
        {
            "Namespace": "N",
            "MetricName": "M",
            "Dimensions": [{"Name": "D", "Value": "v"}],
            "Statistic": "Sum",
            "Period": 60,
            "EvaluationPeriods": 2,
            "DatapointsToAlarm": 2,
            "Threshold": 10,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "notBreaching",
        },
        str,
    )
    ours, another = ("N", "M", frozenset({("D", "v")})), ("N", "M", frozenset({("D", "w")}))
    assert alarm.evaluate({ours: [(0, 6), (59, 4), (60, 10)]}, 120) == "ALARM"
    assert alarm.evaluate({ours: [(0, 6), (59, 3), (60, 10)]}, 120) == "OK"
    assert alarm.evaluate({another: [(0, 10), (60, 10)]}, 120) == "OK"


def test_a_change_is_told_once_and_after_the_wait() -> None:
    teller = Teller(wait_seconds=120, extension_seconds=180)
    told = [teller.see("ALARM" if now >= 60 else "OK", now, suppressed=False) for now in range(0, 420, 60)]
    assert told == [None, None, None, "ALARM", None, None, None]


def test_nothing_is_told_while_the_suppressor_is_on_and_for_the_extension_after_it() -> None:
    teller = Teller(wait_seconds=120, extension_seconds=180)
    told = {
        now: teller.see("ALARM" if 60 <= now < 900 else "OK", now, suppressed=120 <= now <= 360)
        for now in range(0, 1200, 60)
    }
    assert {now: state for now, state in told.items() if state} == {540: "ALARM", 1020: "OK"}


def test_what_is_over_before_the_extension_ends_is_never_told() -> None:
    teller = Teller(wait_seconds=120, extension_seconds=180)
    told = [
        teller.see("ALARM" if 60 <= now < 420 else "OK", now, suppressed=120 <= now <= 360)
        for now in range(0, 1200, 60)
    ]
    assert told == [None] * 20
