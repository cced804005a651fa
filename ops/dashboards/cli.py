"""`fleet dashboards`: import, export, preview, and what Grafana's container needs."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dashboards.reading.model import JSON_FOLDER
from ops.dashboards import transfer
from ops.dashboards.grafana_api import Grafana
from ops.dashboards.preview import preview
from ops.errors import UserError
from ops.paths import ROOT

app = typer.Typer(help="Grafana's dashboards: import, export, preview, container.", no_args_is_help=True)
app.command()(preview)
_console = Console()

Uids = Annotated[list[str] | None, typer.Argument(help="Dashboards, by uid; all of them unless given.")]
Url = Annotated[str, typer.Option("--url", envvar="GRAFANA_URL", show_envvar=True, help="Grafana's address.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file with a service account's token; else it is in GRAFANA_TOKEN."),
]
_URL = "http://127.0.0.1:3000"


@app.command("import")
def import_(
    uids: Uids = None,
    url: Url = _URL,
    folder: Annotated[str, typer.Option(help="Grafana's folder, made where there is none.")] = "Fleetledger",
    token_file: TokenFile = None,
    files: Annotated[Path, typer.Option("--from", help="The folder with their files.")] = JSON_FOLDER,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was changed in Grafana.")] = False,
) -> None:
    """Put the dashboards into a Grafana. One that was changed there stays as it is, unless --overwrite."""
    chosen = transfer.read_files(files, uids or [])
    grafana = Grafana(url, _token(token_file))
    for done in transfer.into(grafana, chosen, folder, overwrite=overwrite):
        _say(done)


@app.command()
def export(
    uids: Uids = None,
    url: Url = _URL,
    folder: Annotated[str, typer.Option(help="Grafana's folder, where no uid is given.")] = "Fleetledger",
    token_file: TokenFile = None,
    to: Annotated[
        Path, typer.Option("--to", help="The folder to write to; git diff shows what differs.")
    ] = JSON_FOLDER,
) -> None:
    """Write dashboards of a Grafana to files, in the form in which they are committed."""
    grafana = Grafana(url, _token(token_file))
    if not uids:
        folder_uid = grafana.folder(folder)
        if folder_uid is None:
            raise UserError(f"Grafana at {grafana.url} has no folder {folder!r}: name another with --folder, or uids")
        uids = grafana.uids(folder_uid)
        if not uids:
            raise UserError(f"Grafana's folder {folder!r} has no dashboards")
    for done in transfer.out_of(grafana, to, uids):
        _say(done)


@app.command()
def container(
    environment: Annotated[str, typer.Option("--env", help="Environment: local, dev, staging or prod.")] = "local",
) -> None:
    """Write what Grafana's container needs to read the database, and print how to start it."""
    from ops.dashboards.container import LOGIN, prepare
    from ops.target import database_secret

    prepared = prepare(database_secret(environment, LOGIN))
    for line in (
        f"docker compose --file {_relative(ROOT / 'dashboards' / 'compose.yaml')} --env-file "
        f"{_relative(prepared.env_file)} up --detach",
        f"{_URL}, user admin, password in {_relative(prepared.admin_password_file)}",
    ):
        _console.print(line, highlight=False, soft_wrap=True, markup=False)


def _token(file: Path | None) -> str:
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file {file} cannot be read ({getattr(error, 'strerror', 'not text')})") from None
        source = f"--token-file {file}"
    else:
        token, source = os.environ.get("GRAFANA_TOKEN", "").strip(), "GRAFANA_TOKEN"
    if not token:
        raise UserError("no token: put a service account's into a file for --token-file, or into GRAFANA_TOKEN")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(f"{source} holds no token: one line, such as glsa_...")
    return token


def _say(done: transfer.Done) -> None:
    _console.print(f"{done.uid:16} {done.what:10} {done.where}", highlight=False, soft_wrap=True, markup=False)


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
