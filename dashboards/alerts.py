"""What Grafana can tell of from the database alone: alert rules, as it provisions them from a file.

CloudWatch pages (docs/runbook.md, All alarms); these are for those who work in Grafana, and for databases without AWS.
Format: https://grafana.com/docs/grafana/latest/alerting/set-up/provision-alerting-resources/file-provisioning/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dashboards.panels import panel_id
from dashboards.source import TYPE, UID

FOLDER = "Fleetledger"
_SILENT = (
    "FROM devices d LEFT JOIN device_latest l USING (device_id) WHERE d.active "
    "AND (SELECT max(loaded_at) FROM ingest.objects) > now() - interval '5 minutes'"
)
_HEARD = "coalesce(least(l.received_at, now()), l.timestamp, d.registered_at)"


@dataclass(frozen=True)
class Alert:
    """One rule: it fires when the one number that `sql` answers has been above `above` for `minutes`."""

    key: str
    severity: Literal["P0", "P1", "P2", "P3"]
    title: str
    means: str
    sql: str
    above: float
    minutes: int
    board: str
    panel: str
    section: str
    """Where it is said what to do: a document of this repository and a heading in it."""


ALERTS: Sequence[Alert] = (
    Alert(
        key="no-messages",
        severity="P0",
        title="No object was loaded for 5 minutes",
        means="Nothing that devices send becomes rows.",
        sql="SELECT coalesce(extract(epoch FROM now() - max(loaded_at)), 0) AS seconds FROM ingest.objects",
        above=300,
        minutes=1,
        board="iot-pipeline",
        panel="Last object",
        section="docs/runbook.md#no-messages",
    ),
    Alert(
        key="devices-offline",
        severity="P1",
        title="More than half of the devices are offline",
        means="They have sent no reading for 10 minutes, while others have.",
        sql=f"SELECT coalesce(100.0 * count(*) FILTER (WHERE {_HEARD} < now() - interval '10 minutes') "
        f"/ nullif(count(*), 0), 0) AS percent {_SILENT}",
        above=50,
        minutes=3,
        board="iot-overview",
        panel="Silent",
        section="docs/runbook.md#devices-offline",
    ),
    Alert(
        key="device-offline",
        severity="P3",
        title="A device has been offline for an hour",
        means="At least one device in service has sent nothing for more than an hour, while others have.",
        sql=f"SELECT count(*) FILTER (WHERE {_HEARD} < now() - interval '1 hour') AS devices {_SILENT}",
        above=0,
        minutes=5,
        board="iot-overview",
        panel="Silent the longest",
        section="docs/runbook.md#device-offline",
    ),
    Alert(
        key="latency",
        severity="P2",
        title="Readings are late",
        means="One object in twenty holds readings that were on their way for more than 10 seconds.",
        sql="SELECT coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM loaded_at - last_timestamp)), 0) "
        "AS seconds FROM ingest.objects WHERE loaded_at > now() - interval '5 minutes' AND last_timestamp IS NOT NULL",
        above=10,
        minutes=5,
        board="iot-pipeline",
        panel="Delay from reading to row",
        section="docs/runbook.md#latency",
    ),
    Alert(
        key="loader-slow",
        severity="P2",
        title="Objects take long to load",
        means="One object in twenty needs more than 30 seconds from its claim to its commit.",
        sql="SELECT coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY milliseconds), 0) AS milliseconds "
        "FROM ingest.objects WHERE loaded_at > now() - interval '15 minutes' AND status = 'loaded'",
        above=30_000,
        minutes=5,
        board="iot-pipeline",
        panel="Time to load an object",
        section="docs/runbook.md#loader-slow",
    ),
    Alert(
        key="objects-rejected",
        severity="P2",
        title="Objects are rejected",
        means="Objects that cannot be read wait for an operator; all of their readings are missing.",
        sql="SELECT count(*) AS objects FROM ingest.objects WHERE status = 'rejected' AND resolution IS NULL",
        above=0,
        minutes=1,
        board="iot-operations",
        panel="Rejected objects",
        section="docs/runbook.md#objects-rejected",
    ),
    Alert(
        key="quarantine",
        severity="P2",
        title="More than 0.1 % of readings go to quarantine",
        means="They are refused with a reason and kept.",
        sql="SELECT coalesce(1e6 * sum(quarantined) / nullif(sum(readings), 0), 0) AS ppm "
        "FROM ingest.objects WHERE loaded_at > now() - interval '5 minutes'",
        above=1000,
        minutes=5,
        board="iot-pipeline",
        panel="Quarantined",
        section="docs/runbook.md#quarantine",
    ),
    Alert(
        key="anomalies-critical",
        severity="P2",
        title="Critical anomalies are open",
        means="Readings of at least one device are so odd that somebody must look; silent devices are not counted.",
        sql="SELECT count(*) AS episodes FROM anomalies "
        "WHERE resolved_at IS NULL AND severity = 'critical' AND kind <> 'silence'",
        above=0,
        minutes=1,
        board="iot-overview",
        panel="Anomalies, open",
        section="docs/runbook.md#anomalies-critical",
    ),
    Alert(
        key="rollups-stale",
        severity="P2",
        title="Rollups are stale",
        means="What was stored more than 10 minutes ago is not in every rollup yet, so dashboards show old numbers.",
        sql="SELECT coalesce(extract(epoch FROM now() - min(since)), 0) AS seconds FROM rollup.waiting",
        above=600,
        minutes=5,
        board="iot-operations",
        panel="Rollups behind by",
        section="docs/runbook.md#rollups-stale",
    ),
)


def provisioned(alerts: Sequence[Alert] = ALERTS) -> dict[str, Any]:
    """The contents of `provisioning/alerting/rules.yaml`."""
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "fleetledger",
                "folder": FOLDER,
                "interval": "1m",
                "rules": [_rule(alert) for alert in alerts],
            }
        ],
    }


def _rule(alert: Alert) -> dict[str, Any]:
    # Grafana puts environment variables into titles and labels, but not into annotations and models.
    return {
        "uid": f"fleetledger-{alert.key}",
        "title": alert.title,
        "condition": "B",
        "data": [_measured(alert.sql), _compared(alert.above)],
        "for": f"{alert.minutes}m",
        # Each query answers with one row whatever the tables hold: without an answer, something is broken.
        "noDataState": "Alerting",
        "execErrState": "Error",
        "isPaused": False,
        "dashboardUid": alert.board,
        "panelId": panel_id(alert.panel),
        "annotations": {
            "summary": f"{alert.means} Now: {{{{ $values.A.Value }}}}",
            "runbook_url": alert.section,
            "__dashboardUid__": alert.board,
            "__panelId__": str(panel_id(alert.panel)),
        },
        "labels": {"severity": alert.severity, "alarm": alert.key},
    }


def _measured(sql: str) -> dict[str, Any]:
    return {
        "refId": "A",
        "datasourceUid": UID,
        "relativeTimeRange": {"from": 600, "to": 0},
        "model": {
            "refId": "A",
            "datasource": {"type": TYPE, "uid": UID},
            "editorMode": "code",
            "format": "table",
            "rawQuery": True,
            "rawSql": sql,
            "intervalMs": 1000,
            "maxDataPoints": 43200,
        },
    }


def _compared(above: float) -> dict[str, Any]:
    return {
        "refId": "B",
        "datasourceUid": "__expr__",
        "relativeTimeRange": {"from": 0, "to": 0},
        "model": {
            "refId": "B",
            "type": "threshold",
            "datasource": {"type": "__expr__", "uid": "__expr__"},
            "expression": "A",
            "conditions": [{"type": "query", "evaluator": {"type": "gt", "params": [above]}}],
        },
    }
