"""One program of a Debian package, with the libraries it loads, in a folder of ours."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from local.debian.apt import PackagesUnavailable, PrivateApt
from local.debian.libraries import libraries_of, loader_in, replace_folder

_STAMP = "installed.json"
_WRAPPER = """\
#!/bin/sh
home=$(dirname "$(readlink -f "$0")")
OPENSSL_CONF=/dev/null
export OPENSSL_CONF
exec "$home/lib/{loader}" --inhibit-cache --argv0 "$0" --library-path "$home/lib" "$home/real/{program}" "$@"
"""


def install(package: str, binary: str, folder: Path, progress: Callable[[str], None]) -> Path:
    """The program `binary` (a path such as usr/sbin/mosquitto) of `package`, in `folder` once and for all.

    It is built beside its place and renamed, so a half-made one is never found. Raises PackagesUnavailable.
    """
    folder = folder.resolve()
    program = folder / Path(binary).name
    if (folder / _STAMP).exists():
        return program
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{package}.new-", dir=folder.parent) as made:
        work = Path(made)
        (work / "apt").mkdir()
        progress(f"asking the Debian mirror for {package}")
        source = PrivateApt.prepare(work / "apt")
        closure = [each for each in source.closure([package]) if each.name.startswith((package, "lib", "zlib1g"))]
        progress(f"downloading {package}, {sum(each.download_bytes for each in closure) / 1e6:.0f} MB")
        source.download([each.name for each in closure], into=work / "unpacked")
        _assemble(work / "unpacked", binary, work / "dist")
        versions = {each.name: each.version for each in closure}
        (work / "dist" / _STAMP).write_text(json.dumps({"packages": versions}, indent=1, sort_keys=True))
        replace_folder(work / "dist", folder)
    return program


def _assemble(unpacked: Path, binary: str, dist: Path) -> None:
    loader, program = loader_in(unpacked), unpacked / binary
    libraries = libraries_of(loader, program)
    if libraries is None:
        raise PackagesUnavailable(f"a library that {program.name} needs is not among the packages")
    for part in ("lib", "real"):
        (dist / part).mkdir(parents=True)
    for name, path in {loader.name: loader, **libraries}.items():
        shutil.copy(path, dist / "lib" / name)
    shutil.copy(program, dist / "real" / program.name)
    wrapper = dist / program.name
    wrapper.write_text(_WRAPPER.format(loader=loader.name, program=program.name))
    for path in [wrapper, *(dist / "lib").iterdir(), *(dist / "real").iterdir()]:
        path.chmod(0o755)
