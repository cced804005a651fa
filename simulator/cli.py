"""`fleet simulate`."""

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infra.settings import load
from ops.errors import UserError
from simulator.accounts.report import RunReport
from simulator.console import print_scenarios, print_totals, progress_on
from simulator.mqtt.identity import DeviceIdentityLike
from simulator.scenario.config import SimulatorConfig
from simulator.scenario.loading import load_config
from simulator.scenario.placement import revoked_things
from simulator.scenario.ready_made import ready_made, scenario_file

if TYPE_CHECKING:
    from simulator.revocation import Revocation

_DEFAULT = SimulatorConfig()


def simulate(
    device_count: Annotated[
        int | None, typer.Option("--device-count", help=f"Number of devices. (default: {_DEFAULT.device_count})")
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option("--interval", help=f"Seconds between readings. (default: {_DEFAULT.interval_seconds:g})"),
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Seconds to run. (default: until Ctrl-C)")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help=f"Readings per message at most. (default: {_DEFAULT.batch})")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help=f"Same seed, same signals and behaviours. (default: {_DEFAULT.seed})")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="TIME", help="Time of the first reading, so that two runs are the same bytes."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "--scenario",
            metavar="FILE|NAME",
            help="A YAML file (see docs/simulator.md), or the name of a ready-made scenario.",
        ),
    ] = None,
    list_scenarios: Annotated[
        bool, typer.Option("--list-scenarios", help="Show the ready-made scenarios, and do nothing else.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", "--mqtt-broker", metavar="HOST:PORT", help="The broker. (default: the running local stack's)"
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option("--topic", help="The thing's name is appended. (default: the rule's, through Basic Ingest)"),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help=f"Of the things' names. (default: {_DEFAULT.prefix})")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Identities from this folder, as they are. (default: the environment's own)"),
    ] = None,
    env: Annotated[str, typer.Option("--env", help="Environment that the devices belong to.")] = "local",
    unthrottled: Annotated[
        bool, typer.Option("--unthrottled", help="Leave AWS's limits per connection aside.")
    ] = False,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help=f"mqtt5 or mqtt311. (default: {_DEFAULT.protocol})")
    ] = None,
    managed: Annotated[
        bool, typer.Option("--managed", help="Devices have a shadow and a last will, and take jobs.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that share the devices. (default: as many as help)")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the totals.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the account of the run to this file.")
    ] = None,
    oracle: Annotated[
        Path | None,
        typer.Option("--oracle", metavar="FILE", help="Write each reading and its outcome to this Parquet file."),
    ] = None,
) -> None:
    """Simulate a fleet of devices: an identity, a mutual TLS connection and plausible readings each.

    Ends after --duration or at Ctrl-C, when what is in flight has been acknowledged; a second Ctrl-C ends it at once.
    The exit status is 0 if every reading was acknowledged that the scenario did not lose on purpose, 1 if not, and 2 if
    the run could not begin.
    """
    if list_scenarios:
        print_scenarios(Console(), ready_made())
        return
    settings = load_config(
        None if config is None else scenario_file(config),
        options={
            "device_count": device_count,
            "interval_seconds": interval,
            "duration_seconds": duration,
            "batch": batch,
            "seed": seed,
            "endpoint": endpoint,
            "topic": topic,
            "prefix": prefix,
            "unthrottled": unthrottled or None,
            "start": start,
            "protocol": protocol,
            "managed": managed or None,
            "workers": workers,
        },
        topic=load(env).names.basic_ingest_topic,
    )
    json_file, oracle = _checked_files(json_file, oracle)
    from simulator.run.engine import run
    from simulator.run.preflight import ensure_descriptors
    from simulator.run.workers import worker_count

    # Before any device is registered, which takes its time.
    ensure_descriptors(settings.device_count, worker_count(settings.workers, settings.device_count))
    console = Console(stderr=True, quiet=quiet)
    host, port = _endpoint(settings, env)
    revoke = _revocation(settings, env, store)
    identities = _identities(settings, env, store, console)
    stop = threading.Event()
    with _stop_on_signals(stop), progress_on(console) as show:
        report = run(settings, identities, host, port, stop=stop, on_progress=show, oracle=oracle, revoke=revoke)
    print_totals(Console(), report, oracle)
    if report.oracle_fault is not None:
        Console(stderr=True).print(report.oracle_fault, style="red", highlight=False, soft_wrap=True, markup=False)
    if json_file is not None:
        _write_json(json_file, report)
    raise typer.Exit(0 if report.complete and report.oracle_fault is None else 1)


