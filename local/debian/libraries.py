"""Programs of one Debian release on another: they bring their own C library and are started through its loader."""

import shutil
import subprocess
from pathlib import Path

from local.debian.apt import PackagesUnavailable


def loader_in(unpacked: Path) -> Path:
    """The loader of the C library among unpacked packages, with all libraries beside it.

    Raises PackagesUnavailable when there is none.
    """
    loader = next(unpacked.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"), None)
    if loader is None:
        raise PackagesUnavailable("libc6 holds no loader where it is expected")
    return loader


def libraries_of(loader: Path, binary: Path) -> dict[str, Path] | None:
    """The shared libraries that `binary` loads, by the name it asks for; None when one is not beside the loader."""
    listed = subprocess.run(
        [loader, "--inhibit-cache", "--library-path", loader.parent, "--list", binary],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        return None
    found = {}
    for line in listed.stdout.splitlines():
        name, arrow, place = line.strip().partition(" => ")
        path = Path(place.rpartition(" (")[0])
        if not arrow or path == loader:
            continue
        if path.parent != loader.parent:  # missing, or the host's own
            return None
        found[name] = path
    return found


def replace_folder(new: Path, place: Path) -> None:
    """Rename `new` to `place`; a folder that was there is removed."""
    if place.exists():
        shutil.rmtree(place)
    new.rename(place)
