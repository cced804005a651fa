"""Grafana's macros and variables, as the functions of its source expand them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dashboards.reading.macros import (
    Fill,
    MacroError,
    TimeRange,
    Value,
    choose_interval,
    expand,
    format_interval,
    parse_interval,
    put_in_variables,
)

BEGIN = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
RANGE = TimeRange(BEGIN, datetime(2026, 11, 21, 9, 30, 0, 250_000, tzinfo=UTC))
MINUTE = timedelta(minutes=1)


def sql(written: str, **variables: Value) -> str:
    return expand(written, RANGE, MINUTE, variables).sql


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("$__time(bucket)", 'bucket AS "time"'),
        ("$__timeEpoch(bucket)", 'extract(epoch from bucket) as "time"'),
        ("$__timeFilter(bucket)", "bucket BETWEEN '2026-11-20T09:30:00Z' AND '2026-11-21T09:30:00.25Z'"),
        ("$__timeFilter(t.bucket)", "t.bucket BETWEEN '2026-11-20T09:30:00Z' AND '2026-11-21T09:30:00.25Z'"),
        ("$__timeFrom()::timestamptz", "'2026-11-20T09:30:00Z'::timestamptz"),
        ("$__timeTo()", "'2026-11-21T09:30:00.25Z'"),
        ("$__timeGroup(bucket, '5m')", "time_bucket('300.000s',bucket)"),
        ("$__timeGroup(bucket,$__interval)", "time_bucket('60.000s',bucket)"),
        ("$__timeGroup(bucket,1m), x", "time_bucket('60.000s',bucket) AS \"time\", x"),
        ("(ORDER BY $__timeGroup(bucket,1d))", "(ORDER BY time_bucket('86400.000s',bucket))"),
        ("$__timeGroupAlias(bucket, 1.5h, 0), x", "time_bucket('5400.000s',bucket) AS \"time\", x"),
        ("$__unixEpochFilter(at)", "at >= 1795167000 AND at <= 1795253400"),
        ("$__unixEpochNanoFilter(at)", "at >= 1795167000000000000 AND at <= 1795253400250000000"),
        ("$__unixEpochFrom() $__unixEpochTo()", "1795167000 1795253400"),
        ("$__unixEpochNanoFrom()", "1795167000000000000"),
        ("$__unixEpochNanoTo()", "1795253400250000000"),
        ("$__unixEpochGroup(at,10m)", "floor((at)/600)*600"),
        ("$__unixEpochGroupAlias(at,10m)", 'floor((at)/600)*600 AS "time"'),
        ("interval '$__interval' $__interval_ms", "interval '1m' 60000"),
        ("${__interval}", "1m"),
        ("$__from ${__to}", "1795167000000 1795253400250"),
        ("'${__from:date}' '${__to:date:iso}'", "'2026-11-20T09:30:00.000Z' '2026-11-21T09:30:00.250Z'"),
        ("${__from:date:seconds} ${__to:date:ms}", "1795167000 1795253400250"),
        ("SELECT $$ text $$", "SELECT $$ text $$"),
        ("x ~ '^a$'", "x ~ '^a$'"),
    ],
)
def test_a_macro_is_expanded_as_grafana_does(written: str, expanded: str) -> None:
    assert sql(written) == expanded


def test_times_are_of_utc_whatever_the_zone_of_the_range() -> None:
    zone = timezone(timedelta(hours=2))
    shown = TimeRange(BEGIN.astimezone(zone), RANGE.end.astimezone(zone))
    written = "$__timeFilter(t) $__from ${__to:date}"
    assert expand(written, shown, MINUTE, {}).sql == sql(written)


@pytest.mark.parametrize(
    ("written", "value", "expanded"),
    [
        ("$v", Value(("it's",)), "it''s"),
        ("'${v}'", Value(("a",)), "'a'"),
        ("[[v]]", Value(("a",)), "a"),
        ("$v", Value(("it's",), quoted=True), "'it''s'"),
        ("IN ($v)", Value(("a", "b'c"), quoted=True), "IN ('a','b''c')"),
        ("IN (${v:sqlstring})", Value(("a", "b'c"), quoted=True), "IN ('a','b''c')"),
        ("${v:sqlstring}", Value(('a"b',)), "'a\\\"b'"),
        ("${v:singlequote}", Value(("a", "b'c")), "'a','b\\'c'"),
        ("${v:doublequote}", Value(("a", 'b"c')), '"a","b\\"c"'),
        ("${v:raw}", Value(("a", "b'c")), "a,b'c"),
        ("${v:csv} [[v:csv]]", Value(("a", "b")), "a,b a,b"),
        ("('*' IN (${v:sqlstring}))", Value(("'*'",), raw=True), "('*' IN ('*'))"),
        ("LIKE '%$v'", Value(("%",)), "LIKE '%%'"),
    ],
)
def test_a_variable_is_put_in_by_its_format(written: str, value: Value, expanded: str) -> None:
    assert sql(written, v=value) == expanded


def test_a_name_that_begins_with_anothers_is_its_own() -> None:
    assert sql("$site $site_name", site=Value(("a",)), site_name=Value(("b",))) == "a b"


@pytest.mark.parametrize(
    "written",
    [
        "$nobody",
        "${nobody:raw}",
        "[[nobody]]",
        "${v.field}",
        "${v:lucene}",
        "$__range",
        "$__timeFitler(t)",
        "$__timeFilter()",
        "$__timeGroup(t)",
        "$__timeGroup(t, often)",
        "$__timeGroup(t, 1m, sometimes)",
        "${__from:date:YYYY-MM}",
        # Grafana ends arguments at the first closing parenthesis too.
        "$__timeGroup(coalesce(a, b), 1m)",
    ],
)
def test_what_grafana_does_not_know_is_an_error_of_one_line(written: str) -> None:
    with pytest.raises(MacroError) as error:
        sql(written, v=Value(("a",)))
    assert "\n" not in str(error.value)


def test_the_last_argument_of_a_group_says_how_grafana_fills_it() -> None:
    def fill(argument: str) -> Fill | None:
        return expand(f"$__timeGroup(t, 5m, {argument})", RANGE, MINUTE, {}).fill

    assert fill("NULL") == Fill(timedelta(minutes=5), "null")
    assert fill("previous") == Fill(timedelta(minutes=5), "previous")
    assert fill("0.5") == Fill(timedelta(minutes=5), "value", 0.5)
    assert expand("$__timeGroup(t, 5m)", RANGE, MINUTE, {}).fill is None


@pytest.mark.parametrize(
    ("length", "points", "text"),
    [
        (timedelta(hours=1), 1000, "5s"),
        (timedelta(hours=24), 1000, "1m"),
        (timedelta(hours=24), 800, "2m"),
        (timedelta(days=30), 1000, "30m"),
        (timedelta(days=30), 700, "1h"),
        (timedelta(days=365), 700, "12h"),
        (timedelta(days=365), 100, "1d"),
        (timedelta(seconds=10), 1000, "10ms"),
    ],
)
def test_the_interval_goes_in_grafanas_steps(length: timedelta, points: int, text: str) -> None:
    assert format_interval(choose_interval(TimeRange(BEGIN, BEGIN + length), points)) == text


def test_the_interval_is_not_less_than_the_smallest() -> None:
    assert choose_interval(TimeRange.last(timedelta(hours=1), BEGIN), 1000, MINUTE) == MINUTE


def test_an_interval_in_several_units() -> None:
    assert parse_interval("1h30m") == timedelta(minutes=90)
    assert format_interval(timedelta(seconds=90)) == "1m"
    with pytest.raises(MacroError):
        parse_interval("5 minutes")


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(MacroError, match="is empty"):
        TimeRange(BEGIN, BEGIN)


def test_macros_are_left_to_the_backend() -> None:
    written = "$__timeFilter(t) AND $__interval"
    assert put_in_variables(written, RANGE, MINUTE, {}) == "$__timeFilter(t) AND 1m"
