"""What the user sees of a run, and the command's own faults."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from ops.errors import UserError
from simulator.accounts.report import Progress, RunReport
from simulator.cli import _write_json, simulate
from simulator.console import print_totals, progress_on

START = datetime(2026, 11, 21, tzinfo=UTC)

REPORT = RunReport(
    devices=2,
    connected=2,
    readings_generated=1500,
    readings_published=1500,
    readings_acknowledged=1500,
    messages_published=60,
    messages_acknowledged=60,
    bytes=150_000,
    started_at=START,
    ended_at=START + timedelta(seconds=10.5),
    run_seconds=10,
    seed=1,
    connect_seconds=0.1,
    not_connected=0,
    first_connect_failure=None,
    first_publish_failure=None,
    ack_p50_ms=1.0,
    ack_p95_ms=2.0,
    ack_max_ms=3.0,
    behind_seconds=0.002,
    acknowledged={"device-00001": ((0, 749),), "device-00002": ((0, 749),)},
    published={"device-00001": ((0, 749),), "device-00002": ((0, 749),)},
)

PROGRESS = Progress(
    devices=2,
    connected=2,
    phase="running",
    elapsed_seconds=0,
    ack_p50_ms=1.2,
    ack_p95_ms=None,
    behind_seconds=0,
)


def printed(show: Callable[[Console], None], *, terminal: bool = False) -> str:
    file = io.StringIO()
    show(Console(file=file, width=100, force_terminal=terminal))
    return file.getvalue()


def test_the_totals_of_a_good_run_hold_no_warning() -> None:
    out = printed(lambda console: print_totals(console, REPORT))
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines()[1:6]}
    assert rows["generated"][0] == rows["published"][0] == rows["acknowledged"][0] == "1,500"
    assert rows["unacknowledged"] == ["0", "0"]
    assert rows["rate"] == ["150/s", "6/s"]
    assert len(out.splitlines()) == 7


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        (
            {"not_connected": 1, "first_connect_failure": "device-00002: [refused]"},
            "1 devices never connected; the first: device-00002: [refused]",
        ),
        (
            {"shut_out": 2, "first_shut_out": "device-00001: CONNACK NOT_AUTHORIZED"},
            "2 devices were not let in again at the end; the first: device-00001: CONNACK NOT_AUTHORIZED",
        ),
        ({"readings_acknowledged": 1400}, "100 readings were published and not acknowledged: they may or may not have"),
        ({"readings_buffered": 7}, "7 readings were still in the devices' buffers: they were never published"),
        ({"readings_dropped": 9}, "9 readings were dropped because a device's buffer was full"),
        (
            {"publish_failures": 3, "first_publish_failure": "PUBACK QUOTA_EXCEEDED"},
            "3 attempts to publish failed; the first: PUBACK QUOTA_EXCEEDED",
        ),
        (
            {"malformed_published": 5, "malformed_acknowledged": 3},
            "2 malformed messages were published and not acknowledged: they may or may not have",
        ),
        ({"management_failures": 4}, "4 packets of shadow and jobs were refused, or broke off with the connection"),
        (
            {"first_revocation_failure": "thief: [no]"},
            "not every certificate that was to be revoked is; the first: thief: [no]",
        ),
        ({"behind_seconds": 4.2}, "this machine took readings up to 4.2 s late"),
    ],
)
def test_each_thing_that_went_wrong_is_one_line(change: dict[str, object], warning: str) -> None:
    out = printed(lambda console: print_totals(console, replace(REPORT, **change)))  # type: ignore[arg-type]
    assert out.splitlines()[-1].startswith(warning)
    assert len(out.splitlines()) == 8 + ("on purpose" in out)


def test_what_was_done_on_purpose_is_told() -> None:
    report = replace(REPORT, duplicates_published=3, malformed_published=2, malformed_acknowledged=2)
    out = printed(lambda console: print_totals(console, report))
    assert "on purpose: 3 duplicates, 2 malformed messages (2 acknowledged), 0 readings lost" in out


def test_what_was_lost_on_purpose_is_told_and_no_fault() -> None:
    lost = replace(REPORT, readings_acknowledged=1400, readings_buffered=70, readings_dropped=20, readings_excused=100)
    out = printed(lambda console: print_totals(console, lost))
    assert "100 readings lost" in out
    assert len(out.splitlines()) == 8

    more = replace(lost, readings_acknowledged=1390)
    assert printed(lambda console: print_totals(console, more)).splitlines()[-1] == (
        "100 of these readings were lost on purpose"
    )


def test_the_ground_truth_is_told_of_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "truth[1].parquet"
    file.write_bytes(bytes(2_500))
    out = printed(lambda console: print_totals(console, REPORT, file))
    assert out.splitlines()[-1] == f"ground truth: 2.5 kB in {file}"
    failed = replace(REPORT, oracle_fault="the disk is full")
    assert "ground truth" not in printed(lambda console: print_totals(console, failed, file))


def test_progress_tells_what_waits_for_a_connection() -> None:
    def show(console: Console) -> None:
        with progress_on(console) as shown:
            shown(replace(PROGRESS, connected=1, readings_buffered=1234))

    assert "connected 1 of 2, " in printed(show)
    assert "buffered 1,234" in printed(show)


def test_a_run_that_never_measured_has_totals_too() -> None:
    empty = replace(REPORT, run_seconds=0, ack_p50_ms=None, ack_p95_ms=None, ack_max_ms=None)
    assert "ack p50 -, p95 -, max -" in printed(lambda console: print_totals(console, empty))


def test_in_a_log_there_is_a_line_every_five_seconds_and_one_at_each_change() -> None:
    def show(console: Console) -> None:
        with progress_on(console) as shown:
            for tenth in range(0, 120):
                shown(replace(PROGRESS, elapsed_seconds=tenth / 10, readings_acknowledged=tenth * 100))
            shown(replace(PROGRESS, elapsed_seconds=12, phase="finishing"))

    lines = printed(show).splitlines()
    assert [line.split(":")[0] for line in lines] == ["0 s running", "5 s running", "10 s running", "12 s finishing"]
    assert "readings/s 1,000, " in lines[1]
    assert "readings/s 1,000, " in lines[2]
    assert "ack p50/p95 1.2 ms / -" in lines[1]


def test_in_a_terminal_the_progress_is_redrawn_and_gone_at_the_end() -> None:
    def show(console: Console) -> None:
        with progress_on(console) as shown:
            shown(replace(PROGRESS, reconnects=3, readings_dropped=5))

    out = printed(show, terminal=True)
    assert "reconnects" in out
    assert "dropped" in out
    assert out.rstrip().endswith("\x1b[2K")


def test_the_report_as_json_is_plain_and_whole() -> None:
    plain = REPORT.as_json()
    assert plain["started_at"] == "2026-11-21T00:00:00+00:00"
    assert plain["acknowledged"] == {"device-00001": ((0, 749),), "device-00002": ((0, 749),)}
    assert (plain["complete"], plain["unacknowledged"], plain["messages_unacknowledged"]) == (True, 0, 0)
    assert not replace(REPORT, readings_acknowledged=1499).complete
    assert not replace(REPORT, not_connected=1).complete


def test_faults_of_the_command_line_come_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^--json .*nowhere/report\.json: cannot be written: No such file or directory"
    ):
        simulate(json_file=tmp_path / "nowhere" / "report.json")
    with pytest.raises(UserError, match="is a folder: name a file"):
        simulate(json_file=tmp_path)
    with pytest.raises(UserError, match="is a folder: name a file"):
        simulate(oracle=tmp_path)
    same = tmp_path / "same"
    (tmp_path / "link").symlink_to(same)
    with pytest.raises(UserError, match=r"^--json and --oracle are both .*/same: name two files"):
        simulate(json_file=same, oracle=tmp_path / "link")
    with pytest.raises(UserError, match=r"^--endpoint is \"tcp://host\": "):
        simulate(endpoint="tcp://host")
    with pytest.raises(UserError, match="no certificate and key for device-00001"):
        simulate(endpoint="localhost", store=tmp_path)


@pytest.mark.parametrize("option", ["json_file", "oracle"])
def test_a_device_is_never_put_a_file_in_the_place_of(tmp_path: Path, option: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files = {option: pipe}
    with pytest.raises(UserError, match=r"pipe: is no regular file: name one"):
        simulate(json_file=files.get("json_file"), oracle=files.get("oracle"), endpoint="localhost", store=tmp_path)
    assert pipe.is_fifo()


def test_an_account_that_cannot_be_written_in_the_end_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--json .*could not be written: No such file or directory: what the run has"):
        _write_json(tmp_path / "gone" / "run.json", REPORT)


def test_too_many_devices_are_told_of_before_the_first_is_looked_up(tmp_path: Path) -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from pathlib import Path\n"
        "from simulator.cli import simulate\n"
        f"simulate(device_count=5000, workers=1, endpoint='localhost', store=Path({str(tmp_path)!r}))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False, capture_output=True
    )
    assert b"5000 devices need 5064 file descriptors and this process may have 256: at most 192" in ended.stderr


def test_the_command_line_starts_without_loading_the_mqtt_client() -> None:
    code = "import sys, simulator.cli; sys.exit('awscrt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
