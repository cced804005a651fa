"""Runs a fleet: one scheduler thread, one connection per device, an account of every reading at the end."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from ops.errors import UserError
from simulator.config import SimulatorConfig
from simulator.connection import Broker, MqttLink
from simulator.diagnosis import check_way, explain_refusal
from simulator.endpoint import Endpoint
from simulator.fleet import Fleet, NobodyConnectedError
from simulator.identity import DeviceIdentityLike
from simulator.preflight import check_identities, ensure_descriptors
from simulator.report import Progress, RunReport

PROGRESS_SECONDS = 0.5


def run(
    config: SimulatorConfig,
    identities: Sequence[DeviceIdentityLike],
    endpoint_host: str,
    endpoint_port: int,
    *,
    stop: threading.Event,
    on_progress: Callable[[Progress], None] | None = None,
    seq_start: Mapping[str, int] | None = None,
) -> RunReport:
    """Connect the devices, then let them measure and publish for `config.duration_seconds`, or until `stop` is set.

    Then what is in flight is waited for (30 s at most), and all are disconnected. Sequence numbers begin at
    `seq_start[thing_name]`, or 0. `on_progress` is called twice a second from the calling thread.
    A `KeyboardInterrupt` ends the run at once; its report says what is in doubt.

    Raises `UserError`: no devices, a device's files are missing or do not belong together, too few file descriptors,
    or no device at all can connect. Where some can, the run goes on, and the report tells of the others.
    """
    if not identities:
        raise UserError("there are no devices to simulate: a fleet has at least 1")
    endpoint = Endpoint(endpoint_host, endpoint_port)
    check_identities(identities)
    ensure_descriptors(len(identities))
    check_way(endpoint, identities[0])
    with _without_certificate_bundle():
        broker = Broker(endpoint, topic=config.topic, unthrottled=config.unthrottled)

        def link(fleet: Fleet, index: int) -> MqttLink:
            return broker.link(identities[index], fleet, index)

        fleet = Fleet(
            config,
            [identity.thing_name for identity in identities],
            link=link,
            clock=time.monotonic,
            wall_clock=time.time,
            stop=stop,
            seq_start=seq_start or {},
        )
        try:
            _drive(fleet, on_progress)
        except NobodyConnectedError as error:
            raise UserError(explain_refusal(endpoint, identities[0], str(error))) from error
        return fleet.report()


def _drive(fleet: Fleet, on_progress: Callable[[Progress], None] | None) -> None:
    """Step the fleet in a thread of its own until it is done, so that showing progress never delays a reading."""
    outcome: list[BaseException] = []
    over = threading.Event()
    thread = threading.Thread(target=partial(_schedule, fleet, outcome, over), name="simulator", daemon=True)
    thread.start()
    try:
        with suppress(KeyboardInterrupt):
            while not over.wait(PROGRESS_SECONDS):
                if on_progress:
                    on_progress(fleet.progress())
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
def _without_certificate_bundle() -> Iterator[None]:
    """Hide SSL_CERT_FILE: every TLS context would parse that whole bundle before its own root CA replaces it."""
    bundle = os.environ.pop("SSL_CERT_FILE", None)
    try:
        yield
    finally:
        if bundle is not None:
            os.environ["SSL_CERT_FILE"] = bundle
