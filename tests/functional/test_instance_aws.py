"""The instance calls AWS with curl alone: signed as AWS computes it, with nothing secret where others could read it."""

import hashlib
import hmac
import io
import json
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from local.emulator import REGION, SECRET_KEY
from local.session import AwsSession
from local.state import Emulator
from tests.functional.instance_sandbox import (
    IMDS_TOKEN,
    SCRIPTS,
    Instance,
    Metadata,
    bare_instance,
    make_secrets,
    metadata_service,
    secret,
)

_SECRETS_IN_TRANSIT = (SECRET_KEY, "session/token+of=role", IMDS_TOKEN, "adminPassword", "loaderPassword")


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    """The instance's metadata service."""
    with metadata_service() as service:
        yield service


@pytest.fixture
def instance(tmp_path: Path, metadata: Metadata, emulator: Emulator, aws: AwsSession) -> Instance:
    """An instance without a database, with secrets and buckets of its own."""
    return bare_instance(tmp_path, metadata, emulator.port, make_secrets(aws, f"aws-{tmp_path.name}"))


@pytest.fixture
def bucket(aws: AwsSession, tmp_path: Path) -> str:
    """A bucket for the instance's scripts."""
    name = f"scripts-{os.getpid()}-{hashlib.sha256(bytes(tmp_path)).hexdigest()[:8]}"
    aws.client("s3").create_bucket(Bucket=name)
    return name


def test_start_fetches_the_scripts_and_hands_over(instance: Instance, aws: AwsSession, bucket: str) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as scripts:
        scripts.writestr("bootstrap.sh", 'echo "bootstrap of $SCRIPTS_BUCKET, with $READY_URL"; ls "$SCRIPTS_FOLDER"')
        scripts.writestr("lib/paths.sh", "")
    aws.client("s3").put_object(Bucket=bucket, Key="asset.zip", Body=archive.getvalue())
    for _boot in range(2):
        done = instance.run("start.sh", SCRIPTS_BUCKET=bucket, SCRIPTS_KEY="asset.zip")
        expected = f"bootstrap of {bucket}, with {instance.settings['READY_URL']}\nbootstrap.sh\nlib\n"
        assert done.stdout.endswith(expected)
    log = instance.root / "bootstrap.log"
    assert log.read_text().count("bootstrap of") == 2
    assert log.stat().st_mode & 0o077 == 0


