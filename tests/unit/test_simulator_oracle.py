"""The ground truth: what was handed to the recorder is in the file, whatever ends the run, the writer or the disk."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ops.errors import UserError
from simulator.devices.envelope import Message, MessageKind
from simulator.oracle import Recorder, Run, frames, merge, open_oracle, part_of, read, recorder
from simulator.oracle.columns import FORMAT, SCHEMA, VERSION
from simulator.oracle.frames import HEADER, NEVER, block_frame, text_frame
from simulator.oracle.payloads import VALUES, any_columns, plain_columns
from simulator.oracle.reading import is_being_written
from simulator.oracle.writer import write
from simulator.run.fleet import Fleet
from simulator.scenario.config import SimulatorConfig

THINGS = ["pump-1", "pump-2", "Größe-3"]
RUN = Run(seed=7, topic="$aws/rules/r/t")
HELLO = text_frame(
    json.dumps(
        {"seed": 7, "topic": "t", "simulator_version": "1", "devices": 3, "started_at": "2026-11-21T10:00:00+00:00"}
        | {"thing_names": THINGS}
    ).encode()
)
TELEMETRY, DUPLICATE, MALFORMED = 0, 1, 2


@dataclass(frozen=True)
class Sent:
    """A message, as the scheduler has it when it is settled."""

    device: int
    payload: bytes
    readings: int = 1
    kind: int = TELEMETRY
    attempts: int = 1
    first_sent_at: float = 1_790_000_000.25


def block_of(*payloads: bytes) -> bytes:
    return block_frame([HEADER.pack(len(each), 0, 1, TELEMETRY, 1.0, 2.0) for each in payloads], payloads)


def envelope(readings: Sequence[dict[str, Any]]) -> bytes:
    return b'{"readings":' + orjson.dumps(readings) + b"}"


def rows_in(path: Path) -> list[dict[str, Any]]:
    with read(path) as oracle:
        rows = [row for batch in oracle.batches() for row in batch.to_pylist()]
        assert len(rows) == oracle.facts.rows
        return rows


def settle(target: Recorder, count: int, first: int = 0) -> None:
    for seq in range(first, first + count):
        target.settled(Sent(seq % 3, orjson.dumps({"ts": seq, "seq": seq, "temperature": 20.5})), 1_790_000_001.0)


# What is written.

finite = st.floats(allow_nan=False, allow_infinity=False)
members = st.fixed_dictionaries(
    {},
    optional={
        "ts": st.integers(-(2**63), 2**63 - 1),
        "seq": st.integers(0, 2**63 - 1),
        **{name: st.none() | finite | st.integers(-(2**53), 2**53) for name in VALUES},
    },
)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
anything = st.recursive(st.booleans() | st.integers(-(2**53), 2**53) | finite | text, lambda v: st.lists(v, max_size=2))
others = st.dictionaries(text.filter(lambda name: name not in {"ts", "seq", *VALUES, "readings"}), anything, max_size=2)
misfits = st.dictionaries(st.sampled_from(["ts", "seq", *VALUES]), text | st.booleans(), max_size=2)
readings = members | st.builds(lambda a, b, c: a | b | c, members, others, misfits)
messages = st.builds(
    lambda device, kind, sent, batch, many, raw, acknowledged: (
        device, kind, batch, raw if kind == MALFORMED else envelope(batch) if many else orjson.dumps(batch[0]), sent,
        acknowledged, many,
    ),
    st.integers(0, 2), st.sampled_from([TELEMETRY, DUPLICATE, MALFORMED]), st.integers(0, 5),
    st.lists(readings, min_size=1, max_size=4), st.booleans(), st.binary(max_size=40), st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(messages, max_size=6), st.integers(1, 6))
def test_every_reading_comes_back_as_it_was_sent(sent: list[Any], in_a_block: int) -> None:
    pipe, open_block = HELLO, list[tuple[bytes, bytes]]()
    expected: list[dict[str, Any]] = []
    for number, (device, kind, batch, payload, attempts, acknowledged, many) in enumerate(sent):
        at, acknowledged_at = (1_790_000_000.5 if attempts else 0.0), 1_790_000_001.125 if acknowledged else NEVER
        open_block.append((HEADER.pack(len(payload), device, attempts, kind, at, acknowledged_at), payload))
        if len(open_block) == in_a_block or number == len(sent) - 1:
            pipe += block_frame(*zip(*open_block, strict=True))
            open_block.clear()
        common = {
            "device": THINGS[device],
            "kind": kind,
            "message": number,
            "attempts": attempts,
            "sent_at": 1_790_000_000_500_000 if attempts else None,
            "acknowledged_at": 1_790_000_001_125_000 if acknowledged else None,
        }
        for reading in batch if many else batch[:1]:
            if kind == MALFORMED:
                expected.append(dict.fromkeys(SCHEMA.names) | common | {"raw": payload})
                break
            fits = {
                name: value
                for name, value in reading.items()
                if name in {"ts", "seq", *VALUES} and type(value) in {int, float}
            }
            extra = {name: value for name, value in reading.items() if name not in fits and value is not None}
            expected.append(
                dict.fromkeys(SCHEMA.names)
                | common
                | fits
                | {"extra": extra or None, "raw": None}  # compared as values
            )
    sink = BytesIO()
    outcome = write(BytesIO(pipe + text_frame(b'{"ended_at": "2026-11-21T10:05:00+00:00"}')), sink)
    found = parquet.read_table(BytesIO(sink.getvalue())).to_pylist()
    for row in found:
        row["extra"] = row["extra"] and orjson.loads(row["extra"])
    assert found == expected
    assert outcome == {"complete": True, "messages": len(sent), "rows": len(expected)}


def test_a_pipe_that_breaks_off_anywhere_leaves_a_readable_file() -> None:
    frame = block_of(b'{"seq": 5}')
    two = block_of(b'{"seq": 6}', b'{"seq": 7}')
    counts = []
    for end in range(len(two)):
        sink = BytesIO()
        outcome = write(BytesIO(HELLO + frame + two[:end]), sink)
        seqs = parquet.read_table(BytesIO(sink.getvalue()))["seq"].to_pylist()
        assert outcome == {"complete": False, "messages": len(seqs), "rows": len(seqs)}
        assert seqs == [5, 6, 7][: len(seqs)]
        counts.append(len(seqs))
    assert counts == sorted(counts)
    assert counts.count(2) == len(b'{"seq": 7}\n')
    assert counts[-1] == 3, "only the line feed is missing"


def test_what_cannot_be_decoded_is_kept_as_it_is() -> None:
    payloads = [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"readings":[]}',
        b'{"readings":[1]}',
        b'{"seq":1e999}',
        b"[" * 50_000,
    ]
    for blocks in ([block_of(*payloads)], [block_of(each) for each in payloads]):
        sink = BytesIO()
        write(BytesIO(HELLO + b"".join(blocks)), sink)
        assert parquet.read_table(BytesIO(sink.getvalue()))["raw"].to_pylist() == payloads


def test_what_is_broken_on_purpose_is_no_reading_even_if_it_looks_like_one() -> None:
    payload = b'{"seq": 5}'
    headers = [HEADER.pack(len(payload), 0, 1, kind, 1.0, 2.0) for kind in (TELEMETRY, MALFORMED)]
    sink = BytesIO()
    write(BytesIO(HELLO + block_frame(headers, [payload, payload])), sink)
    table = parquet.read_table(BytesIO(sink.getvalue()))
    assert (table["seq"].to_pylist(), table["raw"].to_pylist()) == ([5, None], [None, payload])


plain = st.fixed_dictionaries(
    {"ts": st.integers(-(2**63), 2**63 - 1), "seq": st.integers(0, 2**63 - 1)},
    optional={name: st.none() | finite | st.integers(-(2**53), 2**53) for name in VALUES},
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(plain, min_size=1, max_size=3), min_size=1, max_size=5), st.booleans())
def test_plain_readings_are_read_all_at_once_as_they_are_one_by_one(batches: list[Any], many: bool) -> None:
    payloads = [envelope(batch) if many else orjson.dumps(batch[0]) for batch in batches]
    [block] = frames.read_frames(BytesIO(block_of(*payloads)))
    assert isinstance(block, frames.Block)
    at_once = plain_columns(block)
    assert at_once is not None
    one_by_one = any_columns(block)
    assert {name: array.to_pylist() for name, array in at_once.items()} == {
        name: array.to_pylist() for name, array in one_by_one.items()
    }


@pytest.mark.parametrize(
    "payloads",
    [
        [b'{"seq":1},{"seq":2}'],
        [b'{"seq":1', b'"ts":2}', b'{"seq":1}\n{"seq":2}'],
        [b'{"seq":1}', b"", b'{"seq":2}'],
        [b'{"seq":1}', b'{"readings":[{"seq":2}]}'],
        [b'{"readings":[{"seq":2}]}', b'{"readings":[]}'],
        [b'{"readings":[{"seq":2}]}', b'{"readings":null}'],
        [b'{"readings":[{"seq":2},null]}'],
        [b'{"seq":1,"vibration":2}'],
        [b'{"seq":"1"}'],
        [b'{"seq":1.5}'],
        [b'{"seq":true}'],
    ],
)
def test_payloads_that_are_not_plain_are_read_one_by_one(payloads: list[bytes]) -> None:
    [block] = frames.read_frames(BytesIO(block_of(*payloads)))
    assert isinstance(block, frames.Block)
    assert plain_columns(block) is None
    assert block.payloads() == payloads
    assert len(set(any_columns(block)["message"].to_pylist())) == len(payloads)


# The whole way, and what goes wrong on it.


def test_a_run_is_recorded_whole_in_few_bytes_and_its_parts_are_merged(tmp_path: Path) -> None:
    first, second, whole = tmp_path / "run.0", tmp_path / "run.1", tmp_path / "run"
    for path, devices, offset in ((first, [0, 1], 0), (second, [2], 1000)):
        with open_oracle(path, thing_names=THINGS, run=RUN) as opened:
            for number in range(200):
                batch = [
                    {"ts": 1_790_000_000_000 + number * 1000 + n, "seq": offset + number * 25 + n, "temperature": n / 4}
                    for n in range(25)
                ]
                opened.settled(
                    Sent(devices[number % len(devices)], envelope(batch), readings=25), 1_790_000_000 + number
                )
            assert not path.exists(), "a half file has the name of a whole one"
            deadline = time.monotonic() + 10
            while not is_being_written(part_of(path)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with pytest.raises(UserError, match="is still being written: wait until the run has ended"):
                rows_in(part_of(path))
        assert opened.outcome is not None
        assert (opened.outcome.fault, opened.outcome.rows, opened.outcome.messages) == (None, 5000, 200)
        assert opened.outcome.bytes == path.stat().st_size < 5000 * 20
    outcome = merge([first, second], whole)
    assert (outcome.fault, outcome.rows, outcome.messages) == (None, 10_000, 400)
    rows = rows_in(whole)
    assert {row["device"] for row in rows} == set(THINGS)
    assert [row["message"] for row in rows[::25]] == list(range(400))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    with read(whole) as oracle:
        facts = oracle.facts
        assert (facts.seed, facts.topic, facts.devices, facts.complete) == (7, RUN.topic, 3, True)
        assert facts.ended_at is not None
        assert facts.ended_at > facts.started_at


_KILLED = """
import sys, time
from pathlib import Path
from simulator.oracle import Run, open_oracle
from tests.unit.test_simulator_oracle import THINGS, settle
with open_oracle(Path(sys.argv[1]), thing_names=THINGS, run=Run(seed=7, topic="t")) as recorder:
    settle(recorder, 3000)
    recorder.step(1.0)
    while recorder._moved_bytes < recorder._taken_bytes:
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_a_readable_part_that_merge_takes(tmp_path: Path) -> None:
    path = tmp_path / "truth.parquet"
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    # At once: it waits for the writing process to end its file.
    outcome = merge([path], tmp_path / "whole")
    assert outcome.fault == (
        f"the ground truth is incomplete, as a worker was killed: what there is of it is in {tmp_path / 'whole.part'}"
    )
    rows = rows_in(tmp_path / "whole.part")
    assert [row["seq"] for row in rows] == list(range(3000))
    (tmp_path / "whole.part").rename(part_of(path))
    with read(part_of(path)) as oracle:
        assert (oracle.facts.complete, oracle.facts.ended_at) == (False, None)
    with pytest.raises(UserError, match=r"its run was killed; what it left is .*truth\.parquet\.part$"):
        rows_in(path)


