"""`fleet dashboards import` and `export` against a server that behaves as Grafana documents, and misbehaves on demand."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dashboards.reading.model import JSON_FOLDER
from local.timescaledb.tls import make_identity
from ops.dashboards import transfer
from ops.dashboards.cli import app
from ops.dashboards.grafana_api import Grafana
from ops.errors import UserError
from tests.functional.grafana_server import TOKEN, GrafanaServer

UIDS = sorted(path.stem for path in JSON_FOLDER.glob("*.json"))


@pytest.fixture
def server() -> Iterator[GrafanaServer]:
    with GrafanaServer() as running:
        yield running


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def _grafana(server: GrafanaServer, token: str = TOKEN) -> Grafana:
    return Grafana(server.url, token, timeout_seconds=5, pause=lambda _: None)


def _into(server: GrafanaServer, *, uids: tuple[str, ...] = (), overwrite: bool = False) -> list[str]:
    files = transfer.read_files(JSON_FOLDER, uids)
    return [done.what for done in transfer.into(_grafana(server), files, "Fleetledger", overwrite=overwrite)]


def _run(*arguments: str, environment: dict[str, str] | None = None) -> list[str]:
    """The lines that a command prints. A fault is the UserError of which ops.cli makes one line."""
    result = CliRunner().invoke(
        app, list(arguments), env={"GRAFANA_TOKEN": "", "GRAFANA_URL": ""} | (environment or {})
    )
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_a_round_trip_gives_the_committed_files_byte_for_byte(
    server: GrafanaServer, token_file: Path, tmp_path: Path
) -> None:
    there = ("--url", server.url, "--token-file", str(token_file))
    lines = _run("import", *there)
    assert [line.split()[:2] for line in lines] == [[uid, "new"] for uid in UIDS]
    assert list(server.folders.values()) == ["Fleetledger"]

    out = tmp_path / "out"
    lines = _run("export", *there, "--to", str(out))
    assert [line.split()[:2] for line in lines] == [[uid, "written"] for uid in UIDS]
    for uid in UIDS:
        assert (out / f"{uid}.json").read_bytes() == (JSON_FOLDER / f"{uid}.json").read_bytes()


def test_what_is_there_already_is_left_alone(server: GrafanaServer) -> None:
    assert set(_into(server)) == {"new"}
    versions = {uid: held["dashboard"]["version"] for uid, held in server.dashboards.items()}
    assert set(_into(server)) == {"the same"}
    assert versions == {uid: held["dashboard"]["version"] for uid, held in server.dashboards.items()}


def test_what_was_changed_in_grafana_stays_unless_it_is_to_be_overwritten(server: GrafanaServer) -> None:
    _into(server, uids=("iot-device",))
    server.change("iot-device", title="Mine")
    with pytest.raises(UserError, match=r"iot-device is another in Grafana: version 2, by carol, .*--overwrite"):
        _into(server, uids=("iot-device",))
    assert server.dashboards["iot-device"]["dashboard"]["title"] == "Mine"
    assert _into(server, uids=("iot-device",), overwrite=True) == ["replaced"]
    assert server.dashboards["iot-device"]["dashboard"]["title"] == "IoT device"


def test_a_change_made_in_between_is_not_lost(server: GrafanaServer) -> None:
    """Somebody saves between our look and our save: Grafana answers 412."""
    _into(server, uids=("iot-device",))
    server.dashboards["iot-device"]["folder"] = "elsewhere"  # so that there is something to save

    def meanwhile(grafana: Grafana, uid: str) -> Any:
        held = Grafana.read(grafana, uid)
        if server.dashboards[uid]["by"] != "carol":
            server.change(uid, title="Mine")
        return held

    grafana = _grafana(server)
    grafana.read = lambda uid: meanwhile(grafana, uid)  # type: ignore[method-assign]
    files = transfer.read_files(JSON_FOLDER, ("iot-device",))
    held = json.loads(json.dumps(server.dashboards["iot-device"]["dashboard"]))
    with pytest.raises(UserError, match="version 2, by carol"):
        list(transfer.into(grafana, files, "Fleetledger", overwrite=False))
    assert held["title"] != server.dashboards["iot-device"]["dashboard"]["title"] == "Mine"


@pytest.mark.parametrize("fault", [("GET", 503, None), ("GET", 429, None), ("POST", 502, None), ("POST", 0, None)])
def test_what_passes_by_itself_is_tried_again(server: GrafanaServer, fault: tuple[str, int, None]) -> None:
    """With status 0 the dashboard, or the folder, was stored and the answer lost: the second attempt meets its own."""
    server.faults.append(fault)
    assert _into(server, uids=("iot-device",)) == ["new"]
    assert not server.faults
    assert len(server.folders) == 1
    server.faults.append(fault)
    server.change("iot-device", title="Mine")
    assert _into(server, uids=("iot-device",), overwrite=True) == ["replaced"]
    assert server.dashboards["iot-device"]["dashboard"]["title"] == "IoT device"


def test_a_lost_answer_is_no_conflict(server: GrafanaServer) -> None:
    _into(server, uids=("iot-device",))
    server.dashboards["iot-device"]["folder"] = "elsewhere"
    server.faults.append(("POST", 0, None))
    assert _into(server, uids=("iot-device",)) == ["replaced"]
    assert server.dashboards["iot-device"]["folder"] == "fleetledger"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (("GET", 401, {"message": "Invalid API key"}), "does not know the token (Invalid API key)"),
        (("GET", 403, {"message": "no\nrights"}), "the token may not do that"),
        (("POST", 403, None), "needs the role Editor"),
        (("GET", 302, {}), "leads elsewhere"),
        (("GET", 200, None), "does not answer as Grafana does"),
        (("GET", 200, {}), "does not answer as Grafana does"),
        (("POST", 400, {"message": "Cannot save provisioned dashboard"}), "400 (Cannot save provisioned dashboard)"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    server: GrafanaServer, fault: tuple[str, int, dict[str, Any] | None], line: str
) -> None:
    server.faults.append(fault)
    with pytest.raises(UserError) as raised:
        _into(server, uids=("iot-device",))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert not server.dashboards


def test_a_server_that_stays_broken_is_given_up(server: GrafanaServer) -> None:
    server.faults.extend([("GET", 503, {"message": "upstream"})] * 4)
    with pytest.raises(UserError, match=r"answered 503 \(upstream\)"):
        _into(server)
    assert len(server.requests) == 4


def test_an_address_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=r"cannot be reached at http://127\.0\.0\.1.*Connection refused"):
        Grafana(f"http://127.0.0.1:{port}", TOKEN, pause=lambda _: None).read("iot-device")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://grafana.example.com", "in the clear; use https"),
        ("https://admin:geheim@grafana.example.com", "no password belongs there"),
        ("grafana.example.com", "give Grafana's address"),
        ("file:///etc/passwd", "give Grafana's address"),
    ],
)
def test_an_address_over_which_no_token_goes(url: str, line: str) -> None:
    with pytest.raises(UserError) as raised:
        Grafana(url, TOKEN)
    assert line in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_the_token_comes_from_the_environment_too(server: GrafanaServer, tmp_path: Path) -> None:
    environment = {"GRAFANA_TOKEN": TOKEN, "GRAFANA_URL": server.url}
    assert _run("import", "iot-device", environment=environment)[0].split()[1] == "new"
    with pytest.raises(UserError, match="no token"):
        _run("import", "iot-device", environment={"GRAFANA_URL": server.url})
    with pytest.raises(UserError, match=r"--token-file .* cannot be read \(No such file"):
        _run("import", "--url", server.url, "--token-file", str(tmp_path / "none"))


def test_what_does_not_exist_is_named(server: GrafanaServer, token_file: Path, tmp_path: Path) -> None:
    there = ("--url", server.url, "--token-file", str(token_file))
    with pytest.raises(UserError, match=r"iot-nothing is not in .*; there is: iot-capacity, iot-device"):
        _run("import", "iot-nothing", *there)
    with pytest.raises(UserError, match="has no dashboard iot-nothing"):
        _run("export", "iot-nothing", *there, "--to", str(tmp_path))
    with pytest.raises(UserError, match="is no uid of a dashboard"):
        _run("export", "../iot-device", *there, "--to", str(tmp_path))
    with pytest.raises(UserError, match="has no folder 'Fleetledger'"):
        _run("export", *there, "--to", str(tmp_path))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json is not JSON"):
        _run("import", *there, "--from", str(tmp_path))
    assert not server.dashboards


def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = make_identity()
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with GrafanaServer(identity) as server:
        with pytest.raises(UserError, match=r"certificate of https://127\.0\.0\.1:\d+ is not trusted .*SSL_CERT_FILE"):
            _into(server)
        assert not server.requests
        (tmp_path / "ca.pem").write_text(identity.ca_certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert set(_into(server)) == {"new"}
