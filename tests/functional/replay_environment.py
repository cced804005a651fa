"""A small environment for `fleet replay` and `fleet rebuild`: a bucket, a secret and a stack of our own, and a database.

The commands are run as a user runs them, in a process of their own.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from local.given_database import parse_dsn
from local.session import emulator_session
from local.state import Emulator, State, StateFile
from ops.paths import ROOT
from tests.stamping import STAMP

FLEET = Path(sys.executable).parent / "fleet"
BUCKET = "replayed"
NOW = datetime.now(UTC).replace(microsecond=0)
MS = int(NOW.timestamp() * 1000) - 86_400_000
HOUR = f"year={NOW:%Y}/month={NOW:%m}/day={NOW:%d}/hour={NOW:%H}/"
TABLE = "device_id, timestamp, seq, temperature, humidity, pressure, battery, extra, quality"


def reading(seq: int, **members: Any) -> dict[str, Any]:
    return {"ts": MS + seq * 1000, "seq": seq, "temperature": 20.0 + seq / 10, "humidity": 50, **members}


def message(device: str, *readings: dict[str, Any], received_at: int = MS + 5) -> bytes:
    line = {"readings": list(readings), "device_id": device, "received_at": received_at, "stamp": STAMP}
    return json.dumps(line).encode()


def packed(*lines: bytes) -> bytes:
    return gzip.compress(b"".join(line + b"\n" for line in lines))


def ctrl_c(process: subprocess.Popen[str]) -> None:
    """What a terminal does: every process of the group is interrupted, the workers too."""
    os.killpg(process.pid, signal.SIGINT)


class Environment:
    """What a test does with it."""

    def __init__(self, emulator: Emulator, folder: Path, dsn: str) -> None:
        self.aws = emulator_session(emulator.port)
        self.s3 = self.aws.client("s3")
        self.dsn = dsn
        self.folder = folder
        StateFile(folder).write(State(emulator=emulator))

    def put(self, name: str, *lines: bytes, hour: str = HOUR) -> None:
        self.put_bytes(name, packed(*lines), hour=hour)

    def put_bytes(self, name: str, body: bytes, *, hour: str = HOUR) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=hour + name, Body=body)

    def command(self, *arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        own = {"FLEET_LOCAL_FOLDER": str(self.folder), "COLUMNS": "220", "NO_COLOR": "1"}
        return [str(FLEET), *arguments], {**os.environ, **own, **environment}

    def fleet(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command, variables = self.command(*arguments, **environment)
        done = subprocess.run(
            command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=120
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command, variables = self.command(*arguments, **environment)
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@contextmanager
def environment(emulator: Emulator, folder: Path, dsn: str) -> Iterator[Environment]:
    """An environment with an empty, versioned bucket and the secret of the database `dsn`."""
    made = Environment(emulator, folder, dsn)
    formation, secrets = made.aws.client("cloudformation"), made.aws.client("secretsmanager")
    bucket = {"BucketName": BUCKET, "VersioningConfiguration": {"Status": "Enabled"}}
    template = {
        "Resources": {"Raw": {"Type": "AWS::S3::Bucket", "Properties": bucket}},
        "Outputs": {"BucketName": {"Value": {"Ref": "Raw"}}},
    }
    formation.create_stack(StackName="iot-ingest", TemplateBody=json.dumps(template))
    formation.get_waiter("stack_create_complete").wait(StackName="iot-ingest", WaiterConfig={"Delay": 0.1})
    text = msgspec.json.encode(parse_dsn(dsn)).decode()
    secrets.create_secret(Name="iot-database/admin", SecretString=text)
    secrets.create_secret(Name="iot-telemetry/stamp", SecretString=json.dumps({"stamp": STAMP, "earlier": []}))
    try:
        yield made
    finally:
        for name in ("iot-database/admin", "iot-telemetry/stamp"):
            secrets.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
        for page in made.s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
            for entry in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                made.s3.delete_object(Bucket=BUCKET, Key=entry["Key"], VersionId=entry["VersionId"])
        formation.delete_stack(StackName="iot-ingest")
        formation.get_waiter("stack_delete_complete").wait(StackName="iot-ingest", WaiterConfig={"Delay": 0.1})


def rows(connection: psycopg.Connection, columns: str = TABLE + ", received_at, object_id") -> list[tuple[Any, ...]]:
    statement = f"SELECT {columns} FROM telemetry ORDER BY device_id, timestamp, seq"
    return connection.execute(statement.encode()).fetchall()


def quarantine(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT object_id, line, element, device_id, reason, raw, resolution, note FROM ingest.quarantine "
        "ORDER BY object_id, line, element"
    ).fetchall()


def ledger(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT key, version_id, object_id, status, reason, readings, rows, duplicates, quarantined, first_timestamp, "
        "last_timestamp FROM ingest.objects ORDER BY key, version_id"
    ).fetchall()


def everything(connection: psycopg.Connection) -> Sequence[list[tuple[Any, ...]]]:
    """All that a load writes and that is not a time of its own."""
    return ledger(connection), rows(connection), quarantine(connection)


def claim_elsewhere(connection: psycopg.Connection, key: str, version_id: str) -> None:
    """Claims an object in a transaction that is left open: whoever loads it waits until that one ends."""
    connection.execute("BEGIN")
    connection.execute(
        "INSERT INTO ingest.objects (bucket, key, version_id) VALUES (%s, %s, %s)", (BUCKET, key, version_id)
    )


def waiting_for_a_lock(connection: psycopg.Connection) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
        "AND application_name LIKE 'fleet %'"
    ).fetchone()
    return row is not None and row[0] > 0
