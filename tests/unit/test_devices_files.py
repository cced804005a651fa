"""Files of devices: whatever is in them, each fault is named by line and column, and nothing else passes."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambdas.shared.contract import METRICS
from ops.devices import view
from ops.devices.fields import DEVICES, SITES
from ops.devices.files import Entry, read_file
from ops.devices.registry import plan
from ops.devices.things import attribute_value
from ops.errors import UserError
from simulator.devices.signals import DeviceSignals
from simulator.scenario.config import SimulatorConfig


def written(tmp_path: Path, text: str | bytes, name: str = "devices.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(path: Path) -> list[str]:
    return [fault.removeprefix(f"{path} ") for fault in read_file(path, DEVICES).faults]


def test_a_csv_file_becomes_typed_rows(tmp_path: Path) -> None:
    text = (
        "\ufeffdevice_id,name,latitude,longitude,active,attributes,site_id\r\n"
        'd-1,"Hall 3, west",51.5,-0.12,No,"{""shelf"": 3}",\r\n'
        "\r\n"
        'd-2,"two\nlines"\r\n'
    )
    with pytest.raises(UserError, match="line 4: 2 cells, and the first line names 7 columns"):
        read_file(written(tmp_path, text), DEVICES)
    (entry,) = read_file(written(tmp_path, text.partition("d-2")[0]), DEVICES).entries
    assert entry.values == {
        "device_id": "d-1",
        "name": "Hall 3, west",
        "latitude": 51.5,
        "longitude": -0.12,
        "active": False,
        "attributes": {"shelf": 3},
        "site_id": None,
    }
    assert entry.where.endswith("line 2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: the columns of devices are device_id, name"),
        (" \n\n", "is empty"),
        ("device_id,name\n", "has no devices"),
        ("device_id;name\na;b\n", "line 1: the columns must be separated by commas"),
        ("name,site_id\na,b\n", "line 1: there is no column device_id"),
        (
            "device_id,frimware\na,b\n",
            r"line 1, column 2 \(frimware\): there is no such column: did you mean firmware\?",
        ),
        ("device_id,wheels\na,b\n", "there is no such column: use device_id, name"),
        ("device_id,name,\na,b,c\n", r"line 1, column 3 \(without a name\)"),
        ("device_id,name,name\na,b,c\n", "line 1, column 3: name is there twice"),
        ("device_id,name\na,b\nc,d,e\n", "line 3: 3 cells, and the first line names 2 columns"),
        ('device_id,name\na,b\n"c,d\n', "line 3: unexpected end of data"),
        ('device_id,name\na,"b"x\n', "line 2: "),
    ],
)
def test_a_csv_file_of_no_use(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_file(written(tmp_path, text), DEVICES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"device_id": "a"}', "it must be an array of objects"),
        ('[{"device_id": "a"},\n {"device_id": "b" "name": "x"}]', "line 2 column 20: Expecting ',' delimiter"),
        ('[{"device_id": "a"}\n {"device_id": "b"}]', r"line 2 column 2: expected ',' or '\]'"),
        ('[{"device_id": "a"},]', "line 1 column 21: expected ',' or"),
        ('[{"device_id": "a"}', "expected ',' or"),
        ("[", "line 1 column 2: Expecting value"),
        ('[{"device_id": "a"}] x', "there is more after the array"),
        ('[\n"a"]', "line 2: each element must be an object"),
        ('[{"device_id": "a", "latitude": NaN}]', "NaN is no number in JSON"),
        ("[]", "has no devices"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_a_json_file_of_no_use(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        read_file(written(tmp_path, text, "devices.json"), DEVICES)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.csv or \.json"):
        read_file(written(tmp_path, "x", "devices.txt"), DEVICES)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_file(tmp_path / "absent.csv", DEVICES)
    with pytest.raises(UserError, match=r"not UTF-8 \(byte 19\)"):
        read_file(written(tmp_path, "device_id,name\na,M\xfcller".encode("latin-1")), DEVICES)


def test_every_bad_cell_is_named(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "device_id,name,latitude,longitude,active,attributes\n"
        "a b,x,91,0,true,{}\n"
        'b,,"51,5",nan,maybe,[]\n'
        "c,x,,,,\n"
        "c,x,1,1,true,{}\n"
        'd,bell\x07,-90,180,1,"{""a"": ""\\u0000""}"\n',
    )
    assert faults(path) == [
        "line 2, column device_id is \"a b\": it must be the name of a thing: 1 to 128 letters, digits, ':', '_' and '-'",
        'line 2, column latitude is "91": it must be a number from -90 to 90 (decimal degrees, WGS 84)',
        'line 3, column name is "": it may not be empty',
        'line 3, column latitude is "51,5": it must be a number from -90 to 90 (decimal degrees, WGS 84)',
        'line 3, column longitude is "nan": it must be a number from -180 to 180 (decimal degrees, WGS 84)',
        'line 3, column active is "maybe": it must be true or false',
        'line 3, column attributes is "[]": it must be a JSON object such as {"shelf": 3}',
        'line 4, column active is "": it may not be empty',
        'line 4, column attributes is "": it may not be empty',
        "line 5, column device_id: c is on line 4 already",
        'line 6, column name is "bell\\u0007": it holds a control character',
        'line 6, column attributes is "{\\"a\\": \\"\\\\u0000\\"}": it holds a NUL character, which PostgreSQL does not store',
    ]


def test_every_bad_member_is_named(tmp_path: Path) -> None:
    text = '[\n  {"device_id": "a", "colour": 1},\n\n  {"name": 5},\n  {"device_id": "b", "name": "x", "name": "y"},\n'
    text += '  {"device_id": "a", "latitude": true, "attributes": {"x": [{"y": 1}]}}\n]'
    found = faults(written(tmp_path, text, "devices.json"))
    assert [fault.split(": ")[0] for fault in found] == [
        "line 2, column colour",
        "line 4, column name is 5",
        "line 4",
        "line 5, column name",
        "line 6, column latitude is true",
        "line 6, column device_id",
    ]


shown = st.characters(codec="utf-8", categories=("L", "N", "P", "S"), include_characters=" ")
printable_text = st.text(shown, max_size=20).map(str.strip)
optional_text = printable_text.map(lambda text: text or None)
position = st.one_of(
    st.just((None, None)), st.tuples(st.floats(-90, 90, allow_nan=False), st.floats(-180, 180, allow_nan=False))
)
attributes = st.dictionaries(printable_text, st.one_of(st.integers(-9, 9), printable_text, st.none()), max_size=3)


@st.composite
def devices(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(st.from_regex(r"[a-zA-Z0-9:_-]{1,12}", fullmatch=True), min_size=1, max_size=5, unique=True))
    rows = []
    for name in names:
        latitude, longitude = draw(position)
        texts = ("site_id", "customer", "project", "device_type", "location", "firmware")
        given = {column: draw(optional_text) for column in texts}
        own = {"device_id": name, "name": draw(printable_text) or "x", "active": draw(st.booleans())}
        own["reading_interval_seconds"] = draw(st.one_of(st.none(), st.sampled_from([0.1, 5.0, 3600.0])))
        row = own | given | {"latitude": latitude, "longitude": longitude, "attributes": draw(attributes)}
        rows.append({column: row[column] for column in DEVICES.fields})
    return rows


@given(rows=devices())
def test_what_list_writes_import_reads(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("files")
    for path in (
        written(folder, view.as_csv(rows)),
        written(folder, json.dumps(rows, indent=1), "devices.json"),
    ):
        contents = read_file(path, DEVICES)
        assert contents.faults == []
        assert [entry.values for entry in contents.entries] == rows
        assert plan(DEVICES, contents.entries, {row["device_id"]: row for row in rows}).same == len(rows)
    assert next(csv.reader(io.StringIO(view.as_csv(rows)))) == list(DEVICES.fields)


def test_a_plan_tells_new_from_changed_from_same_and_half_a_position() -> None:
    before = DEVICES.new("a") | {"firmware": "1", "latitude": 1.0, "longitude": 2.0}
    entries = [
        Entry("line 1", {"device_id": "a", "firmware": "1"}),
        Entry("line 2", {"device_id": "a", "firmware": "2"}),
        Entry("line 3", {"device_id": "b"}),
        Entry("line 4", {"device_id": "a", "latitude": None}),
        Entry("line 5", {"device_id": "b", "longitude": 3.0}),
    ]
    changes = plan(DEVICES, entries, {"a": before})
    assert [entry.where for entry in changes.new] == ["line 3"]
    assert [entry.where for entry in changes.changed] == ["line 2"]
    assert changes.same == 1
    assert changes.faults == [
        "line 4, column latitude: it is empty, and longitude is 2: give both",
        "line 5, column latitude: it is empty, and longitude is 3: give both",
    ]
    site = plan(SITES, [Entry("line 1", {"site_id": "x", "name": "X"})], {})
    assert len(site.new) == 1


@given(st.text(max_size=30))
def test_an_attribute_is_one_that_aws_takes(text: str) -> None:
    value = attribute_value(text)
    assert len(value) == len(text)
    assert set(value) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,@/:#=[]-")


def test_ages() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    expected = {0: "0 s", 5: "5 s", 60: "1 min", 200: "3 min 20 s", 7_200: "2 h", 187_300: "2 d 4 h", -30: "in 30 s"}
    assert {seconds: view.age(now, now - timedelta(seconds=seconds)) for seconds in expected} == expected
    assert view.age(now, None) == "never"


def test_the_simulator_stays_within_what_is_plausible() -> None:
    signals = DeviceSignals(SimulatorConfig(interval_seconds=600.0), "device-00001")
    readings = [signals.reading(1_795_232_831_832 + n * 600_000, n) for n in range(5_000)]
    assert set(readings[0]) - {"ts", "seq"} == {metric.name for metric in METRICS}
    for metric in METRICS:
        values = [reading[metric.name] for reading in readings]
        assert metric.low <= min(values), metric.name
        assert max(values) <= metric.high, metric.name
