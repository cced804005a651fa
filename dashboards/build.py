"""`python -m dashboards.build`: the dashboards' JSON and the alert rules, as they are committed and as Grafana reads them."""

import json
from pathlib import Path

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.alerts import provisioned
from dashboards.board import Board
from dashboards.boards import BOARDS
from dashboards.canonical import canonical

_HERE = Path(__file__).parent
FOLDER = _HERE / "json"
RULES = _HERE / "provisioning" / "alerting" / "rules.yaml"


def render(board: Board) -> str:
    """The JSON of a dashboard, the same for the same code."""
    return canonical(json.loads(json.dumps(board.build(), cls=JSONEncoder)))


def render_rules() -> str:
    """The alert rules, the same for the same code."""
    head = "# Written by python -m dashboards.build from dashboards/alerts.py.\n"
    return head + yaml.safe_dump(provisioned(), sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Writes the file of each dashboard, removes those of dashboards that are no more, and writes the alert rules."""
    FOLDER.mkdir(exist_ok=True)
    written = {FOLDER / f"{board.uid}.json": render(board) for board in BOARDS}
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    for path in set(FOLDER.glob("*.json")) - set(written):
        path.unlink()
    RULES.write_text(render_rules(), encoding="utf-8")


if __name__ == "__main__":
    main()
