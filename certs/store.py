"""An identity store: a folder with the device CA, one certificate and key per device, and the broker's root CA."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from cryptography import x509

from certs import pem
from certs.authority import CA_CERTIFICATE, DeviceAuthority
from certs.files import PRIVATE, PUBLIC, locked, private_folder, write_file
from certs.names import valid_thing_name
from ops.errors import UserError

DEFAULT_VALIDITY_DAYS = 365

# Called as `progress(done, total)` after each device, from the caller's own thread.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class DeviceIdentity:
    """What a device needs to connect: its certificate and key, and the root CA by which it knows the broker."""

    thing_name: str
    certificate_file: Path
    key_file: Path
    root_ca_file: Path


class Fault(Enum):
    """What can be wrong with a device's pair of files."""

    MISSING = "missing"
    HALF_WRITTEN = "half written"
    WRONG_THING = "of another thing"
    WRONG_KEY = "does not match its key"
    WRONG_CA = "of another CA"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    UNREADABLE = "unreadable"


# Nothing is lost when these are issued anew. Every other fault may be a file that somebody wants back.
REISSUED = frozenset({Fault.MISSING, Fault.HALF_WRITTEN, Fault.EXPIRED})

_AGAIN = "restore the pair, or delete both files and issue again"


@dataclass(frozen=True)
class Finding:
    """One fault, and the line that tells the user what to do about it."""

    fault: Fault
    line: str


