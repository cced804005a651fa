"""Runs a fleet, in this process or in several, and gives an account of every reading at the end."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ops.errors import UserError
from simulator.accounts.report import Progress, RunReport
from simulator.mqtt.diagnosis import check_way, explain_refusal
from simulator.mqtt.identity import DeviceIdentityLike
from simulator.run.fleet import Fleet, NobodyConnectedError
from simulator.run.preflight import check_identities, ensure_descriptors
from simulator.run.session import PROGRESS_SECONDS, Session, Share
from simulator.run.workers import run_shares, worker_count
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.endpoint import Endpoint


def run(
    config: SimulatorConfig,
    identities: Sequence[DeviceIdentityLike],
    endpoint_host: str,
    endpoint_port: int,
    *,
    stop: threading.Event,
    on_progress: Callable[[Progress], None] | None = None,
    seq_start: Mapping[str, int] | None = None,
    oracle: Path | None = None,
    revoke: Callable[[str], None] | None = None,
) -> RunReport:
    """Connect the devices, then let them measure and publish for `config.duration_seconds`, or until `stop` is set.

    Then what is in flight is waited for (30 s at most), and all are disconnected. Sequence numbers begin at
    `seq_start[thing_name]`, or 0. `on_progress` is called twice a second from the calling thread. What became of each
    message goes to the file `oracle`. `revoke` is called, in a thread of its own, with the name of a thing whose
    certificate a behaviour wants revoked; it may take its time.
    A `KeyboardInterrupt` ends the run at once; its report says what is in doubt.

    Raises `UserError`: no devices, a device's files are missing or do not belong together, too few file descriptors,
    no device at all can connect, or a worker process was killed. Where some devices can connect, the run goes on, and
    the report tells of the others.
    """
    if not identities:
        raise UserError("there are no devices to simulate: a fleet has at least 1")
    endpoint = Endpoint(endpoint_host, endpoint_port)
    check_identities(identities)
    workers = worker_count(config.workers, len(identities))
    ensure_descriptors(len(identities), workers)
    check_way(endpoint, identities[0])
    share = Share(
        config=config,
        identities=tuple(identities),
        endpoint=endpoint,
        seq_start=dict(seq_start or {}),
        oracle=oracle,
    )
    with ThreadPoolExecutor(1, thread_name_prefix="revoke") as pool:
        revocations: list[Future[None]] = []

        def revoke_later(index: int) -> None:
            if revoke is not None:
                revocations.append(pool.submit(revoke, identities[index].thing_name))

        try:
            if workers == 1:
                report = Session(share, stop=stop, revoke=revoke_later).run(_shower(on_progress)).report
            else:
                report = run_shares(share, workers, stop=stop, on_progress=on_progress, revoke=revoke_later)
        except NobodyConnectedError as error:
            raise UserError(explain_refusal(endpoint, identities[0], str(error))) from error
    failures = [str(failure) for revocation in revocations if (failure := revocation.exception())]
    return replace(report, first_revocation_failure=failures[0]) if failures else report


def _shower(on_progress: Callable[[Progress], None] | None) -> Callable[[Fleet, threading.Event], None]:
    def listen(fleet: Fleet, over: threading.Event) -> None:
        while not over.wait(PROGRESS_SECONDS):
            if on_progress:
                on_progress(fleet.progress()[0])

    return listen
