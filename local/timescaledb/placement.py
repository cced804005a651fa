"""Whom the server runs as, and where its files lie.

PostgreSQL refuses to run as root, so root's server runs as `nobody`. What `nobody` must reach (the data, and a copy of
the programs) then lies outside a checkout that only root may enter; a file below the root records where.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.debian.libraries import replace_folder
from local.timescaledb.packages import installed_versions
from ops.errors import UserError

_RECORD = "outside"
_UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Account:
    """The user that PostgreSQL runs as when we are root."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Site:
    """The folders of one local database. `root` is the invoking user's; `home` is what the server can reach."""

    root: Path
    home: Path
    account: Account | None = None

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder; under this name only once it is complete."""
        return self.home / "data"

    @property
    def new_data(self) -> Path:
        """Where initdb works until it is done."""
        return self.home / "data.new"

    @property
    def conf(self) -> Path:
        """The server's settings, rules of access, certificate and key."""
        return self.home / "conf"

    @property
    def port_file(self) -> Path:
        """The port of the last start, taken again by the next so that clients need no new address."""
        return self.root / "port"

    @property
    def log_file(self) -> Path:
        """What the server and initdb print."""
        return self.root / "postgres.log"

    def run_as(self) -> dict[str, Any]:
        """The arguments of subprocess that start a program as the server's user."""
        if self.account is None:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def remove_outside(self) -> None:
        """Remove what was put outside the root, if anything was."""
        if self.home != self.root:
            shutil.rmtree(self.home, ignore_errors=True)
            (self.root / _RECORD).unlink(missing_ok=True)


def find_site(root: Path) -> Site:
    """The site as it was recorded, without making anything."""
    account = _account()
    outside = _recorded(root) if account else None
    return Site(root, outside or root, account)


def prepare_site(root: Path) -> Site:
    """The site to start a server in, its `home` made and reachable.

    Raises UserError when root's database lies where the server's user cannot reach it any more, or when no folder for
    temporary files can be reached by that user.
    """
    site = find_site(root)
    if site.account is None:
        return site
    if site.home == root:
        if _can_enter(root, site):
            return site
        if site.data.exists():
            raise UserError(
                f"The database in {site.data} cannot be reached by the user {_UNPRIVILEGED}, which runs it for root; "
                "let others enter the folders above it (chmod o+x), or remove it to start with an empty one"
            )
        site = Site(root, _choose_outside(root, site), site.account)
        (root / _RECORD).write_text(f"{site.home}\n")
    _make_outside(site.home)
    return site


def reachable_dist(site: Site, dist: Path) -> Path:
    """The programs where the server's user can run them: `dist` itself, or a copy of it in the home."""
    if site.home == site.root and (site.account is None or _can_enter(dist, site)):
        return dist
    copy = site.home / "dist"
    if installed_versions(copy) != installed_versions(dist):
        new = copy.with_name("dist.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(dist, new, symlinks=True)
        replace_folder(new, copy)
    return copy


def write_file(path: Path, text: str, *, private: bool = False, owner: Account | None = None) -> None:
    """Write a whole file or none: 0600 from its first instant when `private`, else readable by all."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    mode = 0o600 if private else 0o644
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(descriptor, mode)
        if owner:
            os.fchown(descriptor, owner.uid, owner.gid)
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    new.replace(path)


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise UserError(
            f"PostgreSQL does not run as root and this machine has no user {_UNPRIVILEGED}; run as an ordinary user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def _can_enter(folder: Path, site: Site) -> bool:
    """Asked as that user rather than computed from modes: access lists and mounts have a say too."""
    asked = subprocess.run(
        ["/bin/sh", "-c", 'test -r "$1" && test -x "$1"', "sh", folder],
        cwd="/",
        stdin=subprocess.DEVNULL,
        check=False,
        **site.run_as(),
    )
    return asked.returncode == 0


def _prefix() -> str:
    return f"fleetledger-{os.geteuid()}-"


def _recorded(root: Path) -> Path | None:
    try:
        outside = Path((root / _RECORD).read_text().strip())
    except FileNotFoundError:
        return None
    return outside if outside.is_absolute() and outside.name.startswith(_prefix()) else None


def _choose_outside(root: Path, site: Site) -> Path:
    name = _prefix() + hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    # TMPDIR may itself be a private folder, as in CI.
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 (made exclusively, owner checked)
        folder = Path(candidate)
        if folder.is_dir() and _can_enter(folder, site) and not os.statvfs(folder).f_flag & os.ST_NOEXEC:
            return folder.resolve() / name
    raise UserError(
        f"The user {_UNPRIVILEGED}, which runs PostgreSQL for root, can reach neither {root} nor a folder for "
        "temporary files; set TMPDIR to a folder that everybody may enter"
    )


def _make_outside(home: Path) -> None:
    """Make the folder, or accept it only as our own: others can make folders in a shared place too."""
    try:
        home.mkdir(mode=0o711)
        home.chmod(0o711)
    except FileExistsError:
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise UserError(f"{home} is in the way and is not ours alone; remove it and try again") from None