class IdentityStore:
    """The files of one fleet in one environment. Creating the object touches no file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca_file = root / CA_CERTIFICATE
        self.root_ca_file = root / "root-ca.pem"
        self._devices = root / "devices"

    def certificate_file(self, thing_name: str) -> Path:
        """Where the thing's certificate is, or would be."""
        return self._devices / f"{valid_thing_name(thing_name)}.pem"

    def key_file(self, thing_name: str) -> Path:
        """Where the thing's private key is, or would be."""
        return self._devices / f"{valid_thing_name(thing_name)}.key"

    def things(self) -> list[str]:
        """The things that have a certificate here, sorted by name; none where there is no store."""
        return sorted(file.stem for file in self._devices.glob("[!.]*.pem"))

    def identity(self, thing_name: str) -> DeviceIdentity:
        """The files with which a thing connects. That they are there is looked at; what is in them is for `check`.

        Raises:
            UserError: one of them is not there.
        """
        identity = DeviceIdentity(
            thing_name, self.certificate_file(thing_name), self.key_file(thing_name), self.root_ca_file
        )
        if not _present(identity.certificate_file) or not _present(identity.key_file):
            raise UserError(f"no certificate and key for {thing_name} in {self.root}: run `fleet certs issue`")
        if not _present(identity.root_ca_file):
            raise UserError(
                f"{identity.root_ca_file} is missing, so no broker can be trusted: run `fleet up`, or for AWS"
                " `fleet certs register`"
            )
        return identity

    def certificate(self, thing_name: str) -> x509.Certificate:
        """The thing's certificate, after `check`.

        Raises:
            UserError: as `check`.
        """
        self.check(thing_name)
        return pem.read_certificate(self.certificate_file(thing_name))

    def ca_certificate(self) -> x509.Certificate:
        """The certificate of the CA of this store. Its key may be kept elsewhere until the next issue.

        Raises:
            UserError: there is no CA here yet, or its file is unreadable.
        """
        if not self.ca_file.exists():
            raise UserError(f"no device CA in {self.root}: run `fleet certs issue`, or name the right --store")
        return pem.read_certificate(self.ca_file)

    def ensure(
        self,
        thing_names: Iterable[str],
        progress: Progress | None = None,
        *,
        validity_days: int = DEFAULT_VALIDITY_DAYS,
    ) -> list[str]:
        """Issue what is missing, half written or expired, keep what is good; returns the names that were issued.

        Two processes may call it at once: one waits for the other. A crash at any point is mended by the next call.

        Raises:
            UserError: an existing pair is bad in a way that issuing would cover up (see `check`), a name is no thing
                name, the folder holds something else, or a file cannot be written.
        """
        names = [valid_thing_name(name) for name in dict.fromkeys(thing_names)]
        self._prepare()
        issued = []
        with self._locked():
            # The CA's key is not needed, and may be kept elsewhere, while there is nothing to issue.
            authority = None if self.ca_file.exists() else DeviceAuthority.load_or_create(self.root)
            ca = self.ca_certificate()
            for done, name in enumerate(names, start=1):
                finding = self._examine(name, ca)
                if finding is not None:
                    if finding.fault not in REISSUED:
                        raise UserError(finding.line)
                    authority = authority or DeviceAuthority.load_or_create(self.root)
                    self._write_pair(name, *authority.issue(name, validity_days))
                    issued.append(name)
                if progress:
                    progress(done, len(names))
        return issued

    def examine(self, thing_name: str) -> Finding | None:
        """What would keep a device from connecting with these files, or None where they are good.

        Raises:
            UserError: the name is no thing name, or there is no CA here to compare with.
        """
        return self._examine(valid_thing_name(thing_name), self.ca_certificate())

    def check(self, thing_name: str) -> None:
        """As `examine`, for a caller who cannot go on.

        Raises:
            UserError: the pair is missing or half written, unreadable, of another thing, key or CA, not yet valid, or
                expired; the line names the file.
        """
        finding = self.examine(thing_name)
        if finding is not None:
            raise UserError(finding.line)

    def discard(self, thing_name: str) -> None:
        """Delete the thing's certificate and key for ever; nothing happens where there are none.

        Raises:
            UserError: the store cannot be locked.
        """
        if self._devices.is_dir():
            with self._locked():
                self.certificate_file(thing_name).unlink(missing_ok=True)
                self.key_file(thing_name).unlink(missing_ok=True)

    def write_root_ca(self, text: str) -> None:
        """Replace the root CA by which devices know the broker; `certs.endpoint.write_trust_anchor` checks it first.

        Raises:
            UserError: the file cannot be written.
        """
        self._prepare()
        with self._locked():
            write_file(self.root_ca_file, text.encode("ascii"), mode=PUBLIC)

    def _prepare(self) -> None:
        private_folder(self.root)
        private_folder(self._devices)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.root / ".lock")

    def _write_pair(self, thing_name: str, certificate: str, key: str) -> None:
        # Without its old certificate a pair counts as half written, so a crash anywhere here is mended by `ensure`;
        # an old certificate beside a new key would look like somebody's mistake.
        self.certificate_file(thing_name).unlink(missing_ok=True)
        write_file(self.key_file(thing_name), key.encode("ascii"), mode=PRIVATE)
        write_file(self.certificate_file(thing_name), certificate.encode("ascii"), mode=PUBLIC)

    def _examine(self, thing_name: str, ca: x509.Certificate) -> Finding | None:
        certificate_file, key_file = self.certificate_file(thing_name), self.key_file(thing_name)
        if not _present(certificate_file) and not _present(key_file):
            return Finding(Fault.MISSING, f"no certificate for {thing_name} in {self.root}: run `fleet certs issue`")
        for present, absent in ((certificate_file, key_file), (key_file, certificate_file)):
            if not _present(absent):
                return Finding(Fault.HALF_WRITTEN, f"{absent} is missing beside {present}: run `fleet certs issue`")
        try:
            certificate, key = pem.read_certificate(certificate_file), pem.read_private_key(key_file)
        except UserError as error:
            return Finding(Fault.UNREADABLE, str(error))
        if not pem.matches(certificate, key):
            line = f"{certificate_file} does not match its key {key_file}: {_AGAIN}"
            return Finding(Fault.WRONG_KEY, line)
        return _fault_of(thing_name, certificate_file, certificate, ca)


def _fault_of(thing_name: str, file: Path, certificate: x509.Certificate, ca: x509.Certificate) -> Finding | None:
    """What is wrong with a certificate that is readable and has its key."""
    now = datetime.now(UTC)
    if pem.common_name(certificate) != thing_name:
        line = f"{file} is the certificate of {pem.common_name(certificate)!r}, not of {thing_name}: {_AGAIN}"
        return Finding(Fault.WRONG_THING, line)
    if not pem.issued_by(certificate, ca):
        return Finding(Fault.WRONG_CA, f"{file} was not issued by the CA of this store ({CA_CERTIFICATE}): {_AGAIN}")
    if now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return Finding(Fault.NOT_YET_VALID, f"{file} is valid only from {begins}: set this machine's clock")
    if certificate.not_valid_after_utc <= now:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        return Finding(Fault.EXPIRED, f"{file} expired on {ended}: run `fleet certs issue` for a new one")
    return None


def _present(file: Path) -> bool:
    """Whether there is something in the file: a power cut can leave an empty one."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False
