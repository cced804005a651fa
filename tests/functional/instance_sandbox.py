"""The database instance without AWS, root or systemd: its own scripts, run on this machine in folders of their own.

What the scripts find in their place: PostgreSQL and TimescaleDB as the local environment has them, pgBackRest from the
same archive with a folder as its repository, the AWS emulator, metadata of our own, and a `systemctl` that starts what
the unit files say.
"""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from local.debian.apt import PrivateApt
from local.debian.libraries import replace_folder
from local.emulator import ACCOUNT, REGION, SECRET_KEY
from local.ports import any_free
from local.session import AwsSession
from local.timescaledb import placement
from ops.paths import ROOT

SCRIPTS = ROOT / "infra" / "instance"
PGBACKREST_FOLDER = ROOT / ".local" / "test" / "pgbackrest"
HOST = "timescaledb.iot-test.internal"
DATABASE = "iot_analytics"
SERVICE = "iot-database-test"
_POSIX_REPOSITORY = "[global]\nrepo1-type=posix\nrepo1-path={folder}\n"
_PGBACKREST_WRAPPER = """\
#!/bin/sh
home=$(dirname "$(readlink -f "$0")")
OPENSSL_CONF=/dev/null
export OPENSSL_CONF
exec "$home/lib/{loader}" --inhibit-cache --argv0 "$home/pgbackrest" --library-path "$home/lib" "$home/real" "$@"
"""
_SYSTEMCTL = Path(__file__).with_name("instance_systemctl.py")


