"""Scenario files: the ready-made ones, profiles of metrics, and one line for each thing that can be wrong in one."""

# ruff: noqa: E501 - a table of faults is read line by line

from pathlib import Path
from statistics import correlation, pstdev

import orjson
import pytest

from ops.errors import UserError
from simulator.cli import simulate
from simulator.devices.device import Device
from simulator.devices.profile_signals import ProfileSignals
from simulator.scenario import behaviours as kinds
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.groups import DeviceGroup
from simulator.scenario.keys import KINDS
from simulator.scenario.loading import load_config
from simulator.scenario.profiles import MetricProfile, Profile
from simulator.scenario.ready_made import ready_made, scenario_file

START_MS = 1_795_219_200_000
PROFILE = "profiles:\n  p:\n    temperature: {noise: 1}\n    co2: {range: [400, 2000]}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fleet.yaml"


def fault(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_config(file)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(file), "fleet.yaml")


def test_the_ready_made_scenarios_are_found_from_anywhere_and_chaos_has_every_behaviour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {scenario.name: scenario for scenario in ready_made()}
    assert {"steady", "cold-chain", "flaky-network", "bad-firmware", "chaos", "thousand"} <= set(found)
    assert all(scenario.devices > 0 and len(scenario.shows) > 20 for scenario in found.values())
    chaos = load_config(scenario_file("chaos"))
    said = [*chaos.behaviours, *(behaviour for group in chaos.groups for behaviour in group.behaviours)]
    assert {type(behaviour) for behaviour in said} == {kind.made for kind in KINDS.values()}
    simulate(list_scenarios=True)
    assert "chaos" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^--config chaso: is neither a file nor .*: did you mean chaos\?$"):
        simulate(config="chaso")
    (tmp_path / "chaos").write_text("devices: {count: 3}")
    assert load_config(scenario_file("chaos")).device_count == 3


