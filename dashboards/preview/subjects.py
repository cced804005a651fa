"""Which devices the dashboard for a device is shown for."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import psycopg

from ops.errors import UserError

_SHOWN = 3
# Those that are heard, and of them those with the most to show: open anomalies, the critical first, then recent ones.
_MOST_TO_SHOW = """
    SELECT d.device_id FROM devices d LEFT JOIN device_latest l USING (device_id) LEFT JOIN (
        SELECT device_id, count(*) FILTER (WHERE resolved_at IS NULL) AS open, count(*) AS recent,
            count(*) FILTER (WHERE resolved_at IS NULL AND severity = 'critical') AS critical
        FROM anomalies WHERE resolved_at IS NULL OR started_at > %(now)s - interval '1 day' GROUP BY 1
    ) a USING (device_id)
    WHERE d.active AND (%(sites)s::text[] IS NULL OR coalesce(d.site_id, '(none)') = ANY (%(sites)s))
    ORDER BY l.timestamp > %(heard)s DESC NULLS LAST, a.critical DESC NULLS LAST, a.open DESC NULLS LAST,
        a.recent DESC NULLS LAST, d.device_id
    LIMIT %(shown)s
"""


def subjects(connection: psycopg.Connection, wanted: Sequence[str], sites: Sequence[str], now: datetime) -> list[str]:
    """The devices given, or a few of those sites that have most to show. Raises UserError for one that is not registered."""
    if not wanted:
        parameters = {"now": now, "heard": now - timedelta(hours=1), "sites": list(sites) or None, "shown": _SHOWN}
        return [device for (device,) in connection.execute(_MOST_TO_SHOW, parameters)]
    rows = connection.execute("SELECT device_id FROM devices WHERE device_id = ANY (%s)", (list(wanted),)).fetchall()
    missing = [device for device in wanted if (device,) not in rows]
    if missing:
        raise UserError(f"--device {missing[0]}: no such device; fleet devices list shows which there are")
    return list(dict.fromkeys(wanted))
