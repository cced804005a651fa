"""What a fleet is and does, in one frozen `SimulatorConfig`, and the defaults of it all."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from certs.names import thing_names
from infra.names import Names
from simulator.scenario.behaviours import Behaviour
from simulator.scenario.endpoint import Endpoint
from simulator.scenario.groups import DeviceGroup, group_names

ENVELOPE_MAX_BYTES = 5_000
"""Firehose bills a record rounded up to 5 KB; what the rule adds to the payload still fits between this and that."""

TYPICAL_READING_BYTES = 120

# https://docs.aws.amazon.com/general/latest/gr/iot-core.html (message broker and protocol limits, per connection)
AWS_PUBLISHES_PER_SECOND = 100


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    """What the fleet is and does. The defaults stand here and nowhere else."""

    device_count: int = 10
    prefix: str = "device-"
    buffer_readings: int = 5_000
    """What a device keeps for later while it cannot send; beyond that it drops its oldest readings, and counts them."""
    interval_seconds: float = 5.0
    """Time between two readings of one device."""
    duration_seconds: float | None = None
    """None: until stopped."""
    temperature_range: tuple[float, float] = (15.0, 35.0)
    """Degrees Celsius."""
    humidity_range: tuple[float, float] = (30.0, 80.0)
    """Percent, relative."""
    batch: int = 25
    """Readings per envelope at most; 1 sends each reading as a message of its own, without an envelope."""
    linger_seconds: float = 1.0
    """How long the first reading of an envelope waits at most for others to join it."""
    seed: int = 1
    endpoint: Endpoint | None = None
    """None: the running local stack's."""
    topic: str = Names.of("local").basic_ingest_topic
    """The name of the thing is appended as the last level."""
    unthrottled: bool = False
    """Leave AWS's limits per connection aside, for a load test of another broker."""
    anomaly_probability: float = 0.05
    """Share of the readings whose temperature is a spike."""
    spike_factor: float = 2.5
    behaviours: tuple[Behaviour, ...] = ()
    """Of the devices of every group."""
    groups: tuple[DeviceGroup, ...] = ()
    """None: all devices are alike. Else their counts add up to `device_count`."""
    managed: bool = False
    """Whether devices have a shadow, a last will and take jobs."""
    protocol: Literal["mqtt5", "mqtt311"] = "mqtt5"
    workers: int | None = None
    """Processes that share the devices; None: as many as help."""
    start: datetime | None = None
    """The time of the first reading, instead of now."""
    firmware: str = "1.0.0"

    def thing_names(self) -> list[str]:
        """`device-00001` and so on, as many as there are devices."""
        if self.groups:
            return [name for names in group_names(self.groups, self.prefix) for name in names]
        return thing_names(self.device_count, self.prefix)

    @property
    def has_behaviours(self) -> bool:
        """Whether anything but measuring may befall a device."""
        return bool(self.behaviours) or any(group.behaviours for group in self.groups)

    @property
    def readings_per_message(self) -> int:
        """Readings that fill a message at this interval: limited by count, by size, or by how long they may linger."""
        in_time = math.floor(self.linger_seconds / self.interval_seconds) + 1
        return min(self.batch, in_time, ENVELOPE_MAX_BYTES // TYPICAL_READING_BYTES)