def _endpoint(settings: SimulatorConfig, env: str) -> tuple[str, int]:
    if settings.endpoint is not None:
        return settings.endpoint.host, settings.endpoint.port
    from ops.target import mqtt_endpoint

    return mqtt_endpoint(env)


def _revocation(settings: SimulatorConfig, env: str, store: Path | None) -> "Revocation | None":
    """Who revokes certificates, if the scenario does, after letting in again what its last run has shut out."""
    things = revoked_things(settings)
    if not things:
        return None
    from simulator.revocation import revocation

    revoke = revocation(env, store)
    revoke.restore(things)
    return revoke


def _identities(
    settings: SimulatorConfig, env: str, store: Path | None, console: Console
) -> Sequence[DeviceIdentityLike]:
    if store is not None:
        return _stored_identities(settings, store)
    from ops.target import ensure_devices

    with console.status("registering devices") as status:
        return ensure_devices(
            env,
            settings.thing_names(),
            progress=lambda done, total: status.update(f"registering devices: {done} of {total}"),
        )


def _stored_identities(settings: SimulatorConfig, store: Path) -> Sequence[DeviceIdentityLike]:
    from certs.store import IdentityStore

    identities, names = IdentityStore(store), settings.thing_names()
    here = set(identities.things())
    missing = [name for name in names if name not in here]
    if not missing or len(missing) == len(names):
        return [identities.identity(name) for name in names]
    wanted = " ".join(missing) if settings.groups else f"--device-count {len(names)} --prefix {settings.prefix}"
    raise UserError(
        f"{store} has certificates for {len(names) - len(missing)} of these {len(names)} devices, and none for "
        f"{missing[0]}: use fewer devices, or make more with `fleet certs issue {wanted} --store {store}` and "
        "`fleet certs register` with the same"
    )


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop`; the next one interrupts."""

    def handle(_: int, __: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _checked_files(json_file: Path | None, oracle: Path | None) -> tuple[Path | None, Path | None]:
    """The files to write, where links lead. Tells before the run, not after it. Raises `UserError`."""
    json_file = None if json_file is None else _checked_file("--json", json_file)
    oracle = None if oracle is None else _checked_file("--oracle", oracle)
    if json_file is not None and json_file == oracle:
        raise UserError(f"--json and --oracle are both {oracle}: name two files")
    return json_file, oracle


def _checked_file(option: str, named: Path) -> Path:
    if named.is_dir():
        raise UserError(f"{option} {named}: is a folder: name a file")
    if named.exists() and not named.is_file():  # what is put in the place of a device would destroy it
        raise UserError(f"{option} {named}: is no regular file: name one")
    file = named.resolve()
    try:
        _beside(file).touch()
        _beside(file).unlink()
    except OSError as error:
        raise UserError(f"{option} {named}: cannot be written: {error.strerror}") from error
    return file


def _write_json(file: Path, report: RunReport) -> None:
    """Write it whole or not at all. Raises `UserError`."""
    try:
        _beside(file).write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
        _beside(file).replace(file)
    except OSError as error:
        with suppress(OSError):
            _beside(file).unlink(missing_ok=True)
        raise UserError(
            f"--json {file}: could not be written: {error.strerror}: what the run has sent stands above, and nowhere else"
        ) from error


def _beside(file: Path) -> Path:
    return file.with_name(f".{file.name}.part")
