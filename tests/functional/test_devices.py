"""`fleet devices` against a real database and the emulator's registry of things."""

import json
import os
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError
from rich.console import Console

from certs.registry import ThingRegistry
from local.session import AwsSession, emulator_session
from local.state import Emulator
from ops.devices import cli, files, firmware, registry, shadows, things
from ops.devices.fields import DEVICES as DEVICE
from tests.functional.commands import Commands, commands_use
from tests.functional.replay_environment import environment

_numbers = count(1)


class Fleet(Commands):
    """Runs the commands in this process, on the test's database and the emulator."""

    def __init__(self, folder: Path, iot: Any) -> None:
        super().__init__(cli.app)
        self.folder = folder
        self.iot = iot

    def file(self, text: str, name: str = "devices.csv") -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def thing(self, **attributes: str) -> str:
        name = f"registry-{os.getpid()}-{next(_numbers)}"
        self.iot.create_thing(thingName=name, attributePayload={"attributes": attributes})
        return name

    def attributes(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.iot.describe_thing(thingName=name)["attributes"]
        return found


@pytest.fixture
def fleet(database_dsn: str, aws: AwsSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    commands_use(monkeypatch, database_dsn)
    monkeypatch.setattr(cli, "_console", Console(width=80))
    monkeypatch.setattr(cli, "_errors", Console(stderr=True, width=80))
    for module in (things, shadows, firmware):
        monkeypatch.setattr(module, "session_for", lambda _environment: aws)
    return Fleet(tmp_path, aws.client("iot"))


def now() -> datetime:
    return datetime.now(UTC)


def rows(connection: psycopg.Connection, columns: str = "device_id, name, site_id, firmware, active") -> list[Any]:
    return connection.execute(f'SELECT {columns} FROM devices ORDER BY device_id COLLATE "C"'.encode()).fetchall()


def heard(connection: psycopg.Connection, device: str, at: datetime, **values: Any) -> None:
    """A reading, in both tables."""
    row = {"device_id": device, "timestamp": at, "seq": 1, "received_at": at, "object_id": 1, "quality": 0} | values
    columns = ", ".join(row)
    places = ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO telemetry ({columns}) VALUES ({places})".encode(), row)
    connection.execute("SELECT ingest.refresh_latest(ARRAY[%s])", [device])


SITES = "site_id,name,location\nnorth,North plant,Oslo\nsouth,South plant,Rome\n"
DEVICES = "device_id,name,site_id,firmware\nd-2,Pump,south,1.0\nd-1,Boiler,north,1.0\n"


def test_import_counts_and_repeats_and_leaves_the_other_columns(fleet: Fleet, connection: psycopg.Connection) -> None:
    sites, devices = fleet.file(SITES, "sites.csv"), fleet.file(DEVICES)
    assert fleet.ok("import", devices, "--sites", sites, "--dry-run", "--no-iot").splitlines() == [
        "sites: 2 new, 0 changed, 0 the same (dry run: nothing was changed)",
        "devices: 2 new, 0 changed, 0 the same (dry run: nothing was changed)",
    ]
    assert rows(connection) == []
    assert "devices: 2 new, 0 changed, 0 the same" in fleet.ok("import", devices, "--sites", sites, "--no-iot")
    assert "devices: 0 new, 0 changed, 2 the same" in fleet.ok("import", devices, "--sites", sites, "--no-iot")
    more = fleet.file(
        '[{"device_id": "d-1", "active": false}, {"device_id": "d-3"}, {"device_id": "d-2"}]', "more.json"
    )
    assert "devices: 1 new, 1 changed, 1 the same" in fleet.ok("import", more, "--no-iot")
    assert rows(connection) == [
        ("d-1", "Boiler", "north", "1.0", False),
        ("d-2", "Pump", "south", "1.0", True),
        ("d-3", "d-3", None, None, True),
    ]
    assert "North plant" in fleet.ok("sites")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEVICES + "d-3,x,west,1\n", "line 4, column site_id: there is no site west"),
        ("device_id,latitude,longitude\nd-1,1,1\nd-2,95,1\n", 'line 3, column latitude is "95"'),
        ("device_id,latitude,longitude\nd-1,1,1\nd-2,5,\n", "line 3, column longitude: it is empty"),
        ("device_id,colour\nd-1,red\n", "line 1, column 2 (colour): there is no such column"),
        ("device_id\nd-1\nd-1\n", "line 3, column device_id: d-1 is on line 2 already"),
        ("", "is empty"),
    ],
)
def test_nothing_is_half_imported(text: str, said: str, fleet: Fleet, connection: psycopg.Connection) -> None:
    sites, devices = fleet.file(SITES, "sites.csv"), fleet.file(text)
    line = fleet.refused("import", devices, "--sites", sites)
    assert said in line
    assert devices in line
    assert rows(connection) == []
    assert connection.execute("SELECT count(*) FROM sites").fetchone() == (0,)


