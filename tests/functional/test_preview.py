"""The page of all dashboards, of a database with a fleet in it and of an empty one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dashboards.preview import browser
from dashboards.reading.model import load_all
from ops.dashboards.preview import Written, failure_lines, write_preview
from ops.errors import UserError
from tests.functional.fleet_data import DEVICES, SITES, Fleet, fleet_database
from tests.preview_page import assert_is_self_contained, panels, parsed

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
MAY_BE_EMPTY = {
    "Rejected objects",
    "Objects announced again",
    "Most repeated devices",
    "Refused by reason",
    "Duplicates",
}
"""Panels that have nothing to show of a fleet that is well."""


@pytest.fixture(scope="module")
def fleet(server_dsn: str, template_database: str) -> Iterator[Fleet]:
    with fleet_database(server_dsn, template_database) as made:
        with psycopg.connect(made.dsn, autocommit=True) as connection:
            connection.execute("UPDATE devices SET name = %s WHERE device_id = %s", (HOSTILE, DEVICES[-1]))
            connection.execute(
                "INSERT INTO devices (device_id, name, site_id) VALUES (%s, %s, 'north')", (HOSTILE[:120], HOSTILE)
            )
            connection.execute(
                "INSERT INTO anomalies (device_id, kind, severity, started_at, last_at, readings, value, metadata) "
                "VALUES (%s, 'silence', 'critical', now() - interval '1 hour', now(), 0, 3600, %s)",
                (HOSTILE[:120], Jsonb({"note": HOSTILE})),
            )
        yield made


@pytest.fixture(scope="module")
def page(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    path = tmp_path_factory.mktemp("preview") / "preview.html"
    with psycopg.connect(fleet.dsn, autocommit=True) as connection:
        return path, write_preview(connection, "local", path, devices=[DEVICES[0], HOSTILE[:120]])


def test_every_panel_of_every_dashboard_is_drawn_or_says_why_not(page: tuple[Path, Written]) -> None:
    path, written = page
    assert failure_lines(written) == []
    drawn = panels(path)
    assert {(each["uid"], each["panel"]) for each in drawn} == {
        (dashboard.uid, panel.title) for dashboard in load_all() for panel in dashboard.panels
    }
    for panel in drawn:
        assert panel["kind"] != "error", panel
        assert not panel["bad"], panel
        assert panel["marks"] > 0 or panel["reason"], panel
    # Thirty days hold all that there is; of a device that never sent, nothing can be drawn.
    full = [each for each in drawn if each["range"] == "30d" and each["device"] in ("", DEVICES[0])]
    empty = {each["panel"] for each in full if not each["marks"]}
    assert empty <= MAY_BE_EMPTY


def test_a_hostile_name_stays_a_name(page: tuple[Path, Written]) -> None:
    text = page[0].read_text()
    assert_is_self_contained(text)
    assert "owned" in text
    assert HOSTILE not in text
    assert len(parsed(text).scripts) == 3


def test_the_page_says_what_was_asked(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "preview.html"
    with psycopg.connect(fleet.dsn, autocommit=True) as connection:
        written = write_preview(
            connection, "local", path, range_texts=["2h"], uids=["iot-device"], sites=["north"], devices=[DEVICES[2]]
        )
    data = json.loads(parsed(path.read_text()).scripts[0])
    [dashboard] = data["dashboards"]
    [shown] = dashboard["pages"]
    assert data["ranges"] == [{"id": "2h", "title": "2 hours"}]
    assert dashboard["default_range"] == "2h"
    chips = {chip["name"]: chip["value"] for chip in shown["variables"]}
    assert chips["site"] == SITES["north"]
    assert chips["device"] == shown["device"] == DEVICES[2]
    assert written.size_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("wish", "line"),
    [
        ({"devices": ["device-99999"]}, "--device device-99999: no such device"),
        ({"sites": ["nowhere"]}, "--site nowhere: there is no such site; fleet devices sites lists them"),
        ({"uids": ["iot-nothing"]}, "--dashboard iot-nothing: it is one of"),
        ({"range_texts": ["never"]}, "--range 'never' is no interval; write it as 30s, 5m, 1h or 1d"),
    ],
)
def test_what_is_not_there_is_one_line(fleet: Fleet, tmp_path: Path, wish: Any, line: str) -> None:
    with psycopg.connect(fleet.dsn, autocommit=True) as connection, pytest.raises(UserError) as refused:
        write_preview(connection, "local", tmp_path / "preview.html", **wish)
    assert line in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_makes_a_page_and_a_failed_query_is_said_in_its_panel(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "preview.html"
    assert write_preview(connection, "local", path, range_texts=["1h"]).failures == []
    for panel in panels(path):
        assert not panel["bad"], panel
        assert panel["marks"] > 0 or panel["reason"], panel
    connection.execute("ALTER TABLE ingest.objects RENAME TO gone")
    written = write_preview(connection, "local", path, range_texts=["1h"], uids=["iot-pipeline"])
    assert written.failures
    assert all(line.startswith("iot-pipeline, panel ") and "\n" not in line for line in written.failures)
    failed = [each for each in panels(path) if each["kind"] == "error"]
    assert 'relation "ingest.objects" does not exist' in {each["reason"] for each in failed}


@pytest.mark.skipif(browser.chromium() is None, reason="needs a Chromium on the PATH")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_shows_it_without_a_complaint(page: tuple[Path, Written], theme: str) -> None:
    program = browser.chromium()
    assert program
    done = browser.run(
        program, browser.address(page[0], "iot-overview", theme), ["--dump-dom", "--enable-logging=stderr"]
    )
    assert f'data-theme="{theme}"' in done.stdout
    assert 'data-ready="true"' in done.stdout
    assert done.stdout.count("<canvas") >= 4
    assert "<title>IoT overview" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
