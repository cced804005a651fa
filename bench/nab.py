"""The Numenta Anomaly Benchmark's files and its scoring, implemented anew.

The rules are those of Lavin and Ahmad, "Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly
Benchmark" (https://arxiv.org/abs/1510.03336), and, where the paper leaves them open, of `nab/sweeper.py`,
`nab/optimizer.py` and `nab/runner.py` in https://github.com/numenta/NAB. Given the scores that the repository holds of
other detectors, it arrives at that repository's own results, or a little above where that one's search for the threshold
stopped early.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ops.errors import UserError

_PROBATION_FRACTION = 0.15
_PROBATION_MOST_ROWS = 5000
_FAR_BEHIND = 3.0
HOW_TO_GET = "git clone https://github.com/numenta/NAB and give that folder"


@dataclass(frozen=True)
class Profile:
    """What an application pays: `config/profiles.json`."""

    name: str
    found: float
    """For a window that is found at its very beginning (tpWeight)."""
    missed: float
    """Taken off for a window in which nothing is found (fnWeight)."""
    false_alarm: float
    """Taken off for a detection far behind any window (fpWeight)."""


@dataclass(frozen=True)
class Series:
    """One file of the corpus: what a detector sees, and the windows (first and last row) that it should find."""

    name: str
    times: Sequence[datetime]
    values: Sequence[float]
    windows: Sequence[tuple[int, int]]

    @property
    def probation(self) -> int:
        """Rows at the beginning that count for nothing."""
        return math.floor(_PROBATION_FRACTION * min(len(self.values), _PROBATION_MOST_ROWS))


@dataclass(frozen=True)
class Corpus:
    """All files, in the order of their names, and the profiles."""

    folder: Path
    series: Sequence[Series]
    profiles: Sequence[Profile]


@dataclass(frozen=True)
class Score:
    """A detector's score at its best threshold; 0 is a detector that finds nothing, 100 a perfect one."""

    profile: str
    score: float
    threshold: float
    windows: int
    windows_found: int
    false_alarms: int
    """Rows outside every window with a score at or above the threshold."""

    @property
    def recall(self) -> float:
        """Share of the windows that were found."""
        return self.windows_found / self.windows if self.windows else 0.0

    @property
    def precision(self) -> float:
        """Windows found, of these and the false alarms."""
        raised = self.windows_found + self.false_alarms
        return self.windows_found / raised if raised else 0.0


def read_corpus(folder: Path) -> Corpus:
    """Reads a checkout of numenta/NAB. Raises UserError when `folder` is none."""
    try:
        labels = json.loads((folder / "labels" / "combined_windows.json").read_text())
        costs = json.loads((folder / "config" / "profiles.json").read_text())
        profiles = [
            Profile(name, float(c["tpWeight"]), float(c["fnWeight"]), float(c["fpWeight"]))
            for name, c in ((name, profile["CostMatrix"]) for name, profile in costs.items())
        ]
        return Corpus(folder, [_read_series(folder, name, labels[name]) for name in sorted(labels)], profiles)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UserError(f"--data {folder}: no Numenta Anomaly Benchmark here ({what}); {HOW_TO_GET}") from None


def _read_series(folder: Path, name: str, windows: Sequence[Sequence[str]]) -> Series:
    times, values = [], []
    with (folder / "data" / name).open(newline="") as file:
        for row in csv.DictReader(file):
            times.append(datetime.fromisoformat(row["timestamp"]))
            values.append(float(row["value"]))
    rows = {at: row for row, at in reversed(list(enumerate(times)))}  # the first row of a time that is there twice
    limits = [(datetime.fromisoformat(first), datetime.fromisoformat(last)) for first, last in windows]
    return Series(name, times, values, [(rows[first], rows[last]) for first, last in limits])


def published_scores(corpus: Corpus) -> dict[str, dict[str, float]]:
    """What `results/final_results.json` says: detector -> profile -> score. Empty when there is no such file."""
    try:
        results: dict[str, dict[str, float]] = json.loads((corpus.folder / "results/final_results.json").read_text())
    except (OSError, ValueError):
        return {}
    return results


def sigmoid_weight(position: float) -> float:
    """What a detection is worth: `position` -1 is a window's beginning, 0 its end, 1 a window's length behind it."""
    if position > _FAR_BEHIND:
        return -1.0
    return 2 / (1 + math.exp(5 * position)) - 1


def row_weights(series: Series, profile: Profile) -> Iterator[tuple[int | None, float]]:
    """Of each row, the window (its number) in which it lies, and what a detection there adds to the score."""
    best = sigmoid_weight(-1.0)
    coming = list(enumerate(series.windows))
    within: tuple[int, int, int] | None = None
    behind: tuple[int, int] | None = None
    for row in range(len(series.values)):
        if coming and row == coming[0][1][0]:
            number, (first, last) = coming.pop(0)
            within = number, first, last
        if within is None:
            weight = -1.0 if behind is None else sigmoid_weight((row - behind[0]) / behind[1])
            yield None, weight * profile.false_alarm
            continue
        number, first, last = within
        yield number, sigmoid_weight(-(last - row + 1) / (last - first + 1)) * profile.found / best
        if row == last:
            # A window of one row would divide by zero; NAB has none.
            within, behind = None, (last, max(last - first, 1))


def score_corpus(corpus: Corpus, scores: Sequence[Sequence[float]], profile: Profile) -> Score:
    """The score of a detector at the threshold, one for the whole corpus, at which it is greatest.

    `scores` are those of each row, file by file. A row whose score is at or above the threshold is a detection. A window
    counts once, for its best detection. Rows of the probationary period count for nothing.
    """
    rows: list[tuple[float, float, tuple[int, int] | None]] = []
    for file, (series, own) in enumerate(zip(corpus.series, scores, strict=True)):
        weights = zip(own, row_weights(series, profile), strict=True)
        for row, (score, (number, weight)) in enumerate(weights):
            if row >= series.probation:
                rows.append((score, weight, None if number is None else (file, number)))
    windows = {window for _, _, window in rows if window is not None}
    return _best(rows, windows, profile)


def _best(
    rows: list[tuple[float, float, tuple[int, int] | None]], windows: set[tuple[int, int]], profile: Profile
) -> Score:
    """Lowers the threshold from above every score, row by row, and remembers where the sum was greatest."""
    nothing = -profile.missed * len(windows)
    perfect = profile.found * len(windows)
    rows.sort(key=lambda row: -row[0])
    parts = dict.fromkeys(windows, -profile.missed)
    total, found, false_alarms = nothing, 0, 0
    best, at = nothing, (math.inf, 0, 0)
    for index, (score, weight, window) in enumerate(rows):
        if window is None:
            total += weight
            false_alarms += 1
        elif weight > parts[window]:
            found += parts[window] == -profile.missed
            total += weight - parts[window]
            parts[window] = weight
        is_last_of_its_score = index + 1 == len(rows) or rows[index + 1][0] != score
        if is_last_of_its_score and total > best:
            best, at = total, (score, found, false_alarms)
    threshold, found, false_alarms = at
    normalized = 100 * (best - nothing) / (perfect - nothing) if windows else 0.0
    return Score(profile.name, normalized, threshold, len(windows), found, false_alarms)


def score_all(corpus: Corpus, scores: Sequence[Sequence[float]]) -> Mapping[str, Score]:
    """The score for each profile, each at its own best threshold."""
    return {profile.name: score_corpus(corpus, scores, profile) for profile in corpus.profiles}