def test_a_scenario_is_read_as_it_is_meant(file: Path) -> None:
    text = PROFILE + (
        "devices: {count: 4}\ngroups:\n  a: {share: 0.5, profile: p, batch: 1}\n  b:\n    share: 0.5\n    behaviours:\n"
        "    - {kind: offline, every: 1m, for: 500ms, times: 3, spread: 2s, share: 0.5, abrupt: false}\n"
        "    - {kind: clock_skew, offset: -1d, devices: [2, 1, 2]}\n"
        "behaviours:\n  - {kind: spike, metric: co2, probability: 0.5}\n"
    )
    file.write_text(text, encoding="utf-8")
    config = load_config(file, options={"start": "2026-11-21T00:00:00Z", "device_count": 6})
    assert (config.device_count, [(group.name, group.count) for group in config.groups]) == (6, [("a", 3), ("b", 3)])
    first, second = config.groups
    assert first.profile == Profile(
        "p",
        (
            MetricProfile(name="temperature", unit="degC", low=15, high=35, noise=1),
            MetricProfile(name="co2", unit="", low=400, high=2000),
        ),
    )
    assert second.behaviours == (
        kinds.Offline(
            at_seconds=60, every_seconds=60, for_seconds=0.5, times=3, spread_seconds=2, share=0.5, abrupt=False
        ),
        kinds.ClockSkew(offset_seconds=-86_400, devices=(1, 2)),
    )
    assert config.behaviours == (kinds.Spike(metric="co2", probability=0.5, factor=2.5),)
    assert config.start is not None
    assert config.start.timestamp() * 1000 == START_MS + 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("behavior: []", "1: behavior is no setting of the simulator: did you mean behaviours?"),
        ("behaviours: {kind: stuck}", "1: behaviours must be a list: lines that begin with `- `"),
        ("behaviours:\n- stuck", "2: behaviours[1] must hold `key: value` lines"),
        ("behaviours:\n- {at: 3}", "2: behaviours[1] has no kind: it is one of offline,"),
        ("behaviours:\n- {kind: stuk}", '2: behaviours[1].kind is "stuk": did you mean stuck?'),
        ("behaviours:\n- kind: stuck\n  metrik: humidity", "3: behaviours[1].metrik is no setting of the simulator: did you mean metric?"),
        ("behaviours:\n- {kind: stuck, metric: humidty}", "2: behaviours[1].metric is humidty, which is not measured here: did you mean humidity?"),
        ("behaviours:\n- {kind: offline}", "2: behaviours[1] does not say when: give it at, such as at: 30s or every"),
        ("behaviours:\n- {kind: revoke}", "2: behaviours[1] does not say when: give it at, such as at: 30s"),
        ("behaviours:\n- {kind: offline, at: soon}", '2: behaviours[1].at is "soon": it must be a time such as 30s, 5m or 2h'),
        ("behaviours:\n- {kind: offline, at: 3, for: -5s}", '2: behaviours[1].for is "-5s": it must be greater than 0'),
        ("behaviours:\n- {kind: offline, every: 10s}", "2: behaviours[1].every: needs for as well"),
        ("behaviours:\n- {kind: offline, every: 10s, for: 10s}", "2: behaviours[1].every is 10s: it must be longer than for (10 s)"),
        ("behaviours:\n- {kind: offline, at: 1, times: 2}", "2: behaviours[1].times: needs every"),
        ("behaviours:\n- {kind: stuck, share: 1.1}", "2: behaviours[1].share is 1.1: it must be greater than 0 and at most 1"),
        ("behaviours:\n- {kind: stuck, share: 0}", "2: behaviours[1].share is 0: it must be greater than 0 and at most 1"),
        ("telemetry:\n  start: 2026-13-21T00:00:00Z", "2: telemetry.start is 2026-13-21T00:00:00Z: month must be in 1..12"),
        ("telemetry:\n  start: 9999-12-31T23:59:59Z", '2: telemetry.start is "9999-12-31 23:59:59+00:00": it must be from 1970 to 2199'),
        ("behaviours:\n- {kind: stuck, share: 0.1, devices: [1]}", "2: behaviours[1].share: give either devices or a share"),
        ("behaviours:\n- {kind: stuck, devices: [11]}", "2: behaviours[1].devices has 11: the fleet has 10 devices"),
        ("behaviours:\n- {kind: stuck, devices: 1}", "2: behaviours[1].devices is 1: it must be a list of devices' numbers"),
        ("behaviours:\n- {kind: duplicate}", "2: behaviours[1] has no probability: how likely"),
        ("behaviours:\n- {kind: malformed, probability: 0.5, forms: [no_tss]}", '2: behaviours[1].forms is ["no_tss"]: did you mean no_ts?'),
        ("behaviours:\n- {kind: reorder, window: 1}", "2: behaviours[1].window is 1: it must be a whole number of at least 2"),
        ("behaviours:\n- {kind: drift, per_hour: much}", '2: behaviours[1].per_hour is "much": it must be a number such as 1.5'),
        ("profiles: {p: {}}", "1: profiles.p has 0 metrics: a profile has from 1 to 50"),
        ("profiles:\n  p:\n    co2: {unit: ppm}", "3: profiles.p.co2 has no range: write range: [lowest, highest]"),
        ("profiles:\n  p:\n    co2: {range: [9, 1]}", "3: profiles.p.co2.range is [9, 1]: the range is upside down; write [1, 9]"),
        ("profiles:\n  p:\n    temperature: {range: [0, 200]}", "3: profiles.p.temperature.range is [0, 200]: it must be from -60 to 125 degC"),
        ("profiles:\n  p:\n    temperature: {unit: degF}", "3: profiles.p.temperature.unit is degF: temperature is in degC"),
        ("profiles:\n  p:\n    ts: {range: [0, 1]}", "3: profiles.p.ts: ts is not free for a metric"),
        ("profiles:\n  p:\n    'a b': {range: [0, 1]}", "3: profiles.p.a b: it must be a name of letters"),
        ("profiles:\n  p:\n    battery: {daily: {shaer: 1}}", "3: profiles.p.battery.daily.shaer is no setting of the simulator: did you mean share?"),
        ("profiles:\n  p:\n    battery: {follows: {metric: temp}}", "2: profiles.p: battery follows temp, which this profile does not have"),
        (
            "profiles:\n  p:\n    battery: {follows: {metric: humidity}}\n    humidity: {follows: {metric: battery}}",
            "2: profiles.p: battery follows humidity follows battery, which is a circle",
        ),
        ("groups:\n  a: {}", "2: groups.a must have either a count or a share"),
        ("groups:\n  a: {count: 1, share: 0.5}", "2: groups.a must have either a count or a share"),
        ("groups:\n  a: {count: 1}\n  b: {share: 0.5}", "3: groups.b has a share and a a count: give each group the same of both"),
        ("groups:\n  a: {share: 0.5}\n  b: {share: 0.6}", "2: groups.a: the shares of the groups add up to 1.1: they must add up to 1"),
        ("groups:\n  a: {share: 0.99}\n  b: {share: 0.01}", "3: groups.b has a share of 0.01: of 10 devices that is none"),
        ("devices: {count: 3}\ngroups:\n  a: {count: 1}", "1: devices.count is 3: the counts of the groups add up to 1"),
        ("groups:\n  a: {count: 1, profile: q}", "2: groups.a.profile is q, which is not among the profiles: there are none"),
        (PROFILE + "groups:\n  a: {count: 1, profile: pp}", "6: groups.a.profile is pp, which is not among the profiles: did you mean p?"),
        (
            PROFILE + "groups:\n  a:\n    count: 1\n    profile: p\n    behaviours:\n    - {kind: stuck, metric: humidity}",
            "10: groups.a.behaviours[1].metric is humidity, which is not measured here: there are temperature, co2",
        ),
        ("groups:\n  a:\n    count: 1\n    count: 2", "4: groups.a.count stands twice; keep one of them"),
        ("groups:\n  a: {count: 1, interval_seconds: 0.0001}", "2: groups.a.interval_seconds is 0.0001: each device would send"),
        ("telemetry: {start: 2026-11-21 00:00:00}", '1: telemetry.start is "2026-11-21 00:00:00": it must be a time with an offset'),
        ("mqtt: {protocol: mqtt3}", '1: mqtt.protocol is "mqtt3": did you mean mqtt311?'),
        ("a: &a {b: *a}", " is nested too deeply"),
    ],
)  # fmt: skip
def test_each_fault_names_file_line_and_key_and_what_is_right(file: Path, text: str, line: str) -> None:
    found = fault(file, text)
    assert found.removeprefix("fleet.yaml:").startswith(line) or found.startswith(line.strip()), found