def test_many_faults_are_each_named(fleet: Fleet, connection: psycopg.Connection) -> None:
    bad = "".join(f"d-{n},{n}\n" for n in range(91, 120))
    done = fleet.run("import", fleet.file("device_id,latitude\nd-1,1\n" + bad))
    assert str(done.exception) == "29 faults (the first 20 are above): nothing was imported"
    assert done.stderr.count("column latitude is") == 20
    assert rows(connection) == []


def test_what_a_device_sent_first_can_be_imported_over(fleet: Fleet, connection: psycopg.Connection) -> None:
    heard(connection, "d-1", now())
    assert "1 new, 1 changed" in fleet.ok(
        "import", fleet.file(DEVICES), "--sites", fleet.file(SITES, "s.csv"), "--no-iot"
    )


def test_an_import_keeps_no_loader_waiting(connection: psycopg.Connection, database_dsn: str, tmp_path: Path) -> None:
    """Else the two could wait for each other: for a device that is registered, and one that is not yet."""
    path = tmp_path / "devices.csv"
    path.write_text("device_id,name\nd-1,Boiler\n")
    entries = files.read_file(path, DEVICE).entries
    registry.import_entries(connection, DEVICE, entries)
    with connection.transaction():
        registry.import_entries(connection, DEVICE, entries)
        with psycopg.connect(database_dsn, autocommit=True) as loader:
            loader.execute("SET lock_timeout = '1s'")
            heard(loader, "d-1", now())


def test_list_fits_a_terminal_and_filters(fleet: Fleet, connection: psycopg.Connection) -> None:
    fleet.ok("import", fleet.file(DEVICES), "--sites", fleet.file(SITES, "sites.csv"), "--no-iot")
    heard(connection, "d-1", now())
    heard(connection, "d-2", now() - timedelta(hours=5, minutes=7))
    heard(connection, "device-with-a-long-name-00004", now() - timedelta(days=3))
    connection.execute("UPDATE devices SET name = repeat('n', 300) || E'\\x1b[31m' WHERE device_id LIKE 'device%'")
    fleet.ok("update", "d-2", "--inactive")
    connection.execute("INSERT INTO devices (device_id, name) VALUES ('d-9', 'd-9')")
    output = fleet.ok("list")
    assert max(map(len, output.splitlines())) <= 80
    assert "\x1b" not in output
    shown = {line.split()[0]: line for line in output.splitlines()[:-1] if line[0] != " "}
    del shown["device"]
    assert list(shown) == ["d-1", "d-2", "d-9", "device-with-a-long-name-00004"]
    assert "online" in shown["d-1"]
    assert "inactive" in shown["d-2"]
    assert shown["d-2"].rstrip().endswith("5 h 7 min")
    assert "never" in shown["d-9"]
    assert "offline" in shown["device-with-a-long-name-00004"]
    assert "1 of 4 shown" in fleet.ok("list", "--limit", "1")

    def listed(*options: str) -> list[str]:
        return [row["device_id"] for row in json.loads(fleet.ok("list", "--json", *options))]

    assert listed("--offline") == ["d-9", "device-with-a-long-name-00004"]
    assert listed("--inactive") == ["d-2"]
    assert listed("--active", "--site", "north") == ["d-1"]
    assert fleet.ok("list", "--site", "south", "--active") == "no devices\n"
    assert "no such site" in fleet.refused("list", "--site", "west")
    assert "--inactive" in fleet.refused("list", "--offline", "--inactive")


