"""`fleet bench simulator` in small: every client connects, sends, and is accounted for."""

from pathlib import Path

import pytest
from rich.console import Console

from bench import simulator
from local.debian.apt import PackagesUnavailable
from ops.errors import UserError


def test_two_devices_for_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator, "_ATTEMPTS", 1)
    try:
        figures = simulator.run(2, Console(quiet=True), step_seconds=0.5, rounds=1)
    except PackagesUnavailable as error:
        pytest.skip(str(error))
    rows = {row["client"]: row for row in figures["rows"]}
    assert set(rows) == {simulator.OURS, simulator.PEER, simulator.RAW, *simulator._KINDS}
    for row in rows.values():
        assert (row["devices"], row["connected"]) == (2, 2)
        assert row["messages_per_second"] > 0
        assert 0 < row["cpu_us_per_message"] < 10_000
    envelopes = rows["fleetledger, 25 readings each"]
    assert envelopes["readings_per_second"] == pytest.approx(25 * envelopes["messages_per_second"], rel=0.01)
    assert figures["ratio_vs_peer"] == pytest.approx(
        rows[simulator.OURS]["messages_per_second"] / rows[simulator.PEER]["messages_per_second"]
    )
    assert 0 < figures["ratio_vs_broker_limit"] <= 1


def test_without_its_peer_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(simulator, "ROOT", tmp_path)
    with pytest.raises(UserError, match="run `make setup`"):
        simulator.run(2, Console(quiet=True))