def install_pgbackrest(folder: Path) -> Path:
    """pgBackRest and its libraries from Debian's packages, in `folder` once and for all; its program."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="pgbackrest-", dir=folder.parent) as work:
            (Path(work) / "apt").mkdir()
            apt = PrivateApt.prepare(Path(work) / "apt")
            names = [package.name for package in apt.closure(["pgbackrest"])]
            libraries = [name for name in names if name.startswith(("lib", "zlib1g")) and not name.endswith("-perl")]
            apt.download(["pgbackrest", *libraries], into=Path(work) / "unpacked")
            _assemble(Path(work) / "unpacked", Path(work) / "dist")
            replace_folder(Path(work) / "dist", folder)
    return folder / "pgbackrest"


def _assemble(unpacked: Path, dist: Path) -> None:
    loader = next(unpacked.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    (dist / "lib").mkdir(parents=True)
    for library in loader.parent.glob("*.so*"):
        shutil.copy(library, dist / "lib" / library.name)
    shutil.copy(unpacked / "usr/bin/pgbackrest", dist / "real")
    wrapper = dist / "pgbackrest"
    wrapper.write_text(_PGBACKREST_WRAPPER.format(loader=loader.name))
    for path in [dist, *dist.rglob("*")]:
        path.chmod(0o755)


@dataclass
class Metadata:
    """The instance's metadata service, which also takes the deployment's signals and keeps what was asked of it."""

    port: int = 0
    signals: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"


IMDS_TOKEN = "AQAEALH-token-of-imds"
_CREDENTIALS = {"AccessKeyId": ACCOUNT, "SecretAccessKey": SECRET_KEY, "Token": "session/token+of=role"}


@contextmanager
def metadata_service() -> Iterator[Metadata]:
    """IMDSv2 as far as the scripts use it: without a token it refuses, as an instance that requires tokens does."""
    found = Metadata()
    answers = {
        "/latest/meta-data/iam/security-credentials/": "instance-role",
        "/latest/meta-data/iam/security-credentials/instance-role": json.dumps(_CREDENTIALS),
        "/latest/meta-data/instance-id": "i-0123456789abcdef0",
    }

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.requests.append((self.command, self.path, headers, body))
            status, text = 404, ""
            if (self.command, self.path) == ("PUT", "/latest/api/token"):
                status, text = 200, IMDS_TOKEN
            elif self.path.startswith("/ready?"):
                found.signals.append((json.loads(body), headers))
                status = 200
            elif self.path.startswith("/aws/"):
                status, text = 200, "{}"
            elif self.path in answers:
                known = headers.get("x-aws-ec2-metadata-token") == IMDS_TOKEN
                status, text = (200, answers[self.path]) if known else (401, "")
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST = _answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Instance:
    """One instance: a data volume, a root file system, and the bucket of its backups, each a folder."""

    home: Path
    os_user: str
    environment: dict[str, str]
    settings: dict[str, str]
    port: int
    metadata: Metadata

    @property
    def volume(self) -> Path:
        """The data volume, which outlives `replace`."""
        return self.home / "volume"

    @property
    def root(self) -> Path:
        """What an instance has of its own and loses when it is replaced."""
        return self.home / "root"

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.volume / "17" / "data"

    @property
    def log(self) -> str:
        """All that the server wrote to its log."""
        return "".join(path.read_text() for path in sorted((self.root / "log").glob("postgresql-*.log")))

    def run(
        self, script: str, *arguments: str, check: bool = True, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of the scripts to its end, with settings of instance.env replaced."""
        values = self.settings | settings
        file = self.root / "instance.env"
        file.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
        done = subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{script}: {done.stdout}\n{done.stderr}"
        return done

    def bash(self, commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs commands that may call every function of lib/."""
        values = "".join(f"{name}='{value}'\n" for name, value in self.settings.items())
        (self.root / "instance.env").write_text(values)
        return subprocess.run(
            ["bash", "-c", f'set -Eeuo pipefail; SCRIPTS={SCRIPTS}; source "$SCRIPTS/lib/all.sh"\n{commands}'],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def systemctl(self, *arguments: str) -> None:
        """As an operator would."""
        subprocess.run([self.environment["SYSTEMCTL"], *arguments], env=self.environment, check=True)

    def replace(self) -> None:
        """Another instance with the same volume."""
        self.systemctl("stop", "fleetledger-database.service")
        _remove(self.root)
        _make_root(self.root)

    def dsn(self, password: str, **others: object) -> str:
        """How a client in the VPC connects, verifying the server."""
        address: dict[str, Any] = {
            "host": HOST,
            "hostaddr": "127.0.0.1",
            "port": self.port,
            "dbname": DATABASE,
            "user": "postgres",
            "password": password,
            "sslmode": "verify-full",
            "sslrootcert": str(self.volume / "tls" / "ca.crt"),
            "connect_timeout": 10,
        }
        return make_conninfo(**address | others)

    def connect(self, password: str, **others: object) -> psycopg.Connection:
        """A connection in autocommit mode."""
        return psycopg.connect(self.dsn(password, **others), autocommit=True)


def bare_instance(home: Path, metadata: Metadata, emulator_port: int, secrets: dict[str, str]) -> Instance:
    """An instance without any database program, for what needs none; its folders are below `home`."""
    (home / "volume").mkdir()
    _make_root(home / "root")
    (home / "repository.conf").write_text("")
    os_user = pwd.getpwuid(os.getuid()).pw_name
    environment = _environment(home, home / "no-dist", home / "no-tools", os_user, any_free(), metadata, emulator_port)
    return Instance(home, os_user, environment, _settings(metadata, secrets), 0, metadata)


def _remove(folder: Path) -> None:
    """Removes a folder in which pgBackRest may still be busy for a moment after the server has stopped."""
    deadline = time.monotonic() + 30
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _make_root(root: Path) -> None:
    (root / "units").mkdir(parents=True)
    (root / "run").mkdir()
    root.chmod(0o755)


@contextmanager
def sandbox(
    dist: Path, pgbackrest: Path, metadata: Metadata, emulator_port: int, secrets: dict[str, str]
) -> Iterator[Instance]:
    """An instance on which nothing ran yet, whose server is stopped in the end."""
    # A short path: sockets have names of 107 bytes at most.
    home = Path(tempfile.mkdtemp(prefix="fl-", dir="/tmp"))
    home.chmod(0o711)
    account = placement.find_site(home).account
    os_user = pwd.getpwuid(account.uid if account else os.getuid()).pw_name
    dist = placement.reachable_dist(placement.Site(dist.parent, home, account), dist)
    tools = shutil.copytree(pgbackrest.parent, home / "pgbackrest")
    for folder in ("volume", "backups"):
        (home / folder).mkdir()
        (home / folder).chmod(0o755)
    if account:
        os.chown(home / "backups", account.uid, account.gid)
    _make_root(home / "root")
    shutil.copy(_SYSTEMCTL, home / "systemctl")
    (home / "systemctl").chmod(0o755)
    (home / "repository.conf").write_text(_POSIX_REPOSITORY.format(folder=home / "backups"))
    port = any_free()
    instance = Instance(
        home,
        os_user,
        _environment(home, dist, tools, os_user, port, metadata, emulator_port),
        _settings(metadata, secrets),
        port,
        metadata,
    )
    try:
        yield instance
    finally:
        if (instance.root / "units" / "fleetledger-database.service").exists():
            instance.systemctl("stop", "fleetledger-database.service")
        _remove(home)


def _environment(
    home: Path, dist: Path, tools: Path, os_user: str, port: int, metadata: Metadata, emulator_port: int
) -> dict[str, str]:
    root = home / "root"
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "INSTANCE_ENV": str(root / "instance.env"),
        "SCRIPTS_FOLDER": str(root / "scripts"),
        "RUN_FOLDER": str(root / "run"),
        "BOOTSTRAP_LOG": str(root / "bootstrap.log"),
        "DATA_MOUNT": str(home / "volume"),
        "BIN_FOLDER": str(dist / "bin"),
        "PGBACKREST": str(tools / "pgbackrest"),
        "CONFIG_FOLDER": str(root / "etc"),
        "LOG_FOLDER": str(root / "log"),
        "SOCKET_FOLDER": str(root / "socket"),
        "SPOOL_FOLDER": str(root / "spool"),
        "LOCK_FOLDER": str(root / "lock"),
        "STATE_FOLDER": str(root / "state"),
        "DEVICE_FOLDER": str(root / "devices"),
        "FSTAB": str(root / "fstab"),
        "UNIT_FOLDER": str(root / "units"),
        "SYSTEMCTL": str(home / "systemctl"),
        "OS_USER": os_user,
        "LOG_READERS": subprocess.check_output(["id", "-gn", os_user], text=True).strip(),
        "LISTEN_ADDRESSES": "127.0.0.1",
        "PORT": str(port),
        "REPOSITORY_TEMPLATE": str(home / "repository.conf"),
        "IMDS_URL": metadata.url,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{emulator_port}",
    }


def _settings(metadata: Metadata, secrets: dict[str, str]) -> dict[str, str]:
    return {
        "AWS_REGION": REGION,
        "DATABASE_NAME": DATABASE,
        "DATABASE_HOST": HOST,
        "DATABASE_ADMIN_USER": "postgres",
        "ADMIN_SECRET_ARN": secrets["admin"],
        "LOADER_SECRET_ARN": secrets["loader"],
        "DATA_VOLUME_ID": "vol-0123456789abcdef0",
        "BACKUP_BUCKET": "backups",
        "BACKUP_RETENTION_DAYS": "7",
        "PACKAGES_BUCKET": "packages",
        "MEMORY_MIB": "4096",
        "VCPUS": "2",
        "MAX_CONNECTIONS": "60",
        "VPC_CIDR": "127.0.0.0/8",
        "METRICS_SERVICE": SERVICE,
        "LOG_GROUP": f"/fleetledger/{SERVICE}",
        # A presigned URL: what a shell would act upon is in it.
        "READY_URL": f"{metadata.url}/ready?Expires=1&Signature=a%2Fb$c;d",
    }


def make_secrets(aws: AwsSession, name: str) -> dict[str, str]:
    """The secrets of the admin and of the loader as the Database stack makes them; their ARNs."""
    users = {"admin": "postgres", "loader": "iot_loader"}
    arns = {}
    for role, user in users.items():
        value = {"host": HOST, "port": 5432, "dbname": DATABASE, "username": user, "ca": ""}
        value["password"] = f"{role}Password{name.replace('-', '')}"
        made = aws.client("secretsmanager").create_secret(Name=f"{name}/{role}", SecretString=json.dumps(value))
        arns[role] = made["ARN"]
    return arns


def secret(aws: AwsSession, arn: str) -> dict[str, Any]:
    """The current value of a secret."""
    value: dict[str, Any] = json.loads(aws.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
    return value
