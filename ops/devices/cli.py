"""`fleet devices`: import, list, show and update the registry of devices and sites."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.progress import Progress

from infra.settings import load
from lambdas.shared.contract import METRICS
from ops.devices import registry, view
from ops.devices.fields import DEVICES, SITES, Kind
from ops.devices.files import Entry, read_file
from ops.devices.firmware import start_update
from ops.devices.registry import Changes, Filter
from ops.devices.shadows import reported_by
from ops.devices.things import MIRRORED, Wanted, bring_into_step, thing_state
from ops.errors import UserError
from ops.options import AsJson, Env
from ops.target import using_database
from ops.terminal import print_json, printable

app = typer.Typer(help="The registry of devices and sites: import, list, show, update.", no_args_is_help=True)
_console = Console()
_errors = Console(stderr=True)
_FAULTS_SHOWN = 20

Active = Annotated[bool | None, typer.Option("--active/--inactive", help="In service, or taken out of it.")]
NoIot = Annotated[bool, typer.Option("--no-iot", help="Leave the things of AWS IoT alone.")]
Text = str | None
Chosen = Annotated[list[str] | None, typer.Option("--device", help="Only this one; can be given again.")]
OfSite = Annotated[Text, typer.Option("--site", help="Only those of this site.")]


@app.command("import")
def import_(
    file: Annotated[Path | None, typer.Argument(help="Devices, as .csv or .json.", show_default=False)] = None,
    sites: Annotated[Path | None, typer.Option("--sites", help="Sites, as .csv or .json; they go first.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    no_iot: NoIot = False,
    env: Env = "local",
) -> None:
    """Put devices and sites into the registry, all of a file or nothing. Columns that are left out stay as they are."""
    if file is None and sites is None:
        raise UserError("nothing to import: give a .csv or .json file of devices, or --sites FILE")
    given = [(kind, *_read(path, kind)) for kind, path in ((SITES, sites), (DEVICES, file)) if path is not None]
    if faults := [fault for _, _, found in given for fault in found]:
        _refuse(faults)
    with using_database(env, application_name="fleet devices") as connection:
        changes = _import(connection, [(kind, entries) for kind, entries, _ in given], dry_run=dry_run)
    for kind, found in changes:
        would = " (dry run: nothing was changed)" if dry_run else ""
        _console.print(
            f"{kind.table}: {len(found.new):,} new, {len(found.changed):,} changed, {found.same:,} the same{would}",
            highlight=False,
        )
    if not (dry_run or no_iot):
        _bring_into_step(env, [entry for kind, entries, _ in given if kind is DEVICES for entry in entries])


def _read(path: Path, kind: Kind) -> tuple[list[Entry], list[str]]:
    contents = read_file(path, kind)
    return contents.entries, contents.faults


def _import(
    connection: psycopg.Connection, given: list[tuple[Kind, list[Entry]]], *, dry_run: bool, done_word: str = "imported"
) -> list[tuple[Kind, Changes]]:
    done: list[tuple[Kind, Changes]] = []
    with connection.transaction(force_rollback=dry_run):
        for kind, entries in given:
            changes = registry.import_entries(connection, kind, entries)
            if changes.faults:
                _refuse(changes.faults, done_word)
            done.append((kind, changes))
    return done


def _refuse(faults: Any, done_word: str = "imported") -> None:
    """Raises UserError; of several faults each has been printed on a line of its own."""
    if len(faults) == 1:
        raise UserError(f"{faults[0]}; nothing was {done_word}")
    for fault in faults[:_FAULTS_SHOWN]:
        _errors.print(printable(fault), soft_wrap=True)
    shown = f" (the first {_FAULTS_SHOWN} are above)" if len(faults) > _FAULTS_SHOWN else ""
    raise UserError(f"{len(faults):,} faults{shown}: nothing was {done_word}")


def _bring_into_step(env: str, entries: list[Entry]) -> None:
    wanted: Wanted = {
        entry.values[DEVICES.key]: attributes
        for entry in entries
        if (attributes := {name: entry.values[name] for name in MIRRORED if name in entry.values})
    }
    if wanted:
        _console.print(f"things: {bring_into_step(env, wanted)}", highlight=False)


@app.command("list")
def list_devices(
    site: OfSite = None,
    active: Active = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only those in service that are silent, or were never heard of.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many in the table; --json and --csv have all.")] = 100,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, as fleet devices import takes it.")] = False,
    env: Env = "local",
) -> None:
    """List devices: where they belong, and when they were last heard of."""
    if as_json and as_csv:
        raise UserError("--json and --csv: give one of them")
    if offline and active is False:
        raise UserError("--offline and --inactive: a device that is out of service is expected to be silent")
    chosen = Filter(site, True if offline else active, offline, load(env).offline_after_minutes)
    with using_database(env, application_name="fleet devices") as connection:
        if site is not None and not registry.has_site(connection, site):
            raise UserError(f"--site {site}: there is no such site; fleet devices sites lists them")
        rows = registry.listed(connection, chosen)
    if as_json:
        print_json([registry.as_json(row, view.JSON_COLUMNS) for row in rows])
    elif as_csv:
        typer.echo(view.as_csv(rows), nl=False)
    elif rows:
        _console.print(view.device_table(rows[:limit]))
        more = (
            f"{limit:,} of {len(rows):,} shown; --limit shows more" if len(rows) > limit else f"{len(rows):,} devices"
        )
        _console.print(more, highlight=False)
    else:
        _console.print("no devices", highlight=False)


@app.command("sites")
def list_sites(as_json: AsJson = False, env: Env = "local") -> None:
    """List sites, and how many devices each has."""
    with using_database(env, application_name="fleet devices") as connection:
        rows = registry.sites(connection)
    if as_json:
        print_json([registry.as_json(row, row) for row in rows])
    else:
        _console.print(view.site_table(rows) if rows else "no sites")


@app.command()
def show(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Name of the thing.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only this one; can be given again.")] = None,
    no_iot: NoIot = False,
    as_json: AsJson = False,
    env: Env = "local",
) -> None:
    """Show what is known of a device: registry, newest values, today's counts, and its thing in AWS IoT."""
    known = [each.name for each in METRICS]
    for name in metric or ():
        if name not in known:
            raise UserError(f"--metric {name}: there is no such metric: use {', '.join(known)}")
    with using_database(env, application_name="fleet devices") as connection:
        row = _one(connection, env, device)
        reading = registry.latest(connection, device)
        metrics = registry.metrics(connection, device)
        day = registry.today(connection, device)
    shadow = None
    try:
        state = None if no_iot else thing_state(env, device)
        thing = "not asked" if no_iot else view.thing_line(row, state)
        shadow = asdict(state.reported) if state and state.reported else None
    except UserError as error:
        thing = f"not known: {error}"
    if as_json:
        print_json(
            registry.as_json(row, view.JSON_COLUMNS)
            | {"latest": registry.as_json(reading, reading) if reading else None, "metrics": metrics, "today": day}
            | {"thing": thing, "shadow": shadow}
        )
        return
    _console.print(printable(device), style="bold")
    for name, value in [*view.facts(row, reading, day), ("AWS IoT thing", thing)]:
        _console.print(printable(f"{name + ':':<16}{value}"), soft_wrap=True)
    _console.print(view.latest_table(row["now"], reading, metrics, metric or known))


