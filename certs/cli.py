"""`fleet certs`: issue, register, list, check and unregister device identities."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from certs import pem
from certs.names import thing_names
from certs.store import DEFAULT_VALIDITY_DAYS, IdentityStore
from certs.store import Progress as OnProgress
from ops.errors import UserError

app = typer.Typer(
    help="Device identities: a CA of your own, a certificate per device, and their registration with AWS IoT Core.",
    no_args_is_help=True,
)

LOCAL = "local"

Things = Annotated[
    list[str] | None, typer.Argument(help="Thing names, instead of --device-count and --prefix.", show_default=False)
]
DeviceCount = Annotated[int, typer.Option("--device-count", "-n", help="How many devices.")]
Selected = Annotated[
    int | None, typer.Option("--device-count", "-n", help="How many devices; all of the store if not given.")
]
Prefix = Annotated[str, typer.Option(help="What the thing names begin with.")]
Store = Annotated[
    Path | None, typer.Option("--store", help="The identity store's folder; that of the environment if not given.")
]
Env = Annotated[str, typer.Option("--env", help="The environment: local, dev, staging or prod.")]
Concurrency = Annotated[int, typer.Option(help="How many devices at a time.")]


@app.command()
def issue(
    things: Things = None,
    device_count: DeviceCount = 50,
    prefix: Prefix = "device-",
    store: Store = None,
    env: Env = LOCAL,
    validity_days: Annotated[int, typer.Option(help="How long new certificates are valid.")] = DEFAULT_VALIDITY_DAYS,
) -> None:
    """Issue a key and certificate to each device that has none, or whose own has expired. Nothing is sent to AWS."""
    identities, names = _store(store, env), things or thing_names(device_count, prefix)
    with _progress("issuing") as progress:
        issued = identities.ensure(names, progress, validity_days=validity_days)
    typer.echo(f"issued {len(issued)}, kept {len(names) - len(issued)} in {identities.root}")


@app.command()
def register(
    things: Things = None,
    device_count: DeviceCount = 50,
    prefix: Prefix = "device-",
    store: Store = None,
    env: Env = LOCAL,
    concurrency: Concurrency = 8,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Shut out certificates of another CA that the things have now.")
    ] = False,
) -> None:
    """Issue what is missing and let the devices into AWS IoT Core. Safe to repeat, and after an interruption."""
    from certs import endpoint, registration
    from certs.registry import client_config
    from infra import settings
    from ops.aws import session_for

    identities, names = _store(store, env), things or thing_names(device_count, prefix)
    deployed = settings.load(env).names
    client = session_for(env).client("iot", config=client_config(concurrency))
    if env != LOCAL:  # the emulator has a root CA of its own, which `fleet up` writes
        endpoint.write_trust_anchor(identities, endpoint.amazon_root_cas())
    identities.ensure(names)
    with _progress("registering") as progress:
        report = registration.register(
            client,
            identities,
            names,
            thing_type=deployed.thing_type,
            policy_name=deployed.device_policy,
            concurrency=concurrency,
            progress=progress,
            take_over=take_over,
        )
    typer.echo(
        f"registered in {env}: {len(report.created)} created, {len(report.existing)} as they were,"
        f" {len(report.repaired)} repaired"
    )
    # Of those that were as they were, somebody may have taken one out of service by other means, and meant it.
    _tell_registry(env, [*report.created, *report.repaired], active=True)


@app.command("list")
def list_identities(
    things: Things = None,
    device_count: Selected = None,
    prefix: Prefix = "device-",
    store: Store = None,
    env: Env = LOCAL,
) -> None:
    """Show each device's certificate: its id in AWS IoT, until when it is valid, and whether it is good."""
    identities = _store(store, env)
    table = Table("thing", "certificate id", "valid until (UTC)", "state")
    for name in _selection(identities, things, device_count, prefix):
        finding = identities.examine(name)
        try:
            certificate = pem.read_certificate(identities.certificate_file(name))
            shown = (pem.certificate_id(certificate)[:16], f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M}")
        except UserError:
            shown = ("-", "-")
        table.add_row(name, *shown, finding.fault.value if finding else "good")
    Console().print(table)


@app.command()
def check(
    things: Things = None,
    device_count: Selected = None,
    prefix: Prefix = "device-",
    store: Store = None,
    env: Env = LOCAL,
) -> None:
    """Check every certificate and key of the store; one line for each that would keep its device out, and exit 2."""
    identities = _store(store, env)
    names = _selection(identities, things, device_count, prefix)
    findings = [finding for finding in map(identities.examine, names) if finding is not None]
    for finding in findings:
        typer.echo(finding.line, err=True)
    typer.echo(f"{len(names) - len(findings)} of {len(names)} identities in {identities.root} are good")
    if findings:
        raise typer.Exit(2)


@app.command()
def unregister(
    things: Things = None,
    device_count: DeviceCount = 50,
    prefix: Prefix = "device-",
    store: Store = None,
    env: Env = LOCAL,
    concurrency: Concurrency = 8,
    discard_keys: Annotated[
        bool, typer.Option("--discard-keys", help="Also delete the devices' certificates and keys from the store.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Shut devices out of AWS IoT Core and delete their things and certificates there."""
    from certs import registration
    from certs.registry import client_config
    from infra import settings
    from ops.aws import session_for

    identities, names = _store(store, env), things or thing_names(device_count, prefix)
    deployed = settings.load(env).names
    if not yes:
        shown = names[0] if len(names) == 1 else f"{len(names)} things, {names[0]} to {names[-1]},"
        typer.confirm(f"Delete {shown} from AWS IoT Core of {env}?", abort=True)
    client = session_for(env).client("iot", config=client_config(concurrency))
    with _progress("unregistering") as progress:
        report = registration.unregister(
            client, identities, names, thing_type=deployed.thing_type, concurrency=concurrency, progress=progress
        )
    for name in names if discard_keys else ():
        identities.discard(name)
    typer.echo(f"unregistered in {env}: {len(report.removed)} removed, {len(report.absent)} were not there")
    _tell_registry(env, names, active=False)


def _tell_registry(env: str, names: Sequence[str], *, active: bool) -> None:
    """Says in the registry whether the devices are in service, where its database is reachable; else how to do it later."""
    from ops.devices.service import set_active

    if not names:
        return
    done = "in service again" if active else "out of service"
    try:
        changed = set_active(env, names, active=active)
    except UserError as error:
        option = "--active" if active else "--inactive"
        env_option = "" if env == LOCAL else f" --env {env}"
        which = names[0] if len(names) == 1 else "THING"
        typer.echo(
            f"the registry does not know ({error}): later, for each, fleet devices update {which} {option}{env_option}",
            err=True,
        )
        return
    if changed:
        typer.echo(f"{changed} {done} in the registry")


def _store(folder: Path | None, env: str) -> IdentityStore:
    if folder is None:
        from ops.paths import identity_store

        folder = identity_store(env)
    return IdentityStore(folder)


def _selection(identities: IdentityStore, things: list[str] | None, device_count: int | None, prefix: str) -> list[str]:
    identities.ca_certificate()  # of a store that is not there, nothing is good
    if things:
        return things
    return identities.things() if device_count is None else thing_names(device_count, prefix)


@contextmanager
def _progress(verb: str) -> Iterator[OnProgress]:
    """A bar on standard error, gone when the work is done; nothing where that is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