def test_the_csv_that_list_prints_is_imported_as_the_same(fleet: Fleet, connection: psycopg.Connection) -> None:
    fleet.ok("import", fleet.file(DEVICES), "--sites", fleet.file(SITES, "sites.csv"), "--no-iot")
    connection.execute(
        'UPDATE devices SET attributes = \'{"a,b": [1, "ü"]}\', latitude = 0.1, longitude = -0.2, active = false '
        "WHERE device_id = 'd-1'"
    )
    printed = fleet.ok("list", "--csv")
    assert "devices: 0 new, 0 changed, 2 the same" in fleet.ok("import", fleet.file(printed, "back.csv"), "--no-iot")


def test_the_interval_is_imported_updated_and_shown(fleet: Fleet, connection: psycopg.Connection) -> None:
    file = fleet.file("device_id,reading_interval_seconds\nd-1,0.1\nd-2,\n")
    assert "2 new" in fleet.ok("import", file, "--no-iot")
    assert "2 the same" in fleet.ok("import", file, "--no-iot")
    assert "2 the same" in fleet.ok("import", fleet.file(fleet.ok("list", "--csv"), "back.csv"), "--no-iot")
    for bad in ("-5", "0", "inf", "soon"):
        bad_file = fleet.file(f"device_id,reading_interval_seconds\nd-1,{bad}\n")
        assert "line 2, column reading_interval_seconds is" in fleet.refused("import", bad_file, "--no-iot")
    fleet.ok("update", "d-2", "--interval", "12345.678", "--no-iot")
    assert "the same as before" in fleet.ok("update", "d-2", "--interval", "12345.678", "--no-iot")
    assert rows(connection, "reading_interval_seconds") == [(pytest.approx(0.1),), (pytest.approx(12345.7),)]
    assert "0.1 s" in fleet.ok("show", "d-1", "--no-iot")
    fleet.ok("update", "d-1", "--interval", "", "--no-iot")
    assert "nothing was changed" in fleet.refused("update", "d-1", "--latitude", "52.5", "--no-iot")
    assert rows(connection, "reading_interval_seconds")[0] == (None,)


def test_out_of_service_and_back_is_one_command(fleet: Fleet, connection: psycopg.Connection) -> None:
    def state() -> Any:
        return connection.execute(
            "SELECT d.active, s.retired_at IS NOT NULL FROM devices d JOIN ingest.devices_seen s USING (device_id)"
        ).fetchone()

    heard(connection, "d-1", now())
    fleet.ok("update", "d-1", "--inactive", "--no-iot")
    assert state() == (False, True)
    fleet.ok("import", fleet.file("device_id,active\nd-1,true\n"), "--no-iot")
    assert state() == (True, False)


def test_show(fleet: Fleet, connection: psycopg.Connection) -> None:
    name = fleet.thing(firmware="0.9")
    at = now() - timedelta(seconds=90)
    heard(connection, name, at, seq=1, temperature=-2.5, humidity=50, quality=1 << 4)
    fleet.ok("update", name, "--firmware", "1.0", "--type", "freezer", "--no-iot")
    connection.execute(
        "INSERT INTO metrics (name, device_type, unit, low, high, description) "
        "VALUES ('temperature', 'freezer', 'degC', -60, -18, 'inside')"
    )
    output = fleet.ok("show", name)
    lines = {line.partition(":")[0]: line for line in output.splitlines()}
    assert "online" in lines["state"]
    assert "1 min " in lines["heard"]
    day = "1 readings: 1 out of range" if at.date() == now().date() else "readings"
    assert day in lines["today (UTC)"]
    assert "firmware is 0.9 there" in lines["AWS IoT thing"]
    temperature = next(line for line in output.splitlines() if line.startswith("temperature"))
    assert temperature.split()[1:3] == ["-2.5", "degC"]
    assert "-60 to -18, it is not" in temperature
    assert next(line for line in output.splitlines() if line.startswith("pressure")).split()[1:3] == ["-", "hPa"]
    only = fleet.ok("show", name, "--metric", "humidity", "--no-iot")
    assert "temperature" not in only
    assert "not asked" in only
    shown = json.loads(fleet.ok("show", name, "--json"))
    assert shown["latest"]["temperature"] == -2.5
    assert shown["metrics"][0].keys() == {"metric", "unit", "low", "high"}