def _one(connection: psycopg.Connection, env: str, device: str) -> dict[str, Any]:
    rows = registry.listed(connection, Filter(offline_after_minutes=load(env).offline_after_minutes), device)
    if not rows:
        raise UserError(f"there is no device {device} in {env}: fleet devices list shows those that there are")
    return rows[0]


@app.command()
def update(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Name of the thing.")],
    name: Annotated[Text, typer.Option(help="What people call it.")] = None,
    site: Annotated[Text, typer.Option("--site", help="Site that it stands at.")] = None,
    customer: Annotated[Text, typer.Option(help="Customer.")] = None,
    project: Annotated[Text, typer.Option(help="Project.")] = None,
    device_type: Annotated[Text, typer.Option("--type", help="Type, by which plausible ranges are chosen.")] = None,
    location: Annotated[Text, typer.Option(help="Where it is; also an attribute of the thing.")] = None,
    latitude: Annotated[Text, typer.Option(help="Decimal degrees.")] = None,
    longitude: Annotated[Text, typer.Option(help="Decimal degrees.")] = None,
    firmware: Annotated[Text, typer.Option(help="Version; also an attribute of the thing.")] = None,
    interval: Annotated[
        Text, typer.Option("--interval", metavar="SECONDS", help="Time between two readings, in seconds.")
    ] = None,
    active: Active = None,
    no_iot: NoIot = False,
    env: Env = "local",
) -> None:
    """Change what the registry says of a device. An empty text, as in --site "", takes a value away."""
    options = {
        "name": ("--name", name),
        "site_id": ("--site", site),
        "customer": ("--customer", customer),
        "project": ("--project", project),
        "device_type": ("--type", device_type),
        "location": ("--location", location),
        "latitude": ("--latitude", latitude),
        "longitude": ("--longitude", longitude),
        "firmware": ("--firmware", firmware),
        "reading_interval_seconds": ("--interval", interval),
        "active": ("--active", active),
    }
    values: dict[str, Any] = {DEVICES.key: device}
    for column, (option, value) in options.items():
        if value is not None:
            try:
                values[column] = DEVICES.read(column, value)
            except ValueError as error:
                raise UserError(f"{option} is {json.dumps(value)}: {error}") from None
    if len(values) == 1:
        raise UserError(f"nothing to change: give one of {', '.join(option for option, _ in options.values())}")
    entry = Entry(device, values)
    with using_database(env, application_name="fleet devices") as connection:
        _one(connection, env, device)
        if (site_id := values.get("site_id")) is not None and not registry.has_site(connection, site_id):
            raise UserError(f"--site {site_id}: there is no such site; fleet devices sites lists them")
        ((_, changes),) = _import(connection, [(DEVICES, [entry])], dry_run=False, done_word="changed")
    _console.print(f"{device}: {'changed' if changes.changed else 'the same as before'}", highlight=False)
    if not no_iot:
        _bring_into_step(env, [entry])


