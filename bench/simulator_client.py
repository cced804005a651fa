"""The simulator as a client of `fleet bench simulator`: its engine and its connections, at a pace that it is told.

Run as `python -m bench.simulator_client TASK`. `fixed` sends a payload that is there already, as the other clients do;
`signals` generates each reading, `envelopes` 25 of them for each message.
"""

import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from math import floor, inf
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.simulator_broker import HOST, identities
from bench.simulator_steps import (
    DRAIN_SECONDS,
    PAYLOAD_BYTES,
    READINGS_PER_ENVELOPE,
    SETTLE_SECONDS,
    Connected,
    Measured,
    Step,
    Task,
    say,
    steps,
)
from simulator.accounts.report import Phase
from simulator.devices.device import Act, Device
from simulator.devices.envelope import Message
from simulator.mqtt.connection import Broker
from simulator.run.fleet import Fleet
from simulator.run.session import rare_collections, without_certificate_bundle
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.endpoint import Endpoint

_RATE = 50_000
"""Readings a second for which the engine sets itself up; the paces that it is told are about that."""
_IDLE_SECONDS = 0.25
_NOTHING, _READING, _READING_PUBLISH = Act.NOTHING, Act.READING, Act.READING | Act.PUBLISH


@dataclass
class Pace:
    """How often each device has a reading, for all of them; changed between steps."""

    fixed_payload: bool
    started_at: float = field(default_factory=time.monotonic)
    """When readings began, so that devices and steps go by one clock."""
    interval_seconds: float = inf
    number: int = 0
    """Of the step."""
    from_seconds: float = 0.0


class SteadyDevice(Device):
    """A device whose pace can be changed while it runs."""

    __slots__ = ("_encoded", "_index", "_pace", "_share", "_step")

    def __init__(self, pace: Pace, config: SimulatorConfig, index: int, thing_name: str, **rest: Any) -> None:
        super().__init__(config, index, thing_name, **rest)
        self._pace, self._step, self._index = pace, 0, index
        self._share = index / rest["fleet_size"]
        self._encoded = b"x" * PAYLOAD_BYTES
        self.due = self._share * _IDLE_SECONDS

    def take(self, started_at_ms: int) -> Act:
        """One reading, if there is a pace; else a look whether there is one now."""
        pace, due = self._pace, self.due
        interval = pace.interval_seconds
        if pace.number != self._step:
            self._step = pace.number
            if interval != inf:
                first = pace.from_seconds + self._share * interval
                self.due = first + interval * max(0, floor((due - first) / interval) + 1)
                return _NOTHING
        if interval == inf:
            self.due = due + _IDLE_SECONDS
            return _NOTHING
        self.due = due + interval
        seq = self.generated
        self.generated = seq + 1
        if pace.fixed_payload:
            self.backlog.append(Message(self._index, self._encoded, seq, seq))
            self.backlog_readings += 1
            return _READING_PUBLISH
        encoded = self._encode(started_at_ms + round(due * 1000), seq)
        complete = self._packer.add(encoded, seq=seq, due=due, next_due=due)
        for message in complete:
            self.backlog.append(message)
            self.backlog_readings += message.readings
        return _READING_PUBLISH if complete else _READING


def main(task: Task) -> None:
    """Connect, then do one step after the other until there are no more."""
    pace = Pace(fixed_payload=task.kind == "fixed")
    batch = READINGS_PER_ENVELOPE if task.kind == "envelopes" else 1
    config = SimulatorConfig(
        device_count=task.devices, batch=batch, interval_seconds=task.devices / _RATE, topic="bench", unthrottled=True
    )
    devices = identities(Path(task.folder), task.devices, lambda _done, _total: None)
    process = psutil.Process()
    before = process.memory_info().rss
    stop = threading.Event()
    with without_certificate_bundle(), rare_collections():
        broker = Broker(Endpoint(HOST, task.port), topic=config.topic, unthrottled=True)
        fleet = Fleet(
            config,
            [device.thing_name for device in devices],
            link=lambda fleet, index: broker.link(devices[index], fleet, index, None),
            clock=time.monotonic,
            wall_clock=time.time,
            stop=stop,
            seq_start={},
            make_device=partial(SteadyDevice, pace),
        )
        scheduler = threading.Thread(target=_schedule, args=(fleet,), daemon=True)
        begin = time.monotonic()
        scheduler.start()
        while fleet.phase is Phase.CONNECTING:
            time.sleep(0.005)
        pace.started_at = time.monotonic()
        say(
            Connected(
                connected=fleet.progress()[0].connected,
                seconds=pace.started_at - begin,
                memory_bytes=process.memory_info().rss - before,
            )
        )
        for step in steps():
            say(_measure(fleet, pace, step, batch))
        stop.set()
        scheduler.join()


def _measure(fleet: Fleet, pace: Pace, step: Step, batch: int) -> Measured:
    pace.from_seconds = time.monotonic() - pace.started_at
    pace.interval_seconds = fleet.config.device_count / step.messages_per_second / batch
    pace.number += 1
    time.sleep(SETTLE_SECONDS)
    before, cpu, begin = fleet.progress()[0], time.process_time(), time.monotonic()
    time.sleep(step.seconds)
    after, cpu_after, end = fleet.progress()[0], time.process_time(), time.monotonic()
    pace.interval_seconds = inf
    pace.number += 1
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        now = fleet.progress()[0]
        if (
            now.messages_acknowledged == now.messages_published
            and now.readings_buffered < fleet.config.device_count * batch
        ):
            break
        time.sleep(0.02)
    return Measured(
        acknowledged=after.messages_acknowledged - before.messages_acknowledged,
        readings=after.readings_acknowledged - before.readings_acknowledged,
        seconds=end - begin,
        cpu_seconds=cpu_after - cpu,
    )


def _schedule(fleet: Fleet) -> None:
    while (pause := fleet.step()) is not None:
        if pause > 0:
            time.sleep(pause)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Task))