def test_a_refusal_of_the_first_minute_is_not_the_last_word(instance: Instance, aws: AwsSession, bucket: str) -> None:
    """Rights made a moment ago may not be known everywhere: S3 then refuses what it will soon allow."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as scripts:
        scripts.writestr("bootstrap.sh", 'echo "bootstrap"')
    late = threading.Timer(
        1.5, lambda: aws.client("s3").put_object(Bucket=bucket, Key="late.zip", Body=archive.getvalue())
    )
    late.start()
    try:
        done = instance.run("start.sh", SCRIPTS_BUCKET=bucket, SCRIPTS_KEY="late.zip")
    finally:
        late.join()
    assert done.stdout.endswith("bootstrap\n")
    assert not instance.metadata.signals


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        (
            "absent.zip",
            None,
            "cannot fetch s3://{bucket}/absent.zip: check the S3 endpoint's and the instance role's policies",
        ),
        ("broken.zip", b"no archive", "s3://{bucket}/broken.zip is no zip archive"),
    ],
)
def test_a_failure_is_signalled_with_one_line(
    instance: Instance, aws: AwsSession, bucket: str, key: str, body: bytes | None, reason: str
) -> None:
    if body is not None:
        aws.client("s3").put_object(Bucket=bucket, Key=key, Body=body)
    done = instance.run("start.sh", check=False, SCRIPTS_BUCKET=bucket, SCRIPTS_KEY=key, FETCH_RETRIES="0")
    assert done.returncode == 1
    ((signal, headers),) = instance.metadata.signals
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-waitcondition.html
    assert signal["Status"] == "FAILURE"
    assert signal["Reason"] == reason.format(bucket=bucket)
    assert signal["UniqueId"] == "i-0123456789abcdef0"
    assert not headers.get("content-type")


def test_a_failure_that_nobody_foresaw_is_signalled_too(instance: Instance) -> None:
    done = instance.run("bootstrap.sh", "database", check=False, MEMORY_MIB="many")
    assert done.returncode != 0
    assert instance.metadata.signals[-1][0]["Status"] == "FAILURE"
    assert "\n" not in instance.metadata.signals[-1][0]["Reason"]


@pytest.mark.parametrize(
    ("service", "call"),
    [
        ("s3", "s3_get bucket folder/a-b_c.1.deb /dev/null"),
        ("secretsmanager", 'printf \'{"SecretId": "x"}\' | secrets_call GetSecretValue'),
    ],
)
def test_requests_are_signed_as_aws_computes_it(instance: Instance, service: str, call: str) -> None:
    done = instance.bash(call, AWS_ENDPOINT_URL=f"{instance.metadata.url}/aws")
    assert done.returncode == 0, done.stderr
    ((method, path, headers, body),) = [each for each in instance.metadata.requests if each[1].startswith("/aws/")]
    scheme, _, fields = headers["authorization"].partition(" ")
    assert scheme == "AWS4-HMAC-SHA256"
    given = dict(part.strip().split("=", 1) for part in fields.split(","))
    assert "x-amz-security-token" in given["SignedHeaders"].split(";")
    assert headers["x-amz-security-token"] == "session/token+of=role"
    assert given["Signature"] == _signature(service, method, path, headers, body, given["SignedHeaders"])


def _signature(service: str, method: str, path: str, headers: dict[str, str], body: bytes, signed: str) -> str:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""
    digest = hashlib.sha256(body).hexdigest()
    names = signed.split(";")
    assert "host" in names
    assert "x-amz-date" in names
    assert unquote(path) == path
    if service == "s3":
        assert headers["x-amz-content-sha256"] == digest
        assert "x-amz-content-sha256" in names
    lines = [f"{name}:{headers[name]}\n" for name in names]
    canonical = "\n".join([method, path, "", "".join(lines), signed, digest])
    moment = headers["x-amz-date"]
    scope = [moment[:8], REGION, service, "aws4_request"]
    text = "\n".join(["AWS4-HMAC-SHA256", moment, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def test_the_authority_is_published_once_and_nothing_else_changes(instance: Instance, aws: AwsSession) -> None:
    arn = instance.settings["ADMIN_SECRET_ARN"]
    before = secret(aws, arn)
    publish = f"make_authority; publish_authority {arn}"
    first = instance.bash(publish)
    assert first.returncode == 0, first.stderr
    authority = (instance.volume / "tls" / "ca.crt").read_text()
    assert secret(aws, arn) == before | {"ca": authority}
    version = aws.client("secretsmanager").get_secret_value(SecretId=arn)["VersionId"]
    again = instance.bash(publish)
    assert again.returncode == 0
    assert again.stdout == ""
    assert aws.client("secretsmanager").get_secret_value(SecretId=arn)["VersionId"] == version


def test_nothing_secret_is_in_a_command_line_or_in_the_output(instance: Instance, tmp_path: Path) -> None:
    """Each program that the scripts start goes through one that writes its arguments down."""
    shims, record = tmp_path / "shims", tmp_path / "arguments"
    shims.mkdir()
    for program in ("curl", "python3", "openssl", "mktemp", "cat", "tee"):
        real = shutil.which(program)
        shim = shims / program
        shim.write_text(f'#!/bin/bash\nprintf "%s\\n" "${{0##*/}} $*" >>{record}\nexec {real} "$@"\n')
        shim.chmod(0o755)
    admin = instance.settings["ADMIN_SECRET_ARN"]
    done = instance.bash(
        f"make_authority; publish_authority {admin}; {{ secret_value {admin}; echo; }} | password_sql",
        PATH=f"{shims}:{instance.environment['PATH']}",
    )
    assert done.returncode == 0, done.stderr
    arguments = record.read_text()
    assert "curl" in arguments
    assert "SCRAM-SHA-256$" in done.stdout
    for value in _SECRETS_IN_TRANSIT:
        # The password of the emulator's account is a plain word: it is looked for as a word of its own.
        assert f'"{value}' not in arguments
        assert f":{value}" not in arguments
        assert f" {value}" not in arguments
        if value != SECRET_KEY:
            assert value not in arguments + done.stdout + done.stderr


def test_a_password_becomes_the_verifier_that_postgresql_computes() -> None:
    """The example of RFC 7677, section 3: user `user`, password `pencil`, its salt and number of rounds."""
    salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
    keys = "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    verifier = f"SCRAM-SHA-256$4096:{salt}${keys}"
    function = 'source "$SCRIPTS/start.sh"; source "$SCRIPTS/lib/secrets.sh"; password_sql'

    def statement(password: str) -> str:
        done = subprocess.run(
            ["bash", "-c", function],
            input=json.dumps({"username": "user", "password": password}) + "\n" + verifier + "\n",
            env=os.environ | {"SCRIPTS": str(SCRIPTS)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert statement("pencil") == ""
    assert statement("other").startswith("ALTER ROLE user PASSWORD 'SCRAM-SHA-256$4096:")
