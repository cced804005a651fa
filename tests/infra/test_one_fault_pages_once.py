"""Simulated faults against prod's alarms: each is told once, by the right alarm, and taken back when it is mended."""

import pytest

from infra.alarms.catalogue import catalogue
from tests.infra.alarm_evaluation import Monitor, Told
from tests.infra.alarm_series import FAULTS, INCIDENTS, INSTANCE, Fault, Values, World, samples
from tests.infra.templates import Synthesised, synthesised
from tests.infra.test_monitoring import named

_BEFORE = 60
_DURING = 150
_AFTER = 60
_PAGES = {"iot-alarms-p0", "iot-alarms-p1"}


@pytest.fixture(scope="module")
def prod() -> Synthesised:
    return synthesised("prod").of("monitoring")


def _name(key: str) -> str:
    return key if key.startswith("iot-") else f"iot-{key}"


def watched(prod: Synthesised, fault: Fault, *, after: Values | None = None, lasts: int = 0) -> list[Told]:
    """What is told while a fault begins, lasts for two and a half hours, and is mended."""
    world = World(prod.settings)
    broken = range(_BEFORE, _BEFORE + _DURING)
    series = samples(
        world,
        minutes=broken.stop + _AFTER,
        fault=fault,
        broken=broken,
        after=lambda minute: after or {} if minute < lasts else {},
    )
    monitor = Monitor(prod.template, named(prod))
    calm = monitor.run(series, (_BEFORE - 20) * 60, _BEFORE * 60)
    assert calm == []
    return monitor.run(series, (_BEFORE + 1) * 60, (broken.stop + _AFTER) * 60)


@pytest.mark.parametrize("incident", INCIDENTS)
def test_one_fault_is_told_once_and_taken_back(prod: Synthesised, incident: str) -> None:
    cause, fault = INCIDENTS[incident]
    told = watched(prod, fault)
    assert [(each.alarm, each.state) for each in told] == [(_name(cause), "ALARM"), (_name(cause), "OK")]


@pytest.mark.parametrize(
    ("incident", "within_minutes"),
    [("AWS IoT Core is unreachable", 4), ("no device sends", 8), ("the database is down", 4)],
)
def test_it_is_told_soon_and_to_the_pager(prod: Synthesised, incident: str, within_minutes: int) -> None:
    told = watched(prod, INCIDENTS[incident][1])[0]
    assert told.second <= (_BEFORE + within_minutes) * 60
    assert told.topic in _PAGES


@pytest.mark.parametrize(
    ("incident", "expected"),
    [("no device sends", []), ("the rule may not write to Firehose", ["iot-rule-failures-dev"])],
)
def test_an_environment_whose_devices_come_and_go_is_quiet_when_idle_and_no_less_watched(
    incident: str, expected: list[str]
) -> None:
    told = watched(synthesised("dev").of("monitoring"), INCIDENTS[incident][1])
    assert [each.alarm for each in told if each.state == "ALARM"] == expected


def test_a_backlog_that_loads_after_the_database_is_back_is_not_told(prod: Synthesised) -> None:
    backlog: Values = {"objects.ApproximateAgeOfOldestMessage": 9000, "watch.LatencySeconds": 9000}
    told = watched(prod, INCIDENTS["the database is down"][1], after=backlog, lasts=8)
    assert [each.alarm for each in told if each.state == "ALARM"] == ["iot-database-unreachable"]


def test_dead_letters_that_remain_after_the_database_is_back_are_told_then(prod: Synthesised) -> None:
    _, down = INCIDENTS["the database is down"]
    dead: Values = {"objects-dlq.ApproximateNumberOfMessagesVisible": 3}
    fault = Fault(down.values | dead, down.rising)
    told = [each for each in watched(prod, fault, after=dead, lasts=_AFTER) if each.state == "ALARM"]
    assert [each.alarm for each in told] == ["iot-database-unreachable", "iot-objects-dead-letters"]
    mended = (_BEFORE + _DURING) * 60
    assert mended + 600 <= told[1].second <= mended + 900


def test_each_composite_alarm_by_itself_is_told_to_the_topic_of_its_severity(prod: Synthesised) -> None:
    """The fault of one alarm alone, through its wait, and nothing else with it."""
    alarms = [alarm for alarm in catalogue(prod.settings, database_instance_id=INSTANCE) if alarm.quiet]
    assert len(alarms) > 20
    for alarm in alarms:
        told = [(each.alarm, each.state, each.topic) for each in watched(prod, FAULTS[alarm.key])]
        assert told == [
            (_name(alarm.key), state, f"iot-alarms-{alarm.severity.lower()}") for state in ("ALARM", "OK")
        ], alarm.key


def test_no_alarm_keeps_itself_quiet_in_a_circle(prod: Synthesised) -> None:
    alarms = {alarm.key: alarm for alarm in catalogue(prod.settings, database_instance_id=INSTANCE)}

    def causes(key: str, seen: tuple[str, ...] = ()) -> None:
        assert key not in seen, (*seen, key)
        quiet = alarms[key].quiet
        for cause in quiet.by if quiet else ():
            causes(cause, (*seen, key))

    for key in alarms:
        causes(key)


def test_a_group_of_causes_has_one_name_and_one_list(prod: Synthesised) -> None:
    groups: dict[str, tuple[str, ...]] = {}
    for alarm in catalogue(prod.settings, database_instance_id=INSTANCE):
        if alarm.quiet and len(alarm.quiet.by) > 1:
            assert alarm.quiet.group
            assert groups.setdefault(alarm.quiet.group, alarm.quiet.by) == alarm.quiet.by
