"""Measures the service levels over a span of time, each by a figure that the database or a dashboard's query gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import psycopg
from psycopg import errors

from dashboards.reading.macros import TimeRange
from infra.settings import Settings
from lambdas.watch.anomalies import detection_seconds
from lambdas.watch.queries import IN_FLIGHT, server
from ops.slo import levels, panels, queries
from ops.slo.levels import Level, Verdict, verdict_of

Progress = Callable[[str], None]
_T = TypeVar("_T")
_UNBUFFERED_SECONDS = 5
_LATE_SECONDS = 10
"""From when on readings count as held up, beside what Firehose may buffer: the runbook's alarm."""
_TOO_MUCH = "the database did not answer in time: give a shorter span with --from and --to"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured."""

    settings: Settings
    span: TimeRange
    now: datetime
    connect: panels.Connect
    """Gives connections that can change nothing, and whose statements time out."""
    offered: str = ""
    """What AWS says of the load, in words."""

    @property
    def over(self) -> str:
        """The span, in words."""
        return f"{queries.clock(self.span.begin)} to {queries.clock(self.span.end)}"


def measure(subject: Subject, progress: Progress = lambda _: None) -> Iterator[Level]:
    """All levels, in the order of docs/runbook.md. Raises `psycopg.OperationalError` for a database that is gone."""
    with subject.connect() as connection:
        progress("latency")
        latency = _in_time(lambda: queries.latency(connection, subject.span))
        yield _ingestion(subject, connection, latency)
        yield from _latency(subject, latency)
        progress("loss")
        yield _loss(subject, connection)
        progress("devices")
        yield _connected(subject, connection)
        holds_readings = _in_time(lambda: queries.holds_readings(connection, subject.span)) is not False
        yield _queries(subject, connection, holds_readings, progress)
        progress("refreshing the overview")
        yield _refresh(subject, holds_readings)
        progress("anomalies")
        yield _detection(subject, connection)
        yield _recovery_point(connection)


def _in_time(ask: Callable[[], _T]) -> _T | None:
    """None where the server gave up."""
    try:
        return ask()
    except errors.QueryCanceled:
        return None


def _ingestion(subject: Subject, connection: psycopg.Connection, latency: queries.Latency | None) -> Level:
    rate = _in_time(lambda: queries.highest_rate(connection, subject.span))
    verdict, note = levels.ingestion(
        rate,
        wait_seconds=latency.from_arrival if latency else None,
        limit_seconds=_LATE_SECONDS + 2 * subject.settings.buffer_interval_seconds,
    )
    return Level(
        name="message ingestion rate",
        target=f"> {levels.INGESTION_PER_SECOND:,.0f} readings/s",
        value=rate,
        unit="readings/s",
        verdict=verdict,
        over=f"the busiest minute of {subject.over}",
        how="readings in objects loaded, by the ledger",
        note="; ".join(filter(None, (note, subject.offered))),
    )


def _latency(subject: Subject, latency: queries.Latency | None) -> Iterator[Level]:
    buffer = subject.settings.buffer_interval_seconds
    for name, seconds, how in (
        ("end-to-end latency p95", latency and latency.from_device, "the device's timestamp to the visible row"),
        ("of it, from AWS IoT Core p95", latency and latency.from_arrival, "received_at to the visible row"),
    ):
        if latency is None:
            note = _TOO_MUCH
        elif seconds is None:
            note = "no reading of that time was loaded: let devices send, or look further back with --from"
        elif seconds >= levels.LATENCY_SECONDS and buffer > _UNBUFFERED_SECONDS:
            note = f"this environment buffers for {buffer} s in Firehose: later by design"
        else:
            note = ""
        sample = f", {latency.readings:,} readings" if latency else ""
        yield Level(
            name=name,
            target=f"< {levels.LATENCY_SECONDS:g} s",
            value=seconds,
            unit="s",
            verdict=verdict_of(seconds, below=levels.LATENCY_SECONDS),
            over=f"{subject.over}{sample}",
            how=how,
            note=note,
        )


def _loss(subject: Subject, connection: psycopg.Connection) -> Level:
    asked = True
    try:
        found = queries.loss(connection, subject.span, subject.now)
    except errors.QueryCanceled:
        found, asked = None, False
    ppm = None if found is None else 1e6 * found.missing / found.expected
    if found is not None:
        note = f"{found.missing:,} of {found.expected:,}" + ("" if found.missing == 0 else ": fleet audit names them")
    elif asked:
        minutes = IN_FLIGHT // timedelta(minutes=1)
        note = (
            f"no reading with a seq, older than {minutes} minutes as later ones may be on their way: ask again then, "
            "begin earlier with --from, or let devices send seq"
        )
    else:
        note = _TOO_MUCH
    return Level(
        name="data loss rate",
        target=f"< {levels.LOSS_PPM / 10_000:g} %",
        value=None if ppm is None else ppm / 10_000,
        unit="%",
        verdict=verdict_of(ppm, below=levels.LOSS_PPM),
        over=found.over if found else subject.over,
        how="numbers left out of the devices' sequences, without those in quarantine",
        note=note,
    )


def _connected(subject: Subject, connection: psycopg.Connection) -> Level:
    offline_after = timedelta(minutes=subject.settings.offline_after_minutes)
    found = _in_time(lambda: queries.connected(connection, subject.span, offline_after))
    percent = None
    if found is None:
        note = _TOO_MUCH
    elif found[1] == 0:
        note = "no device was in service: fleet devices list shows the registry"
    else:
        percent = 100 * found[0] / found[1]
        note = f"{found[0]:,} of {found[1]:,} looks at devices in service"
        if percent < levels.CONNECTED_PERCENT:
            note += "; one that is off on purpose counts: look at a span in which all were to send"
    return Level(
        name="device connectivity",
        target=f">= {levels.CONNECTED_PERCENT:g} %",
        value=percent,
        unit="%",
        verdict=verdict_of(percent, at_least=levels.CONNECTED_PERCENT),
        over=f"{queries.SLICES} moments of {subject.over}",
        how=f"a reading heard in time, within {subject.settings.offline_after_minutes} min or two of the device's intervals",
        note=note,
    )


def _queries(subject: Subject, connection: psycopg.Connection, holds_readings: bool, progress: Progress) -> Level:
    timed = panels.time_queries(connection, subject.span, progress=progress)
    asked = len(timed.seconds)
    left_out = timed.queries - asked
    verdict, note = levels.dashboards(
        timed.p95, below=levels.QUERY_SECONDS, holds_readings=holds_readings, left_out=left_out
    )
    told = f"slowest {max(timed.seconds):.2f} s: {timed.slowest}" if timed.seconds else "no query was asked in time"
    if left_out:
        told += f"; {left_out} left out, as {panels.BUDGET_SECONDS:.0f} s were over"
    return Level(
        name="query performance p95",
        target=f"< {levels.QUERY_SECONDS:g} s",
        value=timed.p95,
        unit="s",
        verdict=verdict,
        over=f"now, {asked} queries",
        how="every query of every dashboard, over the range that it opens with",
        note="; ".join(filter(None, (note, told))),
    )


def _refresh(subject: Subject, holds_readings: bool) -> Level:
    seconds = panels.time_refresh(subject.connect, subject.span)
    verdict, note = levels.dashboards(seconds, below=levels.REFRESH_SECONDS, holds_readings=holds_readings)
    return Level(
        name="dashboard refresh time",
        target=f"< {levels.REFRESH_SECONDS:g} s",
        value=seconds,
        unit="s",
        verdict=verdict,
        over=f"now, the longest of {panels.REFRESHES}",
        how=f"all queries of the overview, {panels.AT_A_TIME} at a time; drawing is not in it",
        note=note,
    )


def _detection(subject: Subject, connection: psycopg.Connection) -> Level:
    seconds = _in_time(lambda: detection_seconds(connection, subject.span.begin, subject.span.end))
    buffer = subject.settings.buffer_interval_seconds
    note = ""
    if seconds is None:
        note = "loaders found no anomaly: look further back with --from, or simulate some (fleet simulate)"
    elif seconds >= levels.DETECTION_SECONDS and buffer > _UNBUFFERED_SECONDS:
        note = f"this environment buffers for {buffer} s in Firehose: later by design"
    return Level(
        name="anomaly detection latency p95",
        target=f"< {levels.DETECTION_SECONDS:g} s",
        value=seconds,
        unit="s",
        verdict=verdict_of(seconds, below=levels.DETECTION_SECONDS),
        over=subject.over,
        how="from AWS IoT Core to the episode, of those that loaders found",
        note=note,
    )


def _recovery_point(connection: psycopg.Connection) -> Level:
    seconds = server(connection).unarchived_wal_seconds
    return Level(
        name="recovery point of the database",
        target=f"< {levels.UNARCHIVED_SECONDS / 60:g} min",
        value=seconds,
        unit="s",
        verdict=verdict_of(seconds, below=levels.UNARCHIVED_SECONDS),
        over="now",
        how="the oldest change that is not archived",
        note="this server archives nothing, or does not say: see docs/database.md, backups" if seconds is None else "",
    )


def missed(found: list[Level]) -> bool:
    """Whether any level is."""
    return any(level.verdict is Verdict.MISSED for level in found)
