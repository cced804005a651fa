"""What Grafana is provisioned with: it parses, hangs together, and holds no secret."""

import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.alerts import ALERTS, FOLDER, Alert
from dashboards.boards import BOARDS
from dashboards.panels import panel_id
from dashboards.source import TYPE, UID
from lambdas.shared.database import DatabaseSecret
from ops.dashboards.container import prepare
from ops.errors import UserError
from ops.paths import ROOT

_PROVISIONING = ROOT / "dashboards" / "provisioning"
_SECRET = DatabaseSecret(host="127.0.0.1", port=5433, username="grafana", password="geheim", ca="PEM")


def _yaml(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def _compose() -> dict[str, Any]:
    service: dict[str, Any] = _yaml(ROOT / "dashboards" / "compose.yaml")["services"]["grafana"]
    return service


def _anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_data_source_is_the_one_that_panels_ask_and_is_verified() -> None:
    (source,) = _yaml(_PROVISIONING / "datasources" / "fleetledger.yaml")["datasources"]
    assert (source["uid"], source["type"]) == (UID, TYPE)
    assert source["jsonData"]["timescaledb"] is True
    assert source["jsonData"]["sslmode"] == "verify-full"
    assert source["secureJsonData"] == {"password": "$__file{/etc/fleetledger/password}"}


def test_what_provisioning_takes_from_the_environment_and_from_files_the_container_has() -> None:
    compose = _compose()
    mounted = {
        volume.split(":")[-2] if volume.endswith(":ro") else volume.split(":")[-1] for volume in compose["volumes"]
    }
    for path in _PROVISIONING.rglob("*.yaml"):
        if path.name == "rules.yaml":
            continue  # annotations and models, in which Grafana puts in nothing
        text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
        assert set(re.findall(r"\$([A-Z]\w+)", text)) <= compose["environment"].keys()
        assert set(re.findall(r"/etc/fleetledger/[\w.]+", text)) <= mounted
    assert "/etc/grafana/provisioning" in mounted


def test_the_container_is_pinned_reads_only_and_is_not_seen_from_outside() -> None:
    compose = _compose()
    assert re.fullmatch(r"grafana/grafana:\d+\.\d+\.\d+", compose["image"])
    writable = [volume for volume in compose["volumes"] if not volume.endswith(":ro")]
    assert writable == ["${FLEETLEDGER_FOLDER:?}/data:/var/lib/grafana"]
    assert compose["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert not [name for name in compose["environment"] if "PASSWORD" in name and not name.endswith("__FILE")]
    for volume in compose["volumes"]:
        if volume.startswith("./"):
            assert (ROOT / "dashboards" / volume.split(":")[0]).is_dir()


def test_who_is_told_exists() -> None:
    file = _yaml(_PROVISIONING / "alerting" / "notifications.yaml")
    known = {point["name"] for point in file["contactPoints"]}
    (policy,) = file["policies"]
    assert {policy["receiver"], *(route["receiver"] for route in policy["routes"])} == known
    (route,) = policy["routes"]
    ((label, operator, pattern),) = route["object_matchers"]
    assert (label, operator) == ("severity", "=~")
    assert {alert.severity for alert in ALERTS if re.fullmatch(pattern, alert.severity)} == {"P0", "P1"}


def test_rules_and_dashboards_share_a_folder() -> None:
    (group,) = _yaml(_PROVISIONING / "alerting" / "rules.yaml")["groups"]
    (provider,) = _yaml(_PROVISIONING / "dashboards" / "fleetledger.yaml")["providers"]
    assert group["folder"] == provider["folder"] == FOLDER
    assert (
        len({rule["uid"] for rule in group["rules"]}) == len({rule["title"] for rule in group["rules"]}) == len(ALERTS)
    )
    for rule in group["rules"]:
        known = {"__expr__", UID}
        assert {each["datasourceUid"] for each in rule["data"]} == known
        assert rule["condition"] in {each["refId"] for each in rule["data"]}
        assert "$" not in rule["title"] + "".join(rule["labels"].values())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.key)
def test_every_alert_says_where_to_look_and_what_to_do(alert: Alert) -> None:
    document, _, anchor = alert.section.partition("#")
    assert anchor in _anchors(ROOT / document)
    (board,) = (board for board in BOARDS if board.uid == alert.board)
    panels = [ready.build() for section in board.sections for ready in section.panels]
    assert panel_id(alert.panel) in [panel.id_val for panel in panels if panel.title == alert.panel]
    # Grafana's backend puts in macros only, and an alert has no range that means anything.
    assert "$" not in alert.sql


def test_only_its_user_can_read_what_the_container_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "grafana"
    prepared = prepare(_SECRET, folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("password", "ca.pem", "admin_password", "grafana.env"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert (folder / "password").read_text() == "geheim"
    assert "geheim" not in prepared.env_file.read_text()
    given = dict(line.split("=", 1) for line in prepared.env_file.read_text().splitlines())
    assert set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "dashboards" / "compose.yaml").read_text())) == given.keys()

    admin = prepared.admin_password_file.read_text()
    assert len(admin) >= 24
    again = prepare(DatabaseSecret(host="127.0.0.1", username="grafana_clone", password="neu", ca="PEM"), folder)
    assert again.admin_password_file.read_text() == admin
    assert (folder / "password").read_text() == "neu"


def test_a_database_whose_certificate_could_not_be_verified_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no authority"):
        prepare(DatabaseSecret(host="db.example.com", username="grafana", password="geheim"), tmp_path)
