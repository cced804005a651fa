"""Makes one ground truth of those of a run's worker processes."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ops.errors import UserError
from simulator.oracle.reading import Facts, Oracle, is_being_written, read
from simulator.oracle.recorder import Outcome, part_of

_PATIENCE_SECONDS = 60.0


def merge(parts: Sequence[Path], path: Path) -> Outcome:
    """Write the rows of all parts to `path`, with messages numbered through, and remove the parts.

    A part whose worker was killed counts with what it left: then the whole stays `part_of(path)`, and the outcome's fault
    says so, as it does for a full disk (the parts then stay). Raises `UserError` for a part that cannot be read.
    """
    found = [part if part.exists() else _left(part_of(part)) for part in parts]
    if len(found) == 1 and found[0] == parts[0] and parts[0] != path:
        # Nothing to be numbered: the file is what it is to become.
        with read(found[0]) as only:
            facts = only.facts
        if facts.complete:
            size = found[0].stat().st_size
            found[0].replace(path)
            return Outcome(path=path, messages=facts.messages, rows=facts.rows, bytes=size)
    with ExitStack() as stack:
        oracles = [stack.enter_context(read(part)) for part in found]
        facts = _together([oracle.facts for oracle in oracles])
        beside = part_of(path)
        try:
            size = _write(oracles, facts, beside)
        except OSError as error:
            beside.unlink(missing_ok=True)
            line = f"the ground truth {path} could not be put together: {error.strerror}: its parts are {_names(found)}"
            return Outcome(path=path, fault=line)
    for part in found:
        part.unlink()
    fault: str | None
    if facts.complete:
        beside.replace(path)
        fault = None
    else:
        fault = f"the ground truth is incomplete, as a worker was killed: what there is of it is in {beside}"
    return Outcome(path=path, messages=facts.messages, rows=facts.rows, bytes=size, fault=fault)


def _together(all_facts: Sequence[Facts]) -> Facts:
    if not all_facts:
        raise UserError("there are no parts of a ground truth to merge")
    complete = all(facts.complete for facts in all_facts)
    ends = [facts.ended_at for facts in all_facts if facts.ended_at is not None]
    return Facts(
        seed=all_facts[0].seed,
        topic=all_facts[0].topic,
        simulator_version=all_facts[0].simulator_version,
        devices=max(facts.devices for facts in all_facts),
        started_at=min(facts.started_at for facts in all_facts),
        ended_at=max(ends) if complete else None,
        messages=sum(facts.messages for facts in all_facts),
        rows=sum(facts.rows for facts in all_facts),
        complete=complete,
    )


def _write(oracles: Sequence[Oracle], facts: Facts, path: Path) -> int:
    import pyarrow as pa
    from pyarrow import compute

    from simulator.oracle.columns import FORMAT, ROW_GROUP_ROWS, SCHEMA, VERSION, writer

    place = SCHEMA.get_field_index("message")
    first = 0
    with path.open("wb", buffering=0) as sink:
        parquet = writer(sink)
        for oracle in oracles:
            for batch in oracle.batches(rows=ROW_GROUP_ROWS):
                numbered = batch.set_column(place, SCHEMA.field(place), compute.add(batch.column(place), first))
                parquet.write_table(pa.Table.from_batches([numbered], SCHEMA), row_group_size=ROW_GROUP_ROWS)
            first += oracle.facts.messages
        parquet.add_key_value_metadata({FORMAT: VERSION, **_metadata(facts)})
        parquet.close()
        os.fsync(sink.fileno())
        return sink.tell()


def _metadata(facts: Facts) -> dict[str, str]:
    values: dict[str, Any] = {
        "seed": facts.seed,
        "topic": facts.topic,
        "simulator_version": facts.simulator_version,
        "devices": facts.devices,
        "started_at": facts.started_at.isoformat(),
        "messages": facts.messages,
        "complete": facts.complete,
    }
    if facts.ended_at is not None:
        values["ended_at"] = facts.ended_at.isoformat()
    return {name: json.dumps(value) for name, value in values.items()}


def _left(part: Path) -> Path:
    """What a killed worker left, once the process that writes it has come to its end."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while part.exists() and is_being_written(part) and time.monotonic() < deadline:
        time.sleep(0.05)
    return part


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)
