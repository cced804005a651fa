"""Dashboards from this checkout into a Grafana, and back."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.canonical import canonical
from ops.dashboards.grafana_api import Grafana, Held, VersionConflictError
from ops.errors import UserError

_UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""https://grafana.com/docs/grafana/latest/developers/http_api/dashboard/#identifier-id-vs-unique-identifier-uid"""


@dataclass(frozen=True)
class Done:
    """What became of one dashboard."""

    uid: str
    what: str
    """`new`, `replaced`, `the same`; of a file also `written`."""
    where: str


def read_files(folder: Path, uids: Sequence[str]) -> list[dict[str, Any]]:
    """The dashboards of a folder, or those of them that are named. Raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    paths = sorted(folder.glob("*.json"))
    if missing := sorted(set(uids) - {path.stem for path in paths}):
        known = ", ".join(path.stem for path in paths) or "none"
        raise UserError(f"{missing[0]} is not in {folder}; there is: {known}")
    wanted = [path for path in paths if not uids or path.stem in uids]
    if not wanted:
        raise UserError(f"{folder} has no dashboards")
    return [_read(path) for path in wanted]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("uid") != path.stem:
        raise UserError(f"{path}: its uid must be {path.stem}, as the file is named")
    return found


def into(grafana: Grafana, files: Sequence[dict[str, Any]], folder: str, *, overwrite: bool) -> Iterator[Done]:
    """Puts dashboards into a folder of Grafana, one after another, those that are there already in place.

    Raises UserError for one that Grafana holds otherwise, unless `overwrite`; what came before it is done.
    """
    folder_uid = grafana.folder(folder) or grafana.make_folder(folder)
    for file in files:
        held = grafana.read(file["uid"])
        if held is not None and held.folder_uid == folder_uid and canonical(held.dashboard) == canonical(file):
            yield Done(file["uid"], "the same", folder)
            continue
        if held is not None and canonical(held.dashboard) != canonical(file) and not overwrite:
            raise _changed(held, file["uid"])
        yield _save(grafana, file, held, folder_uid, overwrite=overwrite)


def _save(grafana: Grafana, file: dict[str, Any], held: Held | None, folder_uid: str, *, overwrite: bool) -> Done:
    uid = file["uid"]
    what = "new" if held is None else "replaced"
    try:
        where = grafana.save(
            file, version=held.version if held else 0, folder_uid=folder_uid, overwrite=overwrite and held is not None
        )
    except VersionConflictError as conflict:
        # It may be ours: the answer to a first attempt was lost, and the second met what the first had stored.
        now = grafana.read(uid)
        if now is not None and canonical(now.dashboard) == canonical(file):
            return Done(uid, what, grafana.url)
        if now is None:
            raise UserError(f"Grafana refuses {uid} ({conflict}): another dashboard stands in its way") from None
        raise _changed(now, uid) from None
    return Done(uid, what, where)


def _changed(held: Held, uid: str) -> UserError:
    return UserError(
        f"{uid} is another in Grafana: version {held.version}, by {held.changed_by}, {held.changed_at}. "
        "fleet dashboards export shows what differs; import --overwrite replaces it"
    )


def out_of(grafana: Grafana, folder: Path, uids: Sequence[str]) -> Iterator[Done]:
    """Writes dashboards of Grafana to files, in the form in which they are committed.

    Raises UserError for one that Grafana does not have; what came before it is written.
    """
    for uid in uids:
        if not _UID.fullmatch(uid):
            raise UserError(f"{uid!r} is no uid of a dashboard: letters, digits, - and _, at most 40")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror})") from None
    for uid in uids:
        held = grafana.read(uid)
        if held is None:
            raise UserError(f"Grafana at {grafana.url} has no dashboard {uid}")
        path, text = folder / f"{uid}.json", canonical(held.dashboard)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            yield Done(uid, "the same", str(path))
            continue
        try:
            staging = path.with_suffix(".new")
            staging.write_text(text, encoding="utf-8")
            staging.replace(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None
        yield Done(uid, "written", str(path))