def test_what_is_not_there(fleet: Fleet, connection: psycopg.Connection) -> None:
    heard(connection, "d-1", now())
    assert "there is no device d-7 in local" in fleet.refused("show", "d-7")
    assert "there is no device d-7 in local" in fleet.refused("update", "d-7", "--name", "x")
    assert "there is no such metric: use temperature, humidity" in fleet.refused("show", "d-1", "--metric", "wind")
    assert fleet.refused("update", "d-1", "--site", "west").startswith(
        "--site west: there is no such site; fleet devices sites"
    )
    assert "--latitude" in fleet.refused("update", "d-1", "--latitude", "123", "--longitude", "0")
    assert "column longitude" in fleet.refused("update", "d-1", "--latitude", "12")
    assert '--interval is "0": it must be a number of seconds' in fleet.refused("update", "d-1", "--interval", "0")
    assert "nothing to change" in fleet.refused("update", "d-1")
    assert "--name" in fleet.refused("update", "d-1", "--name", "")
    assert "nothing to import" in fleet.refused("import")


def test_things_are_kept_in_step_and_none_is_made(fleet: Fleet, connection: psycopg.Connection) -> None:
    one, two, right = (
        fleet.thing(firmware="1.0", owner="x"),
        fleet.thing(),
        fleet.thing(firmware="2.0", location="Hall_3"),
    )
    text = "device_id,firmware,location\n" + "".join(f"{name},2.0,Hall 3\n" for name in (one, two, right, "no-thing"))
    file = fleet.file(text)
    assert "things: 2 updated, 1 as they were, 1 not registered with AWS IoT" in fleet.ok("import", file)
    assert fleet.attributes(one) == {"firmware": "2.0", "location": "Hall_3", "owner": "x"}
    assert fleet.attributes(two) == {"firmware": "2.0", "location": "Hall_3"}
    assert "things: 0 updated, 3 as they were, 1 not" in fleet.ok("import", file)
    with pytest.raises(ClientError):
        fleet.iot.describe_thing(thingName="no-thing")
    assert "things: 1 updated" in fleet.ok("update", one, "--firmware", "2.1")
    assert fleet.attributes(one)["firmware"] == "2.1"
    # What a file does not speak of is left alone, and so is everything without --no-iot's opposite.
    assert "things" not in fleet.ok("import", fleet.file(f"device_id,name\n{one},Boiler\n"))
    assert "things" not in fleet.ok("update", one, "--firmware", "2.2", "--no-iot")
    assert fleet.attributes(one)["firmware"] == "2.1"


def test_the_registry_takes_over_the_firmware_that_shadows_report(
    fleet: Fleet, connection: psycopg.Connection, aws: AwsSession
) -> None:
    one, two, silent = fleet.thing(firmware="1.0"), fleet.thing(), fleet.thing()
    fleet.ok("import", fleet.file("device_id,firmware\n" + "".join(f"{name},1.0\n" for name in (one, two, silent))))

    def reports(name: str, **state: Any) -> None:
        document = json.dumps({"state": {"reported": state}})
        aws.client("iot-data").update_thing_shadow(thingName=name, payload=document)

    reports(one, firmware="2.1.0", connected=True)
    reports(two, firmware="bad\x1b[31m", connected="yes")
    output = fleet.ok("sync")
    assert "firmware: 1 changed, 0 the same, 2 devices have reported none" in output
    assert "things: 1 updated" in output
    assert fleet.attributes(one)["firmware"] == "2.1.0"
    assert {row[0]: row[3] for row in rows(connection)} == {one: "2.1.0", two: "1.0", silent: "1.0"}
    assert "firmware: 0 changed, 1 the same, 0 devices" in fleet.ok("sync", "--device", one)
    assert "its shadow: firmware 2.1.0, connected" in fleet.ok("show", one)
    assert json.loads(fleet.ok("show", one, "--json"))["shadow"] == {"firmware": "2.1.0", "connected": True}
    assert "its shadow" not in fleet.ok("show", silent)
    assert json.loads(fleet.ok("show", silent, "--json"))["shadow"] is None
    assert "there is no such device in service" in fleet.refused("sync", "--device", "d-7")


