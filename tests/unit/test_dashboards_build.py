"""The dashboards as code: what is committed is what the code says, and every panel can be read and led on from."""

import json
import os
import re
import subprocess
import sys
from itertools import combinations, pairwise
from typing import Any

import pytest

from dashboards import build, units
from dashboards.board import Board
from dashboards.boards import BOARDS
from dashboards.canonical import canonical
from dashboards.levels import FLEET, by_range
from dashboards.source import UID
from lambdas.shared.contract import METRICS
from ops.paths import ROOT

MODELS: dict[str, dict[str, Any]] = {board.uid: json.loads(build.render(board)) for board in BOARDS}
PANELS = [(uid, panel) for uid, model in MODELS.items() for panel in model["panels"] if panel["type"] != "row"]
NAMES = [f"{uid}: {panel['title']}" for uid, panel in PANELS]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_committed_json_is_current(board: Board) -> None:
    path = build.FOLDER / f"{board.uid}.json"
    assert path.read_text() == build.render(board), "run: python -m dashboards.build"


def test_there_is_no_other_dashboard_and_the_rules_are_current() -> None:
    assert {path.stem for path in build.FOLDER.glob("*.json")} == {board.uid for board in BOARDS}
    assert build.RULES.read_text() == build.render_rules(), "run: python -m dashboards.build"


def test_the_same_code_writes_the_same_json() -> None:
    """Whatever the order of sets and hashes is in another process."""
    code = "from dashboards import build; print(build.render(build.BOARDS[0]), end='')"
    written = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert written.stdout.decode() == build.render(BOARDS[0])


def test_what_grafana_adds_and_rewrites_is_not_in_the_committed_form() -> None:
    model = MODELS["iot-overview"]
    held = json.loads(json.dumps(model)) | {"id": 7, "version": 3, "iteration": 1, "refresh": 5.0}
    assert json.loads(canonical(held)) == model | {"refresh": 5}


@pytest.mark.parametrize("uid", MODELS)
def test_numbers_and_places_of_panels_are_their_own(uid: str) -> None:
    panels = MODELS[uid]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["h"] > 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=NAMES)
def test_every_panel_says_what_it_shows(uid: str, panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 20
    assert panel["datasource"]["uid"] == UID
    config = panel["fieldConfig"]
    assert config["defaults"]["thresholds"]["steps"][0]["value"] is None
    if panel["type"] == "table":
        assert config["defaults"]["noValue"]
    else:
        assert config["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == UID
        assert target["format"] == ("time_series" if panel["type"] in ("timeseries", "status-history") else "table")
        if panel["type"] == "table":
            assert re.search(r"LIMIT \d+$", target["rawSql"]) or panel["title"] in {"Registered as", "Compression"}
        # A column that is named in an override is one of the query's.
        for override in config["overrides"]:
            if override["matcher"]["id"] == "byName":
                name = override["matcher"]["options"]
                assert name in target["rawSql"] or "AS metric" in target["rawSql"], name


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=NAMES)
def test_links_lead_to_dashboards_that_take_what_they_give(uid: str, panel: dict[str, Any]) -> None:
    config = panel["fieldConfig"]
    links = list(config["defaults"].get("links") or [])
    for override in config["overrides"]:
        links += [each for item in override["properties"] if item["id"] == "links" for each in item["value"]]
    for link in links:
        target = re.fullmatch(r"/d/([a-z-]+)\?\$\{__url_time_range\}(.*)", link["url"])
        assert target, link
        there = {variable["name"] for variable in MODELS[target[1]]["templating"]["list"]}
        here = {variable["name"] for variable in MODELS[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", target[2])) <= there
        assert set(re.findall(r"\$\{(\w+):queryparam\}", target[2])) <= here & there
        for field in re.findall(r"\$\{__data\.fields\.(\w+)\}", target[2]):
            assert field in panel["targets"][0]["rawSql"]


@pytest.mark.parametrize("uid", MODELS)
def test_sql_uses_only_variables_that_the_dashboard_has(uid: str) -> None:
    names = {variable["name"] for variable in MODELS[uid]["templating"]["list"]}
    for found in re.findall(r'"rawSql": "(.*)"', json.dumps(MODELS[uid], indent=1)):
        assert set(re.findall(r"\$\{(\w+)(?::\w+)?\}", found)) <= names
        assert "$__from" not in found


def test_every_metric_of_the_contract_has_a_unit_and_a_panel() -> None:
    titles = {panel["title"].lower() for uid, panel in PANELS if uid == "iot-device"}
    for metric in METRICS:
        assert units.of(metric)
        assert metric.name in units.SHORT_NAMES
        assert metric.name in titles
    (chosen,) = (each for each in MODELS["iot-overview"]["templating"]["list"] if each["name"] == "metric")
    assert [option["value"] for option in chosen["options"]] == [metric.name for metric in METRICS]


def test_a_range_is_read_from_one_level_and_no_range_from_none() -> None:
    branches = by_range("SELECT @width FROM @view WHERE @chosen", FLEET).split("\nUNION ALL\n")
    assert [re.findall(r"FROM (\w+)", branch) for branch in branches] == [[level.view] for level in FLEET]
    ends = [re.findall(r"(<=|>) interval '([^']+)'", branch) for branch in branches]
    assert "> interval" not in branches[0]
    assert "<= interval" not in branches[-1]
    for (*_, (_, end)), ((_, begin), *_) in pairwise(ends):
        assert end == begin