@contextmanager
def file_size_limited(limit_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_at_the_end_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "truth.parquet"
    path.write_bytes(b"of an earlier run")
    noise = os.urandom(8000).hex()
    with file_size_limited(4_000):
        opened = open_oracle(path, thing_names=THINGS, run=RUN)
        target = opened.__enter__()
    for n in range(20):
        target.settled(Sent(0, orjson.dumps({"seq": n, "note": noise[n * 100 :]})), None)
    opened.__exit__(None, None, None)
    assert target.outcome is not None
    assert target.outcome.fault == (
        f"the ground truth {path} could not be written: File too large: make room, or choose another place"
    )
    assert path.read_bytes() == b"of an earlier run"
    assert not part_of(path).exists()


def test_a_writer_that_dies_never_ends_the_run(tmp_path: Path) -> None:
    with open_oracle(tmp_path / "truth", thing_names=THINGS, run=RUN) as target:
        settle(target, 10)
        target._process.kill()
        target._process.wait()
        settle(target, 20_000)
    assert target.outcome is not None
    assert "its writing process was ended by SIGKILL" in (target.outcome.fault or "")
    assert "\n" not in (target.outcome.fault or "")


def test_a_writer_that_is_behind_holds_the_scheduler_up_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WAITING_BYTES", 100_000)
    monkeypatch.setattr(recorder, "BLOCK_BYTES", 1_000)
    with open_oracle(tmp_path / "truth", thing_names=THINGS, run=RUN) as target:
        os.kill(target._process.pid, signal.SIGSTOP)
        scheduler = threading.Thread(target=settle, args=(target, 20_000))
        scheduler.start()
        scheduler.join(0.5)
        waits, waiting_bytes = scheduler.is_alive(), target._taken_bytes - target._moved_bytes
        os.kill(target._process.pid, signal.SIGCONT)
        scheduler.join()
    assert waits, "20,000 records went into 100,000 bytes"
    assert waiting_bytes < 110_000
    assert target.outcome is not None
    assert target.outcome.stalled_seconds > 0.3
    assert [row["seq"] for row in rows_in(tmp_path / "truth")] == list(range(20_000))


def test_what_is_no_ground_truth_is_refused_in_one_line(tmp_path: Path) -> None:
    plain, text_file, later = tmp_path / "plain", tmp_path / "text", tmp_path / "later"
    parquet.write_table(pa.table({"a": [1]}), plain)
    text_file.write_text("device,ts\n")
    metadata = {FORMAT: str(int(VERSION) + 1)}
    parquet.write_table(SCHEMA.empty_table().replace_schema_metadata(metadata), later)
    for path, words in (
        (plain, "is no ground truth"),
        (text_file, "is no ground truth"),
        (later, "use the release that wrote it"),
        (tmp_path / "absent", "no such file"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            rows_in(path)
        assert "\n" not in str(refused.value)
    with (
        pytest.raises(UserError, match="No such file or directory: choose another file"),
        open_oracle(tmp_path / "no" / "such", thing_names=THINGS, run=RUN),
    ):
        pass


# Each message once, whatever becomes of it.


class _Flaky:
    """A link that fails one publish in five, breaks off now and then, and leaves some unanswered at the end."""

    def __init__(self, dice: random.Random, fleet: Fleet, index: int) -> None:
        self._dice, self._fleet, self._index = dice, fleet, index

    def start(self) -> None:
        self._fleet.on_connected(self._index)

    def publish(self, message: Message) -> None:
        fate = self._dice.random()
        if fate < 0.75:
            self._fleet.on_completed(message, None)
        elif fate < 0.95:
            self._fleet.on_completed(message, "AWS_ERROR_MQTT_TIMEOUT")
        if 0.90 < fate < 0.92:
            self._fleet.on_disconnected(self._index)

    def send(self, topic: str, payload: bytes) -> None:
        self._fleet.on_sent(self._index, None)

    def subscribe(self, topic: str) -> None:
        self._fleet.on_sent(self._index, None)

    def stop(self, *, abrupt: bool = False) -> None:
        self._fleet.on_stopped(self._index)


class _Notes:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.settled_messages: list[tuple[Message, float | None]] = []
        self.stepped_at: list[float] = []

    def settled(self, message: Message, acknowledged_at: float | None) -> None:
        self.settled_messages.append((message, acknowledged_at))

    def step(self, now: float) -> None:
        self.stepped_at.append(now)


def test_each_message_of_a_run_is_settled_exactly_once() -> None:
    now, notes, dice = [0.0], _Notes(), random.Random(5)  # noqa: S311
    config = SimulatorConfig(
        device_count=6, interval_seconds=0.1, duration_seconds=20, batch=3, buffer_readings=30, unthrottled=True
    )
    fleet = Fleet(
        config,
        config.thing_names(),
        link=lambda fleet, index: _Flaky(dice, fleet, index),
        clock=lambda: now[0],
        wall_clock=lambda: 1_790_000_000 + now[0],
        stop=threading.Event(),
        seq_start={},
        recorder=notes,
    )
    while (pause := fleet.step()) is not None:
        now[0] += max(pause, 0.001)
        assert now[0] < 200
    report = fleet.report()
    assert max(after - before for before, after in pairwise([0.0, *notes.stepped_at])) < 0.2
    assert notes.stepped_at[-1] > 19
    settled = notes.settled_messages
    assert len({id(message) for message, _ in settled}) == len(settled)
    seqs = [(m.device, seq) for m, _ in settled for seq in range(m.first_seq, m.last_seq + 1)]
    assert len(seqs) == len(set(seqs)) == report.readings_generated > 1000
    acknowledged = sum(m.readings for m, at in settled if at is not None)
    assert acknowledged == report.readings_acknowledged > 0
    unsent = sum(m.readings for m, at in settled if not m.attempts)
    assert unsent == report.readings_dropped + report.readings_buffered > 0
    assert all(m.attempts and at >= m.first_sent_at > 1_790_000_000 for m, at in settled if at is not None)


def test_the_kind_of_broken_payloads_is_the_message_s_own() -> None:
    assert frames.MALFORMED == MessageKind.MALFORMED == MALFORMED
