"""The simulator's configuration: the runbook's YAML as it stands, and one line for each thing that can be wrong."""

import re
from pathlib import Path

import pytest

from ops.errors import UserError
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.endpoint import Endpoint
from simulator.scenario.loading import load_config

EXAMPLE = Path(__file__).parents[2] / "simulator" / "fleet.example.yaml"

# As in the runbook, "Adjust Simulator Configuration".
RUNBOOK = """\
devices:
  count: 100
  prefix: "device-"

telemetry:
  interval_seconds: 5
  temperature_range: [15, 35]
  humidity_range: [30, 80]

mqtt:
  broker: ssl://iot.us-east-1.amazonaws.com:8883
  topic: iot/telemetry
  qos: 1

anomaly:
  probability: 0.05
  spike_factor: 2.5
"""


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


def test_the_runbooks_yaml_is_taken_as_it_stands(file: Path) -> None:
    file.write_text(RUNBOOK, encoding="utf-8")
    config = load_config(file)
    assert config == SimulatorConfig(
        device_count=100,
        prefix="device-",
        interval_seconds=5,
        temperature_range=(15, 35),
        humidity_range=(30, 80),
        endpoint=Endpoint("iot.us-east-1.amazonaws.com", 8883),
        topic="iot/telemetry",
        anomaly_probability=0.05,
        spike_factor=2.5,
    )
    names = config.thing_names()
    assert (len(names), names[0], names[-1]) == (100, "device-00001", "device-00100")


def test_the_example_file_is_valid_also_with_every_comment_taken_away(file: Path) -> None:
    assert load_config(EXAMPLE).device_count == 100
    # Every key that stands there as a comment, with its default or an example, is one.
    text, keys = re.subn(r"^  # (\w+: )", r"  \1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert keys >= 7
    file.write_text(text, encoding="utf-8")
    assert load_config(file) == SimulatorConfig(
        device_count=100,
        duration_seconds=60,
        endpoint=Endpoint("iot.us-east-1.amazonaws.com", 8883),
        topic="iot/telemetry",
    )


def test_without_a_file_the_fleet_is_the_runbooks_default() -> None:
    config = load_config()
    assert (config.device_count, config.interval_seconds, config.duration_seconds) == (10, 5, None)
    assert (config.batch, config.linger_seconds, config.endpoint) == (25, 1, None)
    assert config.topic == "$aws/rules/TelemetryToFirehose/iot/telemetry"


def test_the_command_line_wins_over_the_file_and_the_file_over_the_environments_topic(file: Path) -> None:
    file.write_text(RUNBOOK, encoding="utf-8")
    options = {"device_count": 3, "interval_seconds": None, "endpoint": "localhost:9999", "unthrottled": None}
    config = load_config(file, options=options, topic="iot/telemetry-dev")
    assert (config.device_count, config.interval_seconds, config.topic) == (3, 5, "iot/telemetry")
    assert config.endpoint == Endpoint("localhost", 9999)
    assert load_config(topic="iot/telemetry-dev").topic == "iot/telemetry-dev"


@pytest.mark.parametrize("text", ["", "# nothing\n", "mqtt:\n", "mqtt: {}\n", "---\n"])
def test_an_empty_file_or_section_leaves_the_defaults(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert load_config(file) == SimulatorConfig()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("devices:\n  cuont: 3", "fleet.yaml:2: devices.cuont is no setting of the simulator: did you mean devices.count?"),
        ("device: {count: 3}", "fleet.yaml:1: device.count is no setting of the simulator: did you mean devices.count?"),
        (
            "devices: {banana: 3}",
            "fleet.yaml:1: devices.banana is no setting of the simulator: devices takes count, prefix, buffer_readings, "
            "managed, firmware, workers",
        ),
        (
            "fruit: {banana: 3}",
            "fleet.yaml:1: fruit.banana is no setting of the simulator: "
            "the sections are devices, telemetry, mqtt, anomaly, profiles, groups, behaviours",
        ),
        (
            "fruit:",
            "fleet.yaml:1: fruit is no setting of the simulator: "
            "the sections are devices, telemetry, mqtt, anomaly, profiles, groups, behaviours",
        ),
        ("devices: 3", "fleet.yaml:1: devices must hold `key: value` lines"),
        ("- devices", "fleet.yaml:1: the file must hold `key: value` lines"),
        ("devices:\n  count: 1\n  count: 2", "fleet.yaml:3: devices.count stands twice; keep one of them"),
        ("devices: {count: 0}", "fleet.yaml:1: devices.count is 0: it must be a whole number of at least 1"),
        ("devices: {count: 1.5}", "fleet.yaml:1: devices.count is 1.5: it must be a whole number of at least 1"),
        ("devices: {count: true}", "fleet.yaml:1: devices.count is true: it must be a whole number of at least 1"),
        ("devices: {count: }", "fleet.yaml:1: devices.count is null: it must be a whole number of at least 1"),
        (
            'telemetry: {interval_seconds: "5"}',
            'fleet.yaml:1: telemetry.interval_seconds is "5": it must be a number greater than 0',
        ),
        ("telemetry: {interval_seconds: 0}", "fleet.yaml:1: telemetry.interval_seconds is 0: it must be greater than 0"),
        ("telemetry: {interval_seconds: -1}", "fleet.yaml:1: telemetry.interval_seconds is -1: it must be greater than 0"),
        (
            "telemetry: {interval_seconds: .inf}",
            "fleet.yaml:1: telemetry.interval_seconds is Infinity: it must be a number greater than 0",
        ),
        (
            "telemetry:\n\n  temperature_range: [35, 15]",
            "fleet.yaml:3: telemetry.temperature_range is [35, 15]: the range is upside down; write [15, 35]",
        ),
        (
            "telemetry: {humidity_range: [30]}",
            "fleet.yaml:1: telemetry.humidity_range is [30]: it must be two numbers, [lowest, highest]",
        ),
        (
            "telemetry: {humidity_range: [30, 130]}",
            "fleet.yaml:1: telemetry.humidity_range is [30, 130]: it must be from 0 to 100 %, which is what is plausible; "
            "for values beyond that use anomaly.spike_factor",
        ),
        (
            "telemetry: {temperature_range: [-61, 35]}",
            "fleet.yaml:1: telemetry.temperature_range is [-61, 35]: it must be from -60 to 125 degC, which is what is "
            "plausible; for values beyond that use anomaly.spike_factor",
        ),
        ("telemetry: {batch: 0}", "fleet.yaml:1: telemetry.batch is 0: it must be a whole number of at least 1 and at most 1000"),
        ("anomaly: {probability: 1.5}", "fleet.yaml:1: anomaly.probability is 1.5: it must be from 0 to 1"),
        ("anomaly: {spike_factor: 0}", "fleet.yaml:1: anomaly.spike_factor is 0: it must be greater than 0"),
        ("mqtt: {qos: 2}", "fleet.yaml:1: mqtt.qos is 2: AWS IoT Core has no QoS 2; write 1"),
        (
            "mqtt: {broker: 'tcp://host:1883'}",
            'fleet.yaml:1: mqtt.broker is "tcp://host:1883": AWS IoT Core takes MQTT over TLS only, so write ssl://host:8883',
        ),
        ("mqtt: {unthrottled: sometimes}", 'fleet.yaml:1: mqtt.unthrottled is "sometimes": it must be true or false'),
        (
            "devices: {prefix: 'my device'}",
            'fleet.yaml:1: devices.prefix is "my device": '
            "the name of a thing takes letters, digits, ':', '_' and '-', here 1 to 100 of them",
        ),
    ],
)  # fmt: skip
def test_each_fault_is_one_line_with_file_key_value_and_what_is_right(file: Path, text: str, line: str) -> None:
    assert fault(file, text) == line


