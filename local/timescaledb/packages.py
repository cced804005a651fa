"""PostgreSQL and TimescaleDB from Debian's packages, unpacked into a folder: no root, no Docker, any Debian release.

The programs run on an older host because they bring their own C library: each is started through the loader of that
library by a small shell script of the same name.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from local.debian import apt
from local.debian.apt import SUITE, Package, PrivateApt
from local.debian.libraries import libraries_of, loader_in, replace_folder
from local.timescaledb.locking import exclusive, os_errors_for_users
from ops.errors import UserError

POSTGRES_VERSION = "17"
PACKAGES = (
    f"postgresql-{POSTGRES_VERSION}",
    f"postgresql-{POSTGRES_VERSION}-timescaledb",
    f"postgresql-client-{POSTGRES_VERSION}",
)
PROGRAMS = ("postgres", "initdb", "psql", "pg_dump", "pg_restore", "createdb", "pg_basebackup", "pg_isready")

_LAYOUT = 1  # raise it when an installation made by older code no longer fits
_STAMP = "installed.json"
# Not needed to run a server with jit off: the compiler, the solver behind it, Perl, and what sets up a host.
_SKIPPED = ("libllvm", "libz3-", "libperl", "libc-", "libsemanage", "libsepol")
# PostgreSQL finds its share and library folders relative to a program in lib/postgresql/17/bin, so that path stays.
_POSTGRES_HOME = Path("usr/lib/postgresql") / POSTGRES_VERSION
_SHARE = Path("usr/share/postgresql") / POSTGRES_VERSION
# OPENSSL_CONF: the host's openssl.cnf may name modules built for another OpenSSL.
_WRAPPER = """\
#!/bin/sh
self=$(readlink -f "$0")
real=${{self%/*}}/../real/{program}
lib=${{self%/*}}/../../../../../lib
OPENSSL_CONF=/dev/null
export OPENSSL_CONF
exec "$lib/{loader}" --inhibit-cache --argv0 "$self" --library-path "$lib" "$real" "$@"
"""

Progress = Callable[[str], None]


class PackagesUnavailable(UserError):  # noqa: N818 - like UserError, it is named for who reads it
    """Debian's packages cannot be had on this machine; the message names the other ways to a database."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"TimescaleDB cannot be had from Debian's packages here ({reason}); give a database of your own in "
            "FLEET_DATABASE_URL, or use Docker with `--database docker`, or run on a Debian host with a Debian mirror"
        )


def install(root: Path, progress: Progress) -> Path:
    """Make `<root>/dist` with `bin/psql` and its like, and return it; at once when it is already there.

    It is built beside its place and renamed, so a half-made one is never found: an interrupted run starts over.
    Raises PackagesUnavailable when this machine cannot have the packages, UserError when `root` cannot be written.
    """
    dist = root.resolve() / "dist"
    if is_installed(dist):
        return dist
    with exclusive(dist.with_name("dist.lock")), os_errors_for_users(dist.parent):
        if is_installed(dist):  # by the run that we waited for
            return dist
        for left in dist.parent.glob("dist.new-*"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        # A name of its own: an apt-get that outlived such a run may still write to the old one.
        work = Path(tempfile.mkdtemp(prefix="dist.new-", dir=dist.parent))
        try:
            _build(work, progress)
            replace_folder(work / "dist", dist)
        except apt.PackagesUnavailable as error:
            raise PackagesUnavailable(error.reason) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return dist


def is_installed(dist: Path) -> bool:
    """Whether `dist` is a complete installation that this code can use."""
    return installed_versions(dist) is not None


def installed_versions(dist: Path) -> dict[str, str] | None:
    """Version by package name, or None when `dist` is absent or of another layout."""
    try:
        stamp = json.loads((dist / _STAMP).read_text())
    except (OSError, ValueError):
        return None
    return dict(stamp["packages"]) if stamp.get("layout") == _LAYOUT else None


def is_needed(name: str) -> bool:
    """Whether a package of the closure may hold something that the programs load."""
    if name in PACKAGES or name == "zlib1g":
        return True
    return name.startswith("lib") and not name.startswith(_SKIPPED) and not name.endswith("-perl")


def _build(work: Path, progress: Progress) -> None:
    progress(f"asking the Debian mirror for the packages of {SUITE}")
    (work / "apt").mkdir()
    source = PrivateApt.prepare(work / "apt")
    packages = [package for package in source.closure(PACKAGES) if is_needed(package.name)]
    megabytes = sum(package.download_bytes for package in packages) / 1e6
    progress(
        f"downloading PostgreSQL and TimescaleDB, {megabytes:.0f} MB from {urlsplit(source.mirror).hostname or SUITE}"
    )
    source.download([package.name for package in packages], into=work / "unpacked")
    _assemble(work / "unpacked", work / "dist")
    _stamp(work / "dist", packages)


def _assemble(unpacked: Path, dist: Path) -> None:
    """Keep the programs, the server's modules, its share folder, and exactly the libraries that these load."""
    loader = loader_in(unpacked)
    home = unpacked / _POSTGRES_HOME
    programs = [home / "bin" / name for name in PROGRAMS]
    needed = {loader.name: loader}
    for program in programs:
        libraries = libraries_of(loader, program)
        if libraries is None:
            raise apt.PackagesUnavailable(f"a library that {program.name} needs is not among the packages")
        needed |= libraries
    modules = []
    for module in sorted((home / "lib").glob("*.so")):
        libraries = libraries_of(loader, module)
        if libraries is not None:  # llvmjit.so stays behind with the compiler
            modules.append(module)
            needed |= libraries

    _copy(needed.items(), dist / "lib")
    _copy(((path.name, path) for path in programs), dist / _POSTGRES_HOME / "real")
    _copy(((path.name, path) for path in modules), dist / _POSTGRES_HOME / "lib")
    shutil.copytree(unpacked / _SHARE, dist / _SHARE, ignore=shutil.ignore_patterns("man", "contrib"))
    _write_wrappers(dist, loader.name)
    # The server may have to run as another user than ours, whatever our umask.
    for path in [dist, *dist.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _copy(files: Iterable[tuple[str, Path]], into: Path) -> None:
    into.mkdir(parents=True)
    for name, source in files:
        shutil.copy(source, into / name)


def _write_wrappers(dist: Path, loader: str) -> None:
    programs = dist / _POSTGRES_HOME / "bin"
    programs.mkdir()
    for program in PROGRAMS:
        wrapper = programs / program
        wrapper.write_text(_WRAPPER.format(program=program, loader=loader))
        wrapper.chmod(0o755)
    (dist / "bin").symlink_to(_POSTGRES_HOME / "bin")


def _stamp(dist: Path, packages: Iterable[Package]) -> None:
    versions = {package.name: package.version for package in packages}
    (dist / _STAMP).write_text(json.dumps({"layout": _LAYOUT, "packages": versions}, indent=1, sort_keys=True))
