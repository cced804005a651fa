"""The Numenta Anomaly Benchmark's scoring: worked by hand, and what a wrong folder is told."""

import json
import math
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from bench.anomalies import run, three_sigma
from bench.nab import Corpus, Profile, Series, read_corpus, score_corpus, sigmoid_weight
from ops.errors import UserError

STANDARD = Profile("standard", 1.0, 1.0, 0.11)
START = datetime(2014, 1, 1)


def series(count: int, *windows: tuple[int, int]) -> Series:
    times = [START + timedelta(minutes=5 * n) for n in range(count)]
    return Series("one.csv", times, [0.0] * count, windows)


def score(one: Series, marked: dict[int, float]) -> float:
    scores = [marked.get(row, 0.0) for row in range(len(one.values))]
    return score_corpus(Corpus(Path(), [one], [STANDARD]), [scores], STANDARD).score


def test_weights_are_those_of_the_paper() -> None:
    assert sigmoid_weight(-1.0) == pytest.approx(0.98661, abs=1e-5)
    assert sigmoid_weight(-0.5) == pytest.approx(0.84828, abs=1e-5)
    assert sigmoid_weight(0.0) == 0.0
    assert sigmoid_weight(1.0) == pytest.approx(-0.98661, abs=1e-5)
    assert sigmoid_weight(3.1) == -1.0


def test_nothing_found_is_0_and_a_window_at_its_beginning_100() -> None:
    one = series(1000, (500, 599))
    assert score(one, {}) == 0.0
    assert score(one, {500: 1.0}) == pytest.approx(100)
    # Once per window, for the best of its detections.
    assert score(one, dict.fromkeys(range(500, 600), 1.0)) == pytest.approx(100)


def test_the_end_of_a_window_is_worth_less_than_its_beginning() -> None:
    one = series(1000, (500, 599))
    # The last row lies at -1/100 of the window; missing it would have cost 1.
    weight = (2 / (1 + math.exp(-0.05)) - 1) / (2 / (1 + math.exp(-5)) - 1)
    assert score(one, {599: 1.0}) == pytest.approx(100 * (weight + 1) / 2)


def test_a_false_alarm_costs_unless_the_threshold_leaves_it_out() -> None:
    one = series(1000, (500, 599))
    assert score(one, {300: 0.9, 500: 1.0}) == pytest.approx(100)
    assert score(one, {300: 1.0, 500: 1.0}) == pytest.approx(100 * (2 - 0.11) / 2)
    # Right behind a window it is nearly none.
    assert score(one, {500: 1.0, 600: 1.0}) > 100 * (2 - 0.01) / 2


def test_the_probationary_period_counts_for_nothing() -> None:
    assert series(1000).probation == 150
    assert series(22_000).probation == 750
    assert score(series(1000, (500, 599)), {149: 1.0, 500: 1.0}) == pytest.approx(100)
    assert score(series(1000, (500, 599)), {150: 1.0, 500: 1.0}) < 95


def test_three_sigma_knows_what_went_before() -> None:
    one = series(100)
    values = [float(n % 2) for n in range(100)]
    values[80] = 5.0
    scores = three_sigma(Series(one.name, one.times, values, ()))
    assert scores[80] > 3 > max(scores[:80])


def write_corpus(folder: Path) -> None:
    count = 1200
    rows = [f"{START + timedelta(minutes=5 * n)},{20 + n % 7 + (50 if 900 <= n < 903 else 0)}" for n in range(count)]
    window = [f"{START + timedelta(minutes=5 * n)}.000000" for n in (880, 950)]
    costs = {"tpWeight": 1.0, "fnWeight": 1.0, "fpWeight": 0.11, "tnWeight": 1.0}
    for name, text in {
        "data/real/one.csv": "\n".join(["timestamp,value", *rows]) + "\n",
        "labels/combined_windows.json": json.dumps({"real/one.csv": [window]}),
        "config/profiles.json": json.dumps({"standard": {"CostMatrix": costs}}),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_both_detectors_are_run_and_scored(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    figures = run(tmp_path, Console(quiet=True))
    assert figures["ours"]["standard"] > 90
    assert 0 < figures["three_sigma"]["standard"] <= 100
    assert (figures["recall"], figures["precision"]) == (1.0, 1.0)
    assert figures["microseconds_per_reading"] > 0


@pytest.mark.parametrize("damage", ["data/real/one.csv", "labels/combined_windows.json", "config/profiles.json"])
def test_a_wrong_folder_is_one_line_that_says_how_to_get_the_data(tmp_path: Path, damage: str) -> None:
    write_corpus(tmp_path)
    (tmp_path / damage).write_text("nonsense")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"github\.com/numenta/NAB") as raised:
            read_corpus(folder)
        assert "\n" not in str(raised.value)
        assert str(folder) in str(raised.value)
