"""A change that reaches prod is seen: in the diff of a snapshot, which whoever makes the change writes on purpose."""

import difflib

from tests.infra import snapshots


def test_prod_is_what_somebody_has_looked_at() -> None:
    recorded, current = snapshots.recorded(), snapshots.current()
    assert recorded.keys() == current.keys(), "stacks of prod came or went: run make snapshots and look at the diff"
    for layer, text in current.items():
        changes = list(difflib.unified_diff(recorded[layer].splitlines(), text.splitlines(), layer, layer, "", "", n=2))
        assert not changes, "prod changes: run make snapshots and look at the diff\n" + "\n".join(changes[:60])


def test_snapshots_hold_nothing_that_changes_with_every_build() -> None:
    assert recorded_hashes() == []


def recorded_hashes() -> list[str]:
    return [
        f"{layer}: {line.strip()}"
        for layer, text in snapshots.recorded().items()
        for line in text.splitlines()
        if snapshots._UPLOADS.search(line)
    ]