@pytest.mark.parametrize(
    "broker", ["ssl://:8883", "ssl://host:0", "ssl://host:99999", "ssl://ho st", "ssl://host:8883/x", "3"]
)
def test_a_brokers_address_that_is_none(file: Path, broker: str) -> None:
    assert "mqtt.broker is" in fault(file, f"mqtt: {{broker: {broker}}}")


@pytest.mark.parametrize(
    ("text", "endpoint", "shown"),
    [
        ("host", Endpoint("host", 8883), "host:8883"),
        ("ssl://a.iot.eu-west-1.amazonaws.com:443", Endpoint("a.iot.eu-west-1.amazonaws.com", 443), None),
        ("mqtts://127.0.0.1:1/", Endpoint("127.0.0.1", 1), "127.0.0.1:1"),
        ("[::1]:8883", Endpoint("::1", 8883), "[::1]:8883"),
    ],
)
def test_an_endpoint_is_read_as_people_write_it(text: str, endpoint: Endpoint, shown: str | None) -> None:
    assert Endpoint.parse(text) == endpoint
    assert shown in {None, str(endpoint)}


@pytest.mark.parametrize("topic", ["iot//telemetry", "/iot", "iot/+", "iot/#", "$SYS/x", "$aws/rules/x", "''"])
def test_a_topic_that_aws_iot_does_not_take(file: Path, topic: str) -> None:
    assert fault(file, f"mqtt: {{topic: {topic}}}").startswith("fleet.yaml:1: mqtt.topic is ")


def test_a_topic_has_at_most_seven_slashes_without_those_of_basic_ingest(file: Path) -> None:
    file.write_text("mqtt: {topic: $aws/rules/Rule/a/b/c/d/e/f/g}", encoding="utf-8")
    assert load_config(file).topic == "$aws/rules/Rule/a/b/c/d/e/f/g"
    assert "8 slashes" in fault(file, "mqtt: {topic: a/b/c/d/e/f/g/h}")
    assert "bytes" in fault(file, f"mqtt: {{topic: {'a' * 250}}}")


def test_more_messages_than_aws_takes_from_a_connection_need_a_larger_batch_or_the_users_word() -> None:
    fast: dict[str, object] = {"interval_seconds": 0.005, "batch": 1}
    with pytest.raises(UserError, match=r"^--interval is 0\.005: each device would send 200 messages/s"):
        load_config(options=fast)
    assert load_config(options={**fast, "batch": 25}).batch == 25
    assert load_config(options={**fast, "unthrottled": True}).unthrottled


@pytest.mark.parametrize("text", ["a: [", "\tx: 1", "a: 1\n---\nb: 2", "a: \x01"])
def test_what_is_not_yaml_is_said_to_be_so(file: Path, text: str) -> None:
    assert "is not YAML" in fault(file, text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read: No such file or directory"):
        load_config(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"devices: \xff")
    with pytest.raises(UserError, match="it is not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_options_are_named_as_the_user_typed_them() -> None:
    with pytest.raises(UserError, match=r"^--device-count is 0: it must be a whole number of at least 1$"):
        load_config(options={"device_count": 0})
    with pytest.raises(UserError, match=r"^--duration is 0: it must be greater than 0$"):
        load_config(options={"duration_seconds": 0})
