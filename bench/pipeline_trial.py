"""One trial of the pipeline: a fleet at one rate, what became of every reading, and where readings waited."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import linear_regression

import psycopg

from bench.pipeline_parts import Load, Parts
from certs.store import DeviceIdentity
from ops.rows import single_row
from simulator.accounts.report import Progress, RunReport
from simulator.run.engine import run
from simulator.scenario.config import SimulatorConfig

READINGS_PER_MESSAGE = 25
STALLED_SECONDS = 30.0
_SAMPLE_SECONDS = 0.5

_LOADED = "SELECT coalesce(sum(rows + duplicates + quarantined), 0)::bigint FROM ingest.objects WHERE object_id > %s"
_NEWEST = "SELECT max(loaded_at) FROM ingest.objects WHERE object_id > %s"
_ROWS = "SELECT count(*) FROM telemetry WHERE timestamp >= %s AND object_id > %s"
# Compared one by one, not by their number: a duplicate does not make up for a reading that is missing.
_MISSING = """
WITH acknowledged AS (SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS a (device_id, first, last))
SELECT (SELECT coalesce(sum(last - first + 1), 0) FROM acknowledged)::bigint
     - (SELECT count(*) FROM (
            SELECT DISTINCT device_id, seq FROM telemetry WHERE timestamp >= %s AND object_id > %s) AS stored
        JOIN acknowledged USING (device_id) WHERE seq BETWEEN first AND last)
"""
_LATENCY = """
SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY seconds), percentile_disc(0.95) WITHIN GROUP (ORDER BY seconds)
FROM (SELECT extract(epoch FROM loaded_at - timestamp)::float8 AS seconds
      FROM telemetry JOIN ingest.objects USING (object_id)
      WHERE object_id > %s AND timestamp >= %s) AS latencies