def test_a_firmware_update_is_a_bounded_job(fleet: Fleet, connection: psycopg.Connection) -> None:
    one, two = fleet.thing(), fleet.thing()
    fleet.ok("import", fleet.file(f"device_id,active\n{one},true\n{two},true\nno-thing,true\nd-9,false\n"), "--no-iot")
    output = fleet.ok("firmware", "2.1.0-rc.1", "--device", one, "--device", two, "--per-minute", "7")
    name = output.partition(":")[0]
    assert name.startswith("firmware_update-2_1_0-rc_1-")
    job = fleet.iot.describe_job(jobId=name)["job"]
    assert sorted(target.rpartition("/")[2] for target in job["targets"]) == sorted([one, two])
    assert job["jobExecutionsRolloutConfig"]["maximumPerMinute"] == 7
    assert job["abortConfig"]["criteriaList"][0]["action"] == "CANCEL"
    document = json.loads(fleet.iot.get_job_document(jobId=name)["document"])
    assert document == {"operation": "firmware_update", "version": "2.1.0-rc.1"}
    assert "which devices" in fleet.refused("firmware", "2.1.0")
    assert "'2 1' is no firmware version" in fleet.refused("firmware", "2 1", "--device", one)
    assert "no-thing is no thing of AWS IoT" in fleet.refused("firmware", "2.1.0", "--device", "no-thing")
    assert "no such device in service" in fleet.refused("firmware", "2.1.0", "--device", "d-9")
    assert "there is no such site" in fleet.refused("firmware", "2.1.0", "--site", "west")
    names = "".join(f"many-{number},true\n" for number in range(101))
    fleet.ok("import", fleet.file("device_id,active\n" + names), "--no-iot")
    many = [part for number in range(101) for part in ("--device", f"many-{number}")]
    assert "101 devices: a job takes 100 at most" in fleet.refused("firmware", "2.1.0", *many)


def test_when_aws_refuses_it_is_said_what_is_done(
    fleet: Fleet, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(fleet.thing() for _ in range(3))
    file = fleet.file("device_id,firmware\n" + "".join(f"{name},3.0\n" for name in names))
    set_attributes = ThingRegistry.set_attributes

    def refuse(self: Any, name: str, attributes: Any) -> None:
        if name == names[2]:
            error = {"Error": {"Code": "AccessDeniedException", "Message": "not authorized"}}
            raise ClientError(error, "UpdateThing")  # type: ignore[arg-type]
        set_attributes(self, name, attributes)

    with monkeypatch.context() as refusing:
        refusing.setattr(ThingRegistry, "set_attributes", refuse)
        refusing.setattr(things, "DEFAULT_CONCURRENCY", 1)
        line = fleet.refused("import", file)
    assert "the registry is saved, but of 3 things only 2 are in step with it" in line
    assert "allow iot:UpdateThing" in line
    assert [row[3] for row in rows(connection)] == ["3.0"] * 3
    assert "things: 1 updated, 2 as they were" in fleet.ok("import", file)


def test_as_a_user_runs_it(local_emulator: Emulator, tmp_path: Path, database_dsn: str) -> None:
    with environment(local_emulator, tmp_path, database_dsn) as made:
        emulator_session(local_emulator.port).client("iot").create_thing(thingName="d-1")
        for name, text in (("sites.csv", SITES), ("devices.csv", DEVICES), ("bad.csv", "device_id,name\na,b,c\n")):
            (tmp_path / name).write_text(text)
        done = made.fleet("devices", "import", str(tmp_path / "devices.csv"), "--sites", str(tmp_path / "sites.csv"))
        assert done.returncode == 0, done.stderr
        assert "things: 1 updated, 0 as they were, 1 not registered" in done.stdout
        done = made.fleet("devices", "show", "d-1")
        assert "in step with the registry" in done.stdout
        done = made.fleet("devices", "import", str(tmp_path / "bad.csv"))
        assert done.returncode == 2
        assert "bad.csv line 2: 3 cells" in done.stderr
        assert len(done.stderr.splitlines()) == 1
