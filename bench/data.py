"""The same readings in two forms: gzip NDJSON envelopes as Firehose delivers them, and CSV for psql's \\copy."""

import gzip
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

BATCH = 25
STAMP = "benchmark0benchmark0benchmark0be"
"""As long as a real one."""
_CYCLE = 9973
"""Values repeat after this many readings; a prime, so that no device keeps seeing the same ones."""


@dataclass(frozen=True)
class Readings:
    """`count` readings of `devices` devices, one a second each, as they would arrive: envelope by envelope."""

    count: int
    devices: int
    start: datetime

    def envelopes(self) -> Iterator[tuple[str, int, list[dict[str, float | int]]]]:
        """Device, time of receipt (epoch milliseconds) and readings of each envelope."""
        dice = random.Random(1)  # noqa: S311 - values of a benchmark
        values = [
            (
                round(dice.uniform(15, 35), 2),
                round(dice.uniform(30, 80), 2),
                round(dice.uniform(980, 1030), 2),
                round(dice.uniform(10, 100), 2),
            )
            for _ in range(_CYCLE)
        ]
        start = int(self.start.timestamp() * 1000)
        made, seq = 0, 0
        while made < self.count:
            received_at = start + (seq + BATCH) * 1000
            for device in range(self.devices):
                size = min(BATCH, self.count - made)
                if not size:
                    return
                readings: list[dict[str, float | int]] = []
                for n in range(seq, seq + size):
                    temperature, humidity, pressure, battery = values[(n * 31 + device * 7) % _CYCLE]
                    readings.append(
                        {
                            "ts": start + n * 1000 + device % 1000,
                            "seq": n,
                            "temperature": temperature,
                            "humidity": humidity,
                            "pressure": pressure,
                            "battery": battery,
                        }
                    )
                made += size
                yield f"device-{device + 1:05}", received_at + device, readings
            seq += BATCH


def recent_start(count: int, devices: int) -> datetime:
    """A start so that the last reading lies in the past, at a whole day where several days are covered."""
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=count // devices + 2 * BATCH)


def write_objects(readings: Readings, folder: Path, objects: int) -> list[Path]:
    """The readings as `objects` gzip NDJSON files of about equal size."""
    folder.mkdir(parents=True, exist_ok=True)
    envelopes = -(-readings.count // BATCH)
    share = -(-envelopes // objects)
    paths: list[Path] = []
    source = readings.envelopes()
    for number in range(objects):
        path = folder / f"{number:03}.gz"
        # Firehose's own level is not known; 6 is gzip's default and what costs most to decompress is the same.
        with gzip.open(path, "wb", compresslevel=6) as file:
            for _, (device, received_at, batch) in zip(range(share), source, strict=False):
                line = {"readings": batch, "device_id": device, "received_at": received_at, "stamp": STAMP}
                file.write(orjson.dumps(line) + b"\n")
        paths.append(path)
    return paths


def write_csv(readings: Readings, path: Path) -> None:
    """The readings as CSV in the columns of `telemetry`, times as ISO 8601."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    with path.open("w") as file:
        for device, received_at, batch in readings.envelopes():
            received = (epoch + timedelta(milliseconds=received_at)).isoformat()
            for r in batch:
                at = (epoch + timedelta(milliseconds=r["ts"])).isoformat()
                file.write(
                    f"{device},{at},{r['seq']},{r['temperature']},{r['humidity']},{r['pressure']},{r['battery']},"
                    f",0,{received},1\n"
                )
