"""Debian packages fetched with the host's own apt-get into a private folder: no root, and nothing on the host changes.

The mirror, proxies, certificates and credentials are those of the host's apt configuration; only what would touch the
host's package state is redirected. apt verifies the archive's signature and every package's hash.
https://manpages.debian.org/trixie/apt/apt-get.8.en.html
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from ops.errors import UserError

SUITE = "trixie"  # the first Debian release with postgresql-17-timescaledb; its packages run on older hosts too
ARCHITECTURES = ("amd64", "arm64")
APT_DEADLINE_SECONDS = 900.0
RETRIES = 3

_KEYRINGS = tuple(
    Path("/usr/share/keyrings") / name for name in ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
)
# Suites under which a host names Debian's archive; asked only when no Release file says who the origin is.
_DEBIAN_SUITES = frozenset(
    {"bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"}
)
# Ours is one source, one architecture, one index; hooks and pins of the host are about the host's packages.
_CONFIGURATION = """\
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/state/lists";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
#clear APT::Default-Release;
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{architecture}";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Update::Error-Mode "any";
Acquire::Retries "{retries}";
"""


class PackagesUnavailable(UserError):  # noqa: N818 - like UserError, it is named for who reads it
    """Debian's packages cannot be had on this machine."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"Debian's packages cannot be had here: {reason}")


@dataclass(frozen=True)
class Package:
    """A package of the archive: its name, and how many bytes are to be downloaded for it."""

    name: str
    version: str
    download_bytes: int


@dataclass(frozen=True)
class PrivateApt:
    """apt-get with its lists, cache and package state in `folder`, and one Debian mirror as its only source."""

    folder: Path
    mirror: str

    @classmethod
    def prepare(cls, folder: Path) -> Self:
        """Set up `folder` and fetch the package index of the first of the host's Debian mirrors that has the suite.

        Raises PackagesUnavailable when the host has no apt, no Debian mirror, no archive keyring, or when none answers.
        """
        for tool in ("apt-get", "dpkg", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise PackagesUnavailable(f"this machine has no {tool}")
        architecture = _host_architecture()
        mirrors = _host_mirrors()
        if not mirrors:
            raise PackagesUnavailable("the apt configuration of this machine names no Debian mirror")
        keyring = next((path for path in _KEYRINGS if path.is_file()), None)
        if keyring is None:
            raise PackagesUnavailable("the debian-archive-keyring package is not installed")
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "apt.conf").write_text(
            _CONFIGURATION.format(folder=folder, architecture=architecture, retries=RETRIES)
        )
        options = f"signed-by={keyring} arch={architecture} target=Packages lang=none"
        refused: PackagesUnavailable | None = None
        for mirror in mirrors:
            (folder / "sources.list").write_text(f"deb [{options}] {mirror} {SUITE} main\n")
            apt = cls(folder, mirror)
            try:
                apt._run("update")
            except PackagesUnavailable as error:
                refused = error
            else:
                return apt
        raise refused or PackagesUnavailable("no Debian mirror answers")

    def closure(self, names: Sequence[str]) -> list[Package]:
        """Everything that `names` need on a machine with no package at all, libc6 included."""
        return parse_uris(self._run("--print-uris", "install", *names).splitlines())

    def download(self, names: Iterable[str], into: Path) -> None:
        """Fetch the packages and unpack their files below `into`, without running anything of theirs."""
        archives = self.folder / "archives"
        archives.mkdir()
        self._run("download", *names, cwd=archives)
        into.mkdir()
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for _ in pool.map(lambda archive: _unpack(archive, into), sorted(archives.glob("*.deb"))):
                pass  # reading the results is what raises an error of a worker here

    def _run(self, *arguments: str, cwd: Path | None = None) -> str:
        return _output("apt-get", "-c", str(self.folder / "apt.conf"), "-qq", *arguments, cwd=cwd)


def parse_uris(lines: Iterable[str]) -> list[Package]:
    """Read the lines of `apt-get --print-uris`: quoted URI, file name, bytes, hash."""
    packages = []
    for line in lines:
        if not line.startswith("'"):
            continue
        _uri, file_name, size, *_ = line.split(" ")
        name, version, _ = file_name.split("_")
        packages.append(Package(name, unquote(version), int(size)))
    return packages


def debian_mirrors(index_targets: Iterable[str]) -> list[str]:
    """The addresses of Debian's archive among lines of "address TAB label TAB suite TAB component", each once.

    The label is empty where the host has no Release file yet; the suite's name then tells.
    """
    found: dict[str, None] = {}
    for line in index_targets:
        address, label, suite, component = line.split("\t")
        is_debian = label == "Debian" if label else suite in _DEBIAN_SUITES
        if is_debian and component == "main" and not address.startswith("cdrom:"):
            found[address] = None
    return list(found)


def _host_mirrors() -> list[str]:
    known = _output("apt-get", "indextargets", "--format", "$(REPO_URI)\t$(LABEL)\t$(RELEASE)\t$(COMPONENT)")
    if mirrors := debian_mirrors(known.splitlines()):
        return mirrors
    # `apt-get update` never ran here, as in most container images: the configured sources are all there is to ask.
    configured = _output(
        "apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)\t\t$(RELEASE)\t$(COMPONENT)"
    )
    return debian_mirrors(configured.splitlines())


def _host_architecture() -> str:
    architecture = _output("dpkg", "--print-architecture").strip()
    if architecture not in ARCHITECTURES:
        raise PackagesUnavailable(f"the architecture is {architecture}, not one of {', '.join(ARCHITECTURES)}")
    return architecture


def _unpack(archive: Path, into: Path) -> None:
    _output("dpkg-deb", "-x", str(archive), str(into))


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=APT_DEADLINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PackagesUnavailable(f"{command[0]} took longer than {APT_DEADLINE_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise PackagesUnavailable(f"{command[0]}: {_first_error(done.stderr) or f'exit status {done.returncode}'}")
    return done.stdout


def _first_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return (errors or lines or [""])[0].removesuffix(".")
