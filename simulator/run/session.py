"""One process's share of a run: a scheduler thread, one connection per device, and who listens to how it goes."""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from simulator.accounts.latency import LatencyHistogram
from simulator.accounts.report import Progress, RunReport
from simulator.devices.link import Link
from simulator.devices.management import Management, status_topic
from simulator.mqtt.connection import Broker
from simulator.mqtt.connection_mqtt311 import Mqtt311Link
from simulator.mqtt.identity import DeviceIdentityLike
from simulator.oracle import Run, open_oracle
from simulator.run.fleet import Fleet
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.endpoint import Endpoint

PROGRESS_SECONDS = 0.5

OnProgress = Callable[[Progress, LatencyHistogram], None]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process is to run: the devices `worker`, `worker + workers` and so on of a fleet."""

    config: SimulatorConfig
    identities: Sequence[DeviceIdentityLike]
    """Of the whole fleet."""
    endpoint: Endpoint
    seq_start: Mapping[str, int] = field(default_factory=dict)
    oracle: Path | None = None
    worker: int = 0
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The account of a share, and what is needed to add it to others."""

    report: RunReport
    latency: LatencyHistogram


class Session:
    """A share that runs. `run` is called once; the other methods may be called from any thread."""

    def __init__(self, share: Share, *, stop: threading.Event, revoke: Callable[[int], None]) -> None:
        """`revoke` is told the index of a device whose certificate is to be revoked, and must not wait."""
        self._share = share
        self._stop = stop
        self._revoke = revoke
        self._may_start = threading.Event()
        self._fleet: Fleet | None = None
        if share.workers == 1:
            self._may_start.set()

    def start_readings(self) -> None:
        """Let the readings begin, now that the other shares are connected as well."""
        self._may_start.set()

    def abort(self) -> None:
        """Disconnect now; what is in flight stays in doubt."""
        if self._fleet:
            self._fleet.abort()

    @property
    def all_answered(self) -> bool:
        """Whether each device has connected or been refused once."""
        return self._fleet is not None and self._fleet.all_answered

    def run(self, listen: Callable[[Fleet, threading.Event], None]) -> Outcome:
        """Run to the end. `listen` is called in the calling thread and stays until the event says that it is over.

        Raises `simulator.run.fleet.NobodyConnectedError`, and `UserError` where the oracle's file cannot be written.
        """
        share, config = self._share, self._share.config
        names = [identity.thing_name for identity in share.identities]
        with without_certificate_bundle(), rare_collections(), ExitStack() as stack:
            recorder = None
            if share.oracle is not None:
                told = Run(seed=config.seed, topic=config.topic)
                recorder = stack.enter_context(open_oracle(share.oracle, thing_names=names, run=told))
            broker = Broker(share.endpoint, topic=config.topic, unthrottled=config.unthrottled)
            self._fleet = fleet = Fleet(
                config,
                names,
                link=partial(_link, broker, share),
                clock=time.monotonic,
                wall_clock=time.time,
                stop=self._stop,
                seq_start=share.seq_start,
                share=(share.worker, share.workers),
                may_start=self._may_start.is_set,
                recorder=recorder,
                management=_managements(config),
                revoke=self._revoke,
            )
            _drive(fleet, listen)
            report = fleet.report()
            if recorder is not None:
                recorder.ran(report.started_at, report.ended_at)
        if recorder is not None and recorder.outcome is not None:
            report = replace(report, oracle_fault=recorder.outcome.fault)
        return Outcome(report=report, latency=fleet.latency)


def _link(broker: Broker, share: Share, fleet: Fleet, index: int) -> Link:
    identity, will = share.identities[index], fleet.will(index)
    if share.config.protocol == "mqtt311":
        return Mqtt311Link(broker, identity, fleet, index, will)
    return broker.link(identity, fleet, index, will)


def _managements(config: SimulatorConfig) -> Callable[[str], Management] | None:
    if not config.managed:
        return None
    return partial(Management, firmware=config.firmware, status_topic=status_topic(config.topic))


def _drive(fleet: Fleet, listen: Callable[[Fleet, threading.Event], None]) -> None:
    """Step the fleet in a thread of its own until it is done, so that nobody who listens delays a reading."""
    outcome: list[BaseException] = []
    over = threading.Event()
    thread = threading.Thread(target=partial(_schedule, fleet, outcome, over), name="simulator", daemon=True)
    thread.start()
    try:
        with suppress(KeyboardInterrupt):
            listen(fleet, over)
    finally:
        fleet.abort()  # which changes nothing when it is over
        thread.join()
    if outcome:
        raise outcome[0]


def _schedule(fleet: Fleet, outcome: list[BaseException], over: threading.Event) -> None:
    try:
        _step_until_done(fleet)
    except Exception as error:
        outcome.append(error)
        fleet.abort()
        _step_until_done(fleet)
    finally:
        over.set()


def _step_until_done(fleet: Fleet) -> None:
    while (pause := fleet.step()) is not None:
        if pause > 0:
            time.sleep(pause)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Have Python look for cyclic garbage seldom: messages make none, and looking costs a tenth of the rate."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def without_certificate_bundle() -> Iterator[None]:
    """Hide SSL_CERT_FILE: every TLS context would parse that whole bundle before its own root CA replaces it."""
    bundle = os.environ.pop("SSL_CERT_FILE", None)
    try:
        yield
    finally:
        if bundle is not None:
            os.environ["SSL_CERT_FILE"] = bundle
