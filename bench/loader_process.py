"""Loads files with the loader, in a process of its own so that its memory is its own; prints figures as JSON.

`python -m bench.loader_process [--without-detection] DSN FILE...`, with the password in PGPASSWORD.
"""

import json
import sys
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

import psycopg

from bench.data import STAMP
from lambdas.processor.detection.detector import Detector
from lambdas.processor.limits import Limits
from lambdas.processor.load import load_object
from lambdas.processor.raw_object import ObjectVersion
from lambdas.shared.stamp import Stamps


def main() -> None:
    """Loads every file as one object."""
    arguments = sys.argv[1:]
    detector = Detector() if arguments[0] != "--without-detection" else None
    dsn, *files = arguments if detector is not None else arguments[1:]
    limits = Limits.around(datetime.now(UTC), retention_days=3650, max_future_seconds=3600, stamps=Stamps(STAMP))
    rows = duplicates = checked = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET ROLE iot_loader")
        started, cpu = time.perf_counter(), time.process_time()
        for file in files:
            version = ObjectVersion("bench", file, "", Path(file).stat().st_size)
            outcome = load_object(connection, version, partial(_open, file), limits, detector)
            if outcome.status != "loaded" or outcome.quarantined or outcome.detection_faults:
                sys.exit(f"{file}: {outcome}")
            rows += outcome.rows
            duplicates += outcome.duplicates
            checked += outcome.checked
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": cpu,
                "rows": rows,
                "duplicates": duplicates,
                "checked": checked,
                "peak_rss_mb": _peak_rss_mb(),
            }
        )
    )


def _open(file: str) -> BinaryIO:
    return Path(file).open("rb")


def _peak_rss_mb() -> float:
    """The most memory this program had. Not getrusage's: that one remembers the parent this process was forked from."""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
