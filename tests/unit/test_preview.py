"""The page of dashboards: frames, ranges, every kind of panel, and texts that would like to be more than texts."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dashboards.preview.data import (
    Annotations,
    Chip,
    Column,
    DashboardPages,
    Event,
    Frame,
    Page,
    PanelResult,
    PreviewData,
    RangeChoice,
    RangeResult,
    SeriesFrame,
    TableFrame,
)
from dashboards.preview.frames import milliseconds, series_frame, table_frame
from dashboards.preview.page import embedded, render, write
from dashboards.preview.ranges import Range, given
from dashboards.reading.macros import Fill
from ops.errors import UserError
from tests.preview_page import assert_is_self_contained, panels, parsed

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><!--<script>"


class TestFrames:
    def test_numbers_are_series_and_texts_name_them(self) -> None:
        rows = [(NOW, "north", 1), (NOW, "south", 2.5), (NOW + timedelta(minutes=1), "north", None)]
        frame = series_frame("A", ["time", "site", "value"], rows)
        assert isinstance(frame, SeriesFrame)
        assert {each.name: each.values for each in frame.series} == {"north": [1, None], "south": [2.5]}
        assert frame.times[frame.series[0].t] == [milliseconds(NOW), milliseconds(NOW) + 60_000]

    def test_several_numbers_carry_the_text_behind_their_own_name(self) -> None:
        frame = series_frame("A", ["time", "metric", "low", "high"], [(NOW, "a", 1, 2)])
        assert isinstance(frame, SeriesFrame)
        assert [each.name for each in frame.series] == ["low a", "high a"]

    def test_columns_keep_their_names_without_rows_and_without_values(self) -> None:
        for rows in ([], [(NOW, None, None)]):
            frame = series_frame("A", ["time", "p50", "p95"], rows)
            assert rows == [] or [each.name for each in frame.series] == ["p50", "p95"]  # type: ignore[union-attr]

    def test_values_become_what_json_can_say(self) -> None:
        names = ["day", "share", "wait", "much", "odd", "on", "extra"]
        row = (date(2026, 11, 21), Decimal("0.25"), timedelta(seconds=90), float("nan"), float("inf"), True, {"a": 1})
        frame = table_frame("A", names, [row])
        assert [(each.type, each.values[0]) for each in frame.columns] == [
            ("time", milliseconds(datetime(2026, 11, 21, tzinfo=UTC))),
            ("number", 0.25),
            ("number", 90.0),
            ("number", None),
            ("number", None),
            ("boolean", True),
            ("string", '{"a": 1}'),
        ]

    @pytest.mark.parametrize(
        ("mode", "expected"), [("null", [None, 4, None]), ("previous", [None, 4, 4]), ("value", [7, 4, 7])]
    )
    def test_buckets_without_a_row_are_filled_as_the_query_says(self, mode: Any, expected: list[float | None]) -> None:
        fill = Fill(timedelta(minutes=1), mode, 7)
        begin = milliseconds(NOW)
        rows = [(NOW + timedelta(minutes=1), 4)]
        frame = series_frame("A", ["time", "n"], rows, fill=fill, begin=begin, end=begin + 120_000)
        assert isinstance(frame, SeriesFrame)
        assert frame.series[0].values == expected


class TestRanges:
    def test_they_are_shortest_first_once_each_and_in_words(self) -> None:
        assert [each.title for each in given(["30d", "1h", "24h", "1h", "90m"])] == [
            "1 hour",
            "90 minutes",
            "24 hours",
            "30 days",
        ]

    @pytest.mark.parametrize("text", ["1", "soon", "0h", "30s", "99999d"])
    def test_what_is_no_range_is_one_line(self, text: str) -> None:
        with pytest.raises(UserError, match=r"30d|1d") as refused:
            given([text])
        assert text in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_embedded_json_is_the_same_json_and_no_markup() -> None:
    text = json.dumps({"name": HOSTILE, "and": "&amp; \u2028"}, ensure_ascii=False)
    assert not {"<", ">", "&"} & set(embedded(text))
    assert json.loads(embedded(text)) == json.loads(text)


TIMES = [milliseconds(NOW) + 60_000 * n for n in range(-59, 1)]
WAVE: list[Any] = [None if n % 20 == 7 else 20 + n % 7 for n in range(60)]
SERIES = [
    series_frame(
        "A", ["time", "one", "two"], [(NOW - timedelta(minutes=59 - n), value, n) for n, value in enumerate(WAVE)]
    )
]
TABLE: list[Frame] = [
    TableFrame(
        "A",
        [
            Column("device", "string", ["device-1", HOSTILE, None]),
            Column("score", "number", [91.5, 40, None]),
            Column("seen", "time", [*TIMES[:2], None]),
        ],
    )
]
STEPS = {"mode": "absolute", "steps": [{"color": "red", "value": None}, {"color": "green", "value": 50}]}
PANELS: list[tuple[dict[str, Any], list[Frame]]] = [
    ({"type": "timeseries", "fieldConfig": {"defaults": {"unit": "celsius", "custom": {"fillOpacity": 20}}}}, SERIES),
    ({"type": "timeseries", "fieldConfig": {"defaults": {"custom": {"drawStyle": "bars", "stacking": {"mode": "normal"}}}}},
     SERIES),
    ({"type": "timeseries", "fieldConfig": {"defaults": {"custom": {"drawStyle": "points"}}}}, SERIES),
    ({"type": "timeseries", "options": {"legend": {"displayMode": "table", "calcs": ["lastNotNull", "min", "max"]}},
      "fieldConfig": {"defaults": {"thresholds": STEPS, "custom": {"thresholdsStyle": {"mode": "line+area"}}}, "overrides": [
          {"matcher": {"id": "byName", "options": "two"}, "properties": [
              {"id": "custom.fillBelowTo", "value": "one"}, {"id": "unit", "value": "percent"},
              {"id": "custom.axisPlacement", "value": "right"}]}]}}, SERIES),
    ({"type": "stat", "options": {"graphMode": "area"}, "fieldConfig": {"defaults": {"unit": "s", "thresholds": STEPS}}}, SERIES),
    ({"type": "gauge", "fieldConfig": {"defaults": {"min": 0, "max": 100, "unit": "percent", "thresholds": STEPS}}}, SERIES),
    ({"type": "bargauge", "options": {"reduceOptions": {"values": True, "calcs": ["lastNotNull"]}}}, TABLE),
    ({"type": "table", "options": {"sortBy": [{"displayName": "score", "desc": True}]}, "fieldConfig": {"defaults": {},
      "overrides": [{"matcher": {"id": "byName", "options": "score"}, "properties": [
          {"id": "thresholds", "value": STEPS}, {"id": "custom.cellOptions", "value": {"type": "color-background"}}]}]}},
     TABLE),
    ({"type": "barchart", "options": {"xField": "device", "showValue": "always"}}, TABLE),
    ({"type": "piechart", "options": {"pieType": "donut", "reduceOptions": {"values": True, "calcs": ["lastNotNull"]}}}, TABLE),
    ({"type": "heatmap"}, SERIES),
    ({"type": "state-timeline", "fieldConfig": {"defaults": {"mappings": [
        {"type": "range", "options": {"from": 0, "to": 30, "result": {"text": "low", "color": "red"}}}]}}}, SERIES),
    ({"type": "status-history", "fieldConfig": {"defaults": {"thresholds": STEPS}}}, SERIES),
    ({"type": "somebodys-own-panel"}, TABLE),
]  # fmt: skip
"""A panel of every kind and style, with what its query answered."""


def data(extra: list[tuple[dict[str, Any], PanelResult]] | None = None) -> PreviewData:
    begin, end = TIMES[0], TIMES[-1]
    results = [(model, PanelResult(begin, end, frames)) for model, frames in PANELS] + (extra or [])
    models = [
        {"id": n, "title": f"{model['type']} {n}", "gridPos": {"x": 0, "y": 8 * n, "w": 24, "h": 8}, **model}
        for n, (model, _) in enumerate(results)
    ]
    annotations = [
        Annotations("Anomalies", "red", [Event(TIMES[20], HOSTILE, TIMES[40]), Event(TIMES[30], "deployed")])
    ]
    shown = RangeResult(begin, end, {str(n): result for n, (_, result) in enumerate(results)}, annotations)
    page = Page(HOSTILE, [Chip("device", "Device", HOSTILE)], {"1h": shown})
    dashboard = DashboardPages("sample", HOSTILE, HOSTILE, "1h", models, [page])
    return PreviewData(end, "local", [RangeChoice("1h", "1 hour")], [dashboard])


def test_every_kind_of_panel_is_drawn(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write(render(data()), page)
    drawn = panels(page)
    assert len(drawn) == 2 * len(PANELS)
    for panel in drawn:
        assert panel["marks"] > 0, panel
        assert not panel["bad"], panel


def test_a_panel_that_shows_nothing_says_why(tmp_path: Path) -> None:
    begin, end = TIMES[0], TIMES[-1]
    nothing = SeriesFrame("A", [], [])
    only_null = series_frame("A", ["time", "n"], [(NOW, None)])
    extra: list[tuple[dict[str, Any], PanelResult]] = [
        *(({"type": kind}, PanelResult(begin, end, [frame])) for kind in ("timeseries", "stat", "gauge", "barchart", "piechart",
          "heatmap", "status-history", "bargauge") for frame in (nothing, only_null)),
        ({"type": "table"}, PanelResult(begin, end, [TableFrame("A", [])])),
        ({"type": "timeseries"}, PanelResult(begin, end, error='relation "nowhere" does not exist')),
        ({"type": "text", "options": {"content": HOSTILE}}, PanelResult(begin, end)),
    ]  # fmt: skip
    page = tmp_path / "page.html"
    write(render(data(extra)), page)
    drawn = panels(page)
    for panel in drawn[2 * len(PANELS) :]:
        assert panel["reason"] or panel["kind"] == "stat", panel
        assert not panel["bad"], panel
    reasons = {panel["reason"] for panel in drawn}
    assert {"No data in this range", 'relation "nowhere" does not exist'} <= reasons


def test_the_page_is_self_contained_and_no_text_breaks_out() -> None:
    text = render(data())
    assert_is_self_contained(text)
    document = parsed(text)
    assert len(document.scripts) == 3
    assert json.loads(document.scripts[0])["dashboards"][0]["title"] == HOSTILE
    assert HOSTILE not in text


UNITS: list[tuple[str | None, float, str]] = [
    ("celsius", 21.44, "21.4 °C"),
    ("percent", 5, "5%"),
    ("pressurehpa", 1012.94, "1,012.9 hPa"),
    ("s", 0.0019, "1.90 ms"),
    ("s", 7200, "2 h"),
    ("ms", 15, "15 ms"),
    ("dtdurations", 136, "2 min 16 s"),
    ("bytes", 1536, "1.50 KiB"),
    ("decbytes", 1500, "1.50 kB"),
    ("short", 12_345, "12,345"),
    ("short", 1_234_567, "1.23 M"),
    ("reqps", 0.25, "0.250 req/s"),
    ("percentunit", 0.5, "50%"),
    ("none", -0.0, "0"),
    (None, 4790, "4790"),
    ("dateTimeAsIso", TIMES[-1], "11-21 10:00:00"),
]


def test_units(tmp_path: Path) -> None:
    extra: list[tuple[dict[str, Any], PanelResult]] = [
        (
            {"type": "stat", "fieldConfig": {"defaults": {"unit": unit} if unit else {}}},
            PanelResult(TIMES[0], TIMES[-1], [TableFrame("A", [Column("n", "number", [value])])]),
        )
        for unit, value, _ in UNITS
    ]
    page = tmp_path / "page.html"
    write(render(data(extra)), page)
    drawn = [each for each in panels(page) if each["theme"] == "light"][len(PANELS) :]
    texts = [each["model"]["items"][0]["display"]["text"] for each in drawn]
    assert texts == [text for _, _, text in UNITS]


def test_an_axis_is_the_range_and_what_never_changes_has_labels_that_differ(tmp_path: Path) -> None:
    begin, end = TIMES[0], TIMES[-1]
    bars = {"defaults": {"custom": {"drawStyle": "bars"}}}
    alone = series_frame("A", ["time", "one", "two", "three"], [(NOW, 5, 6, 7)])
    flat = series_frame(
        "A", ["time", "n"], [(NOW - timedelta(minutes=n), 62.18000030517578 + n * 1e-7) for n in (3, 2, 1)]
    )
    extra = [
        ({"type": "timeseries", "fieldConfig": bars}, PanelResult(begin, end, [alone])),
        ({"type": "timeseries", "fieldConfig": {"defaults": {"unit": "percent"}}}, PanelResult(begin, end, [flat])),
    ]
    page = tmp_path / "page.html"
    write(render(data(extra)), page)
    lone_bars, unchanged = [each for each in panels(page) if each["theme"] == "light"][len(PANELS) :]
    assert lone_bars["extent"] == pytest.approx([begin, end], abs=(end - begin) / 50)
    labels = [text for text in unchanged["texts"] if text.endswith("%")]
    assert len(labels) >= 2
    assert len(set(labels)) == len(labels)


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write("page", tmp_path / "page.html")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_a_range_is_known_by_its_length() -> None:
    assert Range("15m").is_short
    assert not Range("1h").is_short
