"""`fleet bench anomalies`: the loader's detector on the Numenta Anomaly Benchmark, beside a plain 3-sigma rule."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.nab import Corpus, Score, Series, published_scores, read_corpus, score_all
from lambdas.processor.detection.usual import Device, Usual, observe

_SIGMA_WINDOW = 1000
"""Values; of 50, 100, 288, 1000 and 2000 the one with which the 3-sigma rule scores best."""
_SIGMA_LEAST = 30
_NO_FLOORS = (0.0,)


def run(data: Path, console: Console) -> dict[str, Any]:
    """Runs both over every file, prints their scores, and returns the figures. Raises UserError without the data."""
    corpus = read_corpus(data)
    values = sum(len(series.values) for series in corpus.series)
    windows = sum(len(series.windows) for series in corpus.series)
    console.print(f"[dim]{len(corpus.series)} files, {values:,} values, {windows} windows with anomalies")
    ours, seconds = _timed(corpus, detect)
    sigma, sigma_seconds = _timed(corpus, three_sigma)
    scores = {"ours": score_all(corpus, ours), "3-sigma": score_all(corpus, sigma)}
    microseconds = {"ours": seconds / values * 1e6, "3-sigma": sigma_seconds / values * 1e6}
    console.print(_table(scores, microseconds, published_scores(corpus)))
    console.print(
        "Each at the threshold, one for all files, at which NAB's score is greatest; 0 is a detector that finds nothing. "
        "Below the line: what others reach, by results/final_results.json of the same folder."
    )
    return {
        "ours": {name: score.score for name, score in scores["ours"].items()},
        "three_sigma": {name: score.score for name, score in scores["3-sigma"].items()},
        "microseconds_per_reading": microseconds["ours"],
        "precision": scores["ours"]["standard"].precision,
        "recall": scores["ours"]["standard"].recall,
    }


def _timed(corpus: Corpus, detector: Callable[[Series], list[float]]) -> tuple[list[list[float]], float]:
    started = time.process_time()
    scores = [detector(series) for series in corpus.series]
    return scores, time.process_time() - started


def detect(series: Series) -> list[float]:
    """The scores of the loader's detector, value by value: of what it would report as new, 0 of everything else."""
    device = Device([Usual()])
    scores = []
    for at, value in zip(series.times, series.values, strict=True):
        milliseconds = int(at.replace(tzinfo=UTC).timestamp() * 1000)
        found = observe(device, (milliseconds,), ((value,),), _NO_FLOORS)
        scores.append(max((each.score for each in found if each.fresh), default=0.0))
    return scores


def three_sigma(series: Series) -> list[float]:
    """Of each value, how many standard deviations it is from the mean of those before it."""
    scores = []
    window: deque[float] = deque()
    total = squares = 0.0
    for value in series.values:
        mean = total / len(window) if window else 0.0
        variance = squares / len(window) - mean * mean if window else 0.0
        deviation = math.sqrt(max(variance, 0.0))
        # A window of equal values has a variance of rounding errors.
        varies = len(window) >= _SIGMA_LEAST and deviation > 1e-9 * abs(mean) + 1e-12
        scores.append(abs(value - mean) / deviation if varies else 0.0)
        window.append(value)
        total, squares = total + value, squares + value * value
        if len(window) > _SIGMA_WINDOW:
            oldest = window.popleft()
            total, squares = total - oldest, squares - oldest * oldest
    return scores


def _table(
    scores: Mapping[str, Mapping[str, Score]],
    microseconds: Mapping[str, float],
    published: Mapping[str, Mapping[str, float]],
) -> Table:
    profiles: Sequence[str] = list(scores["ours"])
    headings = [profile.removeprefix("reward_").removesuffix("_rate").replace("_", " ") for profile in profiles]
    table = Table("detector", *headings, "precision", "recall", "us/reading", title="Numenta Anomaly Benchmark")
    for name, own in scores.items():
        standard = own.get("standard") or next(iter(own.values()))
        table.add_row(
            name,
            *(f"{own[profile].score:.1f}" for profile in profiles),
            f"{standard.precision:.0%}",
            f"{standard.recall:.0%}",
            f"{microseconds[name]:.1f}",
        )
    table.add_section()
    for name, own_scores in sorted(published.items(), key=lambda item: -item[1].get("standard", 0.0)):
        if name != "null":
            figures = [f"{own_scores[profile]:.1f}" if profile in own_scores else "" for profile in profiles]
            table.add_row(name, *figures, "", "", "")
    return table