@app.command()
def sync(device: Chosen = None, site: OfSite = None, env: Env = "local") -> None:
    """Take the firmware that devices report in their shadows into the registry, and into the things' attributes."""
    with using_database(env, application_name="fleet devices") as connection:
        names = _in_service(connection, env, device or [], site)
        with Progress(console=_errors, transient=True) as bar:
            task = bar.add_task("shadows", total=len(names))
            found = reported_by(env, names, lambda done, _: bar.update(task, completed=done))
        entries = [
            Entry(name, {DEVICES.key: name, "firmware": each.firmware}) for name, each in found.items() if each.firmware
        ]
        ((_, changes),) = _import(connection, [(DEVICES, entries)], dry_run=False, done_word="changed")
    _console.print(
        f"firmware: {len(changes.changed):,} changed, {changes.same:,} the same, "
        f"{len(names) - len(entries):,} devices have reported none",
        highlight=False,
    )
    _bring_into_step(env, entries)


@app.command()
def firmware(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="What they are to run, such as 2.1.0.")],
    device: Chosen = None,
    site: OfSite = None,
    per_minute: Annotated[
        int, typer.Option("--per-minute", min=1, max=1000, help="At most so many devices are told in a minute.")
    ] = 50,
    env: Env = "local",
) -> None:
    """Have devices update their firmware, by an IoT Job that stops when a fifth of them fail."""
    if not device and site is None:
        raise UserError("which devices? Give --device NAME, which can be given again, or --site SITE")
    with using_database(env, application_name="fleet devices") as connection:
        names = _in_service(connection, env, device or [], site)
    started = start_update(env, version, names, per_minute=per_minute)
    _console.print(
        f"{started}: {len(names):,} device{'' if len(names) == 1 else 's'}, {per_minute:,} a minute; "
        f"aws iot list-job-executions-for-job --job-id {started} shows how they fare, fleet devices sync takes it over",
        highlight=False,
        soft_wrap=True,
    )


def _in_service(connection: psycopg.Connection, env: str, names: list[str], site: str | None) -> list[str]:
    """Devices in service, of the site if one is given, and of those names if any are."""
    if site is not None and not registry.has_site(connection, site):
        raise UserError(f"--site {site}: there is no such site; fleet devices sites lists them")
    chosen = Filter(site, active=True, offline_after_minutes=load(env).offline_after_minutes)
    found = [row["device_id"] for row in registry.listed(connection, chosen)]
    if unknown := [name for name in names if name not in set(found)]:
        raise UserError(f"--device {unknown[0]}: there is no such device in service; fleet devices list shows them")
    return [name for name in found if name in set(names)] if names else found