"""


@dataclass(frozen=True)
class Line:
    """The running pipeline, as a trial looks at it."""

    host: str
    port: int
    identities: Sequence[DeviceIdentity]
    topic: str
    prefix: str
    database: psycopg.Connection
    spool: Path
    """Where the Firehose process keeps what it has taken in."""
    parts: Parts


@dataclass(frozen=True)
class Waiting:
    """Readings between two parts at one moment; those of the spool are reckoned from its bytes."""

    elapsed: float
    device: float
    """Taken, and not acknowledged by the emulator: in an open envelope, or on their way."""
    spool: float
    """Taken in by the Firehose process, and not in S3."""
    queue: float
    """In S3, and not loaded."""

    @property
    def total(self) -> float:
        """Readings taken by a device that are no rows yet."""
        return self.device + self.spool + self.queue


@dataclass(frozen=True)
class Trial:
    """What one rate came to."""

    offered: float
    """Readings per second."""
    acknowledged: int
    rows: int
    acknowledged_per_second: float
    rows_per_second: float
    latency_p50: float | None
    latency_p95: float | None
    missing: int
    complete: bool
    """Whether every reading was acknowledged."""
    waiting: Sequence[Waiting]
    load: Load

    def growth(self, where: Callable[[Waiting], float]) -> float:
        """By how many readings a second a queue has grown, once the run was under way: the slope of a straight line."""
        steady = [sample for sample in self.waiting if sample.elapsed >= self.waiting[-1].elapsed / 5]
        if len(steady) < 4:
            return 0.0
        slope, _ = linear_regression([sample.elapsed for sample in steady], [where(sample) for sample in steady])
        return slope


def trial(line: Line, rate: float, seconds: float, progress: Callable[[str], None]) -> Trial:
    """Sends at `rate` readings a second for so long, then waits until everything acknowledged is a row."""
    interval = len(line.identities) / rate
    config = SimulatorConfig(
        device_count=len(line.identities),
        prefix=line.prefix,
        interval_seconds=interval,
        duration_seconds=seconds,
        batch=READINGS_PER_MESSAGE,
        # An envelope leaves when it is full: at a low rate that alone can take seconds, and counts as latency.
        linger_seconds=interval * READINGS_PER_MESSAGE * 1.5,
        topic=line.topic,
        anomaly_probability=0.001,
    )
    first_object = single_row(line.database.execute("SELECT coalesce(max(object_id), 0) FROM ingest.objects"))[0]
    watch = _Watch(line, first_object)
    with watch:
        report = run(config, line.identities, line.host, line.port, stop=threading.Event(), on_progress=watch.see)
    loaded, drained_at, missing = _drain(line, report, first_object, progress)
    since = report.started_at - timedelta(seconds=1)
    p50, p95 = single_row(line.database.execute(_LATENCY, (first_object, since)))
    began = report.started_at.timestamp()
    return Trial(
        offered=rate,
        acknowledged=report.readings_acknowledged,
        rows=single_row(line.database.execute(_ROWS, (since, first_object)))[0],
        acknowledged_per_second=report.readings_acknowledged / max(report.run_seconds, 1e-9),
        rows_per_second=loaded / max(drained_at - began, 1e-9),
        latency_p50=p50,
        latency_p95=p95,
        missing=missing,
        complete=report.complete,
        waiting=watch.samples,
        load=watch.load(),
    )


def _drain(line: Line, report: RunReport, first_object: int, progress: Callable[[str], None]) -> tuple[int, float, int]:
    """Readings dealt with, the time (epoch) at which the last was, and how many acknowledged ones never were."""
    wanted, last, moved, missing = report.readings_acknowledged, -1, time.monotonic(), -1
    ended = time.time()
    while True:
        loaded = single_row(line.database.execute(_LOADED, (first_object,)))[0]
        if loaded != last:
            last, moved, ended = loaded, time.monotonic(), time.time()
            progress(f"draining: {max(0, wanted - loaded):,} readings are not rows yet")
        stalled = time.monotonic() - moved > STALLED_SECONDS
        if loaded >= wanted or stalled:
            missing = _missing(line, report, first_object)
            if missing == 0 or stalled:
                (latest,) = single_row(line.database.execute(_NEWEST, (first_object,)))
                return loaded, latest.timestamp() if latest else ended, missing
        time.sleep(0.25)


def _missing(line: Line, report: RunReport, first_object: int) -> int:
    ranges = [(name, *pair) for name, pairs in report.acknowledged.items() for pair in pairs]
    names, firsts, lasts = (list(column) for column in zip(*ranges, strict=True)) if ranges else ([], [], [])
    since: datetime = report.started_at - timedelta(seconds=1)
    return int(single_row(line.database.execute(_MISSING, (names, firsts, lasts, since, first_object)))[0])


class _Watch:
    """Samples, from the moment the readings begin until they end, where readings wait and who works."""

    def __init__(self, line: Line, first_object: int) -> None:
        self._line, self._first_object = line, first_object
        self._progress: Progress | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._began = self._ended = line.parts.processor()
        self.samples: list[Waiting] = []

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def see(self, progress: Progress) -> None:
        """Takes what the simulator tells of itself."""
        self._progress = progress

    def load(self) -> Load:
        """Of the seconds in which readings were taken."""
        return self._ended.since(self._began)

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            progress = self._progress
            if progress is None or progress.phase != "running":
                if not self.samples:
                    self._began = self._line.parts.processor()
                continue
            self.samples.append(self._sample(progress))
            self._ended = self._line.parts.processor()

    def _sample(self, progress: Progress) -> Waiting:
        acknowledged = progress.readings_acknowledged
        bytes_each = max(1.0, progress.bytes / max(1, progress.readings_published))
        loaded = single_row(self._line.database.execute(_LOADED, (self._first_object,)))[0]
        spooled = min(float(acknowledged), _spooled_bytes(self._line.spool) / bytes_each)
        return Waiting(
            elapsed=progress.elapsed_seconds,
            device=float(progress.readings_generated - acknowledged),
            spool=spooled,
            queue=max(0.0, acknowledged - loaded - spooled),
        )


def _spooled_bytes(spool: Path) -> int:
    total = 0
    for file in spool.glob("*/*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # delivered in the meantime
            continue
    return total
