"""The identity store: private, idempotent, mended after a crash, and one clear line for each bad file."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from certs import pem
from certs.authority import DeviceAuthority
from certs.files import locked, write_file
from certs.names import thing_names
from certs.store import Fault, IdentityStore
from ops.errors import UserError

ROOT = Path(__file__).parents[2]
NAMES = thing_names(3)


@pytest.fixture
def identities(tmp_path: Path) -> IdentityStore:
    made = IdentityStore(tmp_path / "store")
    made.ensure(NAMES)
    return made


def contents(identities: IdentityStore) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in identities.root.rglob("*") if file.is_file()}


def write_certificate(
    identities: IdentityStore, name: str, *, valid_from: datetime, valid_until: datetime, common_name: str | None = None
) -> None:
    """Replace the certificate of a device by another one of the same key and CA."""
    authority = DeviceAuthority.load_or_create(identities.root)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject)
        .public_key(pem.read_private_key(identities.key_file(name)).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid_from)
        .not_valid_after(valid_until)
        .sign(authority.key, hashes.SHA256())
    )
    identities.certificate_file(name).write_text(pem.certificate_pem(certificate))


def expire(identities: IdentityStore, name: str) -> None:
    now = datetime.now(UTC)
    write_certificate(identities, name, valid_from=now - timedelta(days=2), valid_until=now - timedelta(hours=1))


def test_everything_is_private(tmp_path: Path) -> None:
    before = os.umask(0)  # the most careless environment: what we do not close stays open
    try:
        identities = IdentityStore(tmp_path / "store")
        identities.ensure(NAMES)
    finally:
        os.umask(before)
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in [identities.root, *identities.root.rglob("*")]}
    assert {mode for file, mode in modes.items() if file.is_dir()} == {0o700}
    assert {mode for file, mode in modes.items() if file.suffix == ".key"} == {0o600}
    assert len([file for file in modes if file.suffix == ".key"]) == len(NAMES) + 1


def test_no_key_is_open_to_others_for_an_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, tuple[int, int]] = {}
    real_open = os.open

    def watched(path: Path, flags: int, mode: int = 0o777) -> int:
        opened[Path(path).name] = (flags, mode)
        return real_open(path, flags, mode)

    monkeypatch.setattr("certs.files.os.open", watched)
    IdentityStore(tmp_path / "store").ensure(NAMES[:1])
    for name in (".ca.key.new", f".{NAMES[0]}.key.new"):
        flags, mode = opened[name]
        assert mode == 0o600
        assert flags & os.O_EXCL


def test_ensure_issues_once_and_then_touches_nothing(identities: IdentityStore) -> None:
    before = contents(identities)
    assert identities.ensure(NAMES) == []
    assert contents(identities) == before
    assert identities.ensure([*NAMES, "device-00009"]) == ["device-00009"]
    assert identities.things() == [*NAMES, "device-00009"]
    for name in identities.things():
        identities.check(name)


def test_ensure_reports_progress_for_each_device_also_those_it_keeps(identities: IdentityStore) -> None:
    seen: list[tuple[int, int]] = []
    identities.ensure([*NAMES, "device-00004", "device-00004"], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_ensure_needs_no_ca_key_while_there_is_nothing_to_issue(identities: IdentityStore) -> None:
    (identities.root / "ca.key").unlink()
    assert identities.ensure(NAMES) == []
    with pytest.raises(UserError, match=r"ca\.key is missing"):
        identities.ensure(["device-00009"])


def test_ensure_reissues_a_pair_without_its_key_or_certificate_or_with_an_empty_file(
    identities: IdentityStore,
) -> None:
    identities.key_file(NAMES[0]).unlink()
    identities.certificate_file(NAMES[1]).unlink()
    identities.certificate_file(NAMES[2]).write_bytes(b"")
    for name in NAMES:
        with pytest.raises(UserError, match=r"is missing beside .*fleet certs issue"):
            identities.check(name)
    assert identities.ensure(NAMES) == NAMES
    for name in NAMES:
        identities.check(name)


def test_ensure_reissues_an_expired_certificate(identities: IdentityStore) -> None:
    expire(identities, NAMES[1])
    with pytest.raises(UserError, match=rf"{NAMES[1]}\.pem expired on .*fleet certs issue"):
        identities.check(NAMES[1])
    assert identities.ensure(NAMES) == [NAMES[1]]
    identities.check(NAMES[1])


def swap_keys(identities: IdentityStore) -> None:
    identities.key_file(NAMES[1]).replace(identities.key_file(NAMES[0]))


def swap_pairs(identities: IdentityStore) -> None:
    identities.key_file(NAMES[1]).replace(identities.key_file(NAMES[0]))
    identities.certificate_file(NAMES[1]).replace(identities.certificate_file(NAMES[0]))


def garble(identities: IdentityStore) -> None:
    identities.certificate_file(NAMES[0]).write_text("-----BEGIN CERTIFICATE-----\nzzzz\n-----END CERTIFICATE-----\n")


def garble_key(identities: IdentityStore) -> None:
    identities.key_file(NAMES[0]).write_text("not a key")


def encrypt_key(identities: IdentityStore) -> None:
    key = pem.read_private_key(identities.key_file(NAMES[0]))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    secret = serialization.BestAvailableEncryption(b"secret")
    identities.key_file(NAMES[0]).write_bytes(key.private_bytes(*form, secret))


def fold_into_folder(identities: IdentityStore) -> None:
    identities.certificate_file(NAMES[0]).unlink()
    identities.certificate_file(NAMES[0]).mkdir()


def change_ca(identities: IdentityStore) -> None:
    (identities.root / "ca.pem").unlink()
    (identities.root / "ca.key").unlink()
    DeviceAuthority.load_or_create(identities.root)


def begin_tomorrow(identities: IdentityStore) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    write_certificate(identities, NAMES[0], valid_from=tomorrow, valid_until=tomorrow + timedelta(days=1))


BAD = [
    (swap_keys, Fault.WRONG_KEY, r"device-00001\.pem does not match its key .*device-00001\.key"),
    (swap_pairs, Fault.WRONG_THING, r"device-00001\.pem is the certificate of 'device-00002', not of device-00001"),
    (garble, Fault.UNREADABLE, r"device-00001\.pem holds no PEM certificate"),
    (garble_key, Fault.UNREADABLE, r"device-00001\.key holds no unencrypted PEM private key"),
    (encrypt_key, Fault.UNREADABLE, r"device-00001\.key holds no unencrypted PEM private key"),
    (fold_into_folder, Fault.UNREADABLE, r"device-00001\.pem cannot be read \(Is a directory\)"),
    (change_ca, Fault.WRONG_CA, r"device-00001\.pem was not issued by the CA of this store"),
    (begin_tomorrow, Fault.NOT_YET_VALID, r"device-00001\.pem is valid only from .* clock"),
]


@pytest.mark.parametrize(("spoil", "fault", "line"), BAD, ids=[case[0].__name__ for case in BAD])
def test_each_bad_pair_has_a_line_of_its_own_and_is_never_covered_up(
    identities: IdentityStore, spoil: Callable[[IdentityStore], None], fault: Fault, line: str
) -> None:
    spoil(identities)
    finding = identities.examine(NAMES[0])
    assert finding is not None
    assert finding.fault is fault
    with pytest.raises(UserError, match=line) as refusal:
        identities.check(NAMES[0])
    assert "\n" not in str(refusal.value)
    before = {file: file.read_bytes() for file in identities.root.rglob("*.key")}
    with pytest.raises(UserError, match=line):
        identities.ensure(NAMES)
    assert {file: file.read_bytes() for file in identities.root.rglob("*.key")} == before


def test_an_rsa_key_is_named_as_such(identities: IdentityStore) -> None:
    key = rsa.generate_private_key(65537, 2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    identities.key_file(NAMES[0]).write_bytes(key.private_bytes(*form))
    with pytest.raises(UserError, match="not an elliptic curve one"):
        identities.check(NAMES[0])


def test_check_of_what_is_not_there(identities: IdentityStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no certificate for device-00009 in .*fleet certs issue"):
        identities.check("device-00009")
    with pytest.raises(UserError, match=r"no device CA in .*elsewhere.*--store"):
        IdentityStore(tmp_path / "elsewhere").check(NAMES[0])
    assert not (tmp_path / "elsewhere").exists()
    assert IdentityStore(tmp_path / "elsewhere").things() == []


def test_an_identity_is_given_only_with_all_its_files(identities: IdentityStore) -> None:
    with pytest.raises(UserError, match=r"root-ca\.pem is missing"):
        identities.identity(NAMES[0])
    identities.write_root_ca("anything")
    identity = identities.identity(NAMES[0])
    assert identity.thing_name == NAMES[0]
    assert identity.certificate_file.read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert identity.key_file.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert identity.root_ca_file.read_text() == "anything"
    with pytest.raises(UserError, match="no certificate and key for device-00009"):
        identities.identity("device-00009")


@pytest.mark.parametrize("name", ["../ca", "a/b", "", "a.b"])
def test_a_name_cannot_reach_out_of_the_store(identities: IdentityStore, name: str) -> None:
    for use in (identities.identity, identities.check, identities.discard, identities.key_file):
        with pytest.raises(UserError, match="no thing name"):
            use(name)
    with pytest.raises(UserError, match="no thing name"):
        identities.ensure([name])


def test_discard_deletes_the_pair_and_may_be_repeated(identities: IdentityStore, tmp_path: Path) -> None:
    identities.discard(NAMES[0])
    identities.discard(NAMES[0])
    IdentityStore(tmp_path / "elsewhere").discard(NAMES[0])
    assert identities.things() == NAMES[1:]
    assert not identities.key_file(NAMES[0]).exists()


def test_a_folder_that_is_open_to_others_is_taken_only_while_empty(tmp_path: Path) -> None:
    empty, used = tmp_path / "empty", tmp_path / "used"
    empty.mkdir(mode=0o755)
    used.mkdir(mode=0o755)
    (used / "letter.txt").write_text("mine")
    IdentityStore(empty).ensure(NAMES[:1])
    assert stat.S_IMODE(empty.stat().st_mode) == 0o700
    with pytest.raises(UserError, match=r"used is open to others \(mode 0755\).*chmod 700"):
        IdentityStore(used).ensure(NAMES[:1])
    assert [file.name for file in used.iterdir()] == ["letter.txt"]


def test_a_store_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be used .*--store"):
        IdentityStore(tmp_path / "file").ensure(NAMES)


def test_a_lock_that_is_not_given_back_is_one_line(identities: IdentityStore) -> None:
    lock = identities.root / ".lock"
    with locked(lock), pytest.raises(UserError, match=r"another process has held .*\.lock"), locked(lock, 0.1):
        pass


class Crash(BaseException):
    """As if the process had been killed."""


@pytest.mark.parametrize("prepare", ["new", "expired"])
def test_ensure_mends_a_crash_after_any_number_of_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: str
) -> None:
    real_write, writes_left = write_file, 0

    def write_until_the_crash(path: Path, data: bytes, *, mode: int, durable: bool = False) -> None:
        nonlocal writes_left
        if writes_left == 0:
            raise Crash
        writes_left -= 1
        real_write(path, data, mode=mode, durable=durable)

    crashes = 0
    while True:
        identities = IdentityStore(tmp_path / f"store-{crashes}")
        if prepare == "expired":
            identities.ensure(NAMES)
            for name in NAMES:
                expire(identities, name)
        writes_left = crashes
        with monkeypatch.context() as patch:
            patch.setattr("certs.store.write_file", write_until_the_crash)
            patch.setattr("certs.authority.write_file", write_until_the_crash)
            try:
                identities.ensure(NAMES)
                break
            except Crash:
                crashes += 1
        identities.ensure(NAMES)
        for name in NAMES:
            identities.check(name)
    assert crashes == 2 * len(NAMES) + (2 if prepare == "new" else 0)


ENSURE = (
    "import sys; from pathlib import Path; from certs.names import thing_names; from certs.store import IdentityStore;"
)
ENSURE += "print(len(IdentityStore(Path(sys.argv[1])).ensure(thing_names(int(sys.argv[2])))))"


@contextmanager
def ensuring(root: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that calls `ensure`; gone when the block is left."""
    command = [sys.executable, "-c", ENSURE, str(root), str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_processes_that_ensure_at_once_share_the_work_and_mix_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(ensuring(tmp_path / "store", 200)) for _ in range(3)]
        issued = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(issued) == 200
    identities = IdentityStore(tmp_path / "store")
    assert identities.things() == thing_names(200)
    for name in identities.things():
        identities.check(name)


def test_a_process_that_is_killed_while_issuing_leaves_nothing_that_ensure_does_not_mend(tmp_path: Path) -> None:
    identities, many = IdentityStore(tmp_path / "store"), 100_000
    deadline = time.monotonic() + 60
    with ensuring(identities.root, many) as process:
        while len(identities.things()) < 50:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    written = len(identities.things())
    names = thing_names(written + 5)
    assert 5 <= len(identities.ensure(names)) <= 6
    for name in names:
        identities.check(name)