def test_two_devices_never_have_one_name(file: Path) -> None:
    text = "groups:\n  a: {count: 1, prefix: x-0}\n  b: {count: 1, prefix: x-}\n"
    file.write_text(text)
    assert load_config(file).thing_names() == ["x-000001", "x-00001"]
    file.write_text("groups:\n  a: {count: 1, prefix: x-1}\n  b: {count: 100001, prefix: x-}\n")
    assert "two devices would have the name x-100001" in fault(file, file.read_text())


def test_a_store_with_fewer_devices_says_how_many_and_how_to_get_more(tmp_path: Path) -> None:
    devices = tmp_path / "devices"
    devices.mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    for name in ("device-00001", "device-00002"):
        (devices / f"{name}.pem").touch()
    with pytest.raises(UserError) as caught:
        simulate(endpoint="localhost", store=tmp_path, device_count=3)
    assert f"{tmp_path} has certificates for 2 of these 3 devices, and none for device-00003" in str(caught.value)
    assert "fleet certs issue --device-count 3 --prefix device- --store" in str(caught.value)


def test_the_metrics_of_a_profile_keep_to_it() -> None:
    profile = Profile(
        "room",
        (
            MetricProfile(
                name="power", unit="W", low=0, high=500, follows="temperature", factor=20, noise=1, decimals=0
            ),
            MetricProfile(name="temperature", unit="degC", low=-25, high=-5, daily_share=0.5, daily_hour=15, noise=0.2),
            MetricProfile(name="humidity", unit="%", low=40, high=80, drift=50),
        ),
    )
    signals = ProfileSignals(profile, seed=1, thing_name="room-00001", interval_seconds=600)
    again = ProfileSignals(profile, seed=1, thing_name="room-00001", interval_seconds=600)
    times = [START_MS + number * 600_000 for number in range(144 * 7)]
    rows = [signals.reading(ts, seq) for seq, ts in enumerate(times)]
    assert rows == [orjson.loads(again.encode(ts, seq)) for seq, ts in enumerate(times)]
    columns = {name: [row[name] for row in rows] for name in signals.names}
    assert list(rows[0]) == ["ts", "seq", "power", "temperature", "humidity"]
    for metric in profile.metrics:
        assert min(columns[metric.name]) >= metric.low
        assert max(columns[metric.name]) <= metric.high
    assert 0.9 * 10 <= max(columns["temperature"]) - min(columns["temperature"]) <= 1.2 * 10
    hottest = max(range(144), key=lambda n: sum(columns["temperature"][n::144]))
    assert 14 <= hottest / 6 <= 16
    assert correlation(columns["power"], columns["temperature"]) > 0.95
    assert (min(columns["humidity"]), max(columns["humidity"])) == (40, 80)
    assert pstdev(columns["humidity"]) > 5
    assert all(value == int(value) for value in columns["power"])


def test_a_group_sends_what_its_profile_measures() -> None:
    profile = Profile("p", (MetricProfile(name="co2", unit="ppm", low=400, high=2000, decimals=1),))
    config = SimulatorConfig(device_count=1, batch=1, groups=(DeviceGroup(name="g", count=1, profile=profile),))
    device = Device(config, 0, "device-00001", fleet_size=1, first_seq=0)
    device.take(START_MS)
    message = device.next_message()
    assert message is not None
    row = orjson.loads(message.payload)
    assert (row["ts"], row["seq"], list(row)) == (START_MS, 0, ["ts", "seq", "co2"])
