"""iot-operations: what waits for an operator, and whether what runs by the clock keeps up."""

from dashboards import annotations, links, units
from dashboards.board import Board, Section
from dashboards.panels import Field, chart, number, rows

_WAITING = "FROM ingest.refusals WHERE resolution IS NULL"

BOARD = Board(
    uid="iot-operations",
    title="IoT operations",
    description="What waits for an operator: refused objects and readings, lost announcements; rollups, migrations.",
    annotations=[annotations.deployments()],
    range="now-24h",
    sections=[
        Section(
            "Now",
            [
                number(
                    "Refusals that wait",
                    "Lines, messages and objects that were refused and that nobody has redriven or discarded.",
                    f"SELECT count(*) AS waiting {_WAITING}",
                    steps=[(1, "yellow"), (1000, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Rejected objects that wait",
                    "Whole objects that could not be read; all of their readings are missing.",
                    "SELECT count(*) AS waiting FROM ingest.objects WHERE status = 'rejected' AND resolution IS NULL",
                    steps=[(1, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Rollups behind by",
                    "For how long the oldest change that could be in the rollups has been waiting. A minute or two is usual.",
                    "SELECT coalesce(extract(epoch FROM now() - min(since)), 0) AS behind FROM rollup.waiting",
                    unit="dtdurations",
                    steps=[(300, "yellow"), (600, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Changes that wait",
                    "Changes that are not in the rollups yet.",
                    "SELECT count(*) AS waiting FROM rollup.waiting",
                    width=4,
                ),
                number(
                    "Announced again",
                    "Objects in S3 that the ledger lacks and whose event the sweeper sent again: the way from S3 lost it.",
                    "SELECT count(*) AS objects FROM ingest.announced_again",
                    steps=[(1, "yellow"), (10, "red")],
                    base="green",
                    width=4,
                ),
                number(
                    "Schema version",
                    "The newest migration that was applied.",
                    "SELECT max(version) AS version FROM ingest.migrations",
                    unit=units.NONE,
                    width=4,
                ),
            ],
        ),
        Section(
            "Balance",
            [
                number(
                    "Missing of the last day",
                    "Of the readings of the last 24 closed hours that sequence numbers tell of: neither rows nor in quarantine; "
                    "and how many of these hours are balanced. An hour is closed 15 minutes after its end.",
                    "SELECT missing_ppm, hours FROM ingest.balance_lately WHERE expected > 0",
                    fields=[
                        Field(
                            "missing_ppm",
                            title="missing",
                            unit="ppm",
                            steps=[(1, "yellow"), (100, "red")],
                            base="green",
                        ),
                        Field("hours", title="hours balanced"),
                    ],
                    width=6,
                    height=8,
                    none="no closed hour yet",
                ),
                rows(
                    "Where readings are missing",
                    "Devices and hours of the last week whose balance does not come out, the newest first. fleet audit.",
                    """
SELECT device_id, hour AS "hour", source, expected, rows, quarantined, in_flight, missing, differing, checked_at AS "checked"
FROM ingest.balance WHERE hour > now() - interval '7 days' AND (missing > 0 OR differing > 0)
ORDER BY ingest.balance.hour DESC, missing DESC, device_id LIMIT 50
""",
                    fields=[
                        Field("device_id", title="device", link=links.TO_DEVICE_ANYWHERE),
                        Field("hour", unit=units.TIME),
                        Field("checked", unit=units.TIME),
                        Field("in_flight", title="in flight"),
                        Field("missing", steps=[(1, "red")], base="text", colored=True),
                        Field("differing", steps=[(1, "red")], base="text", colored=True),
                    ],
                    width=18,
                    none="nothing is missing",
                ),
            ],
        ),
        Section(
            "The ledger",
            [
                chart(
                    "Objects by status",
                    "By when the loader claimed them.",
                    """
SELECT $__timeGroupAlias(loaded_at, $__interval), status AS metric, count(*) AS value
FROM ingest.objects WHERE $__timeFilter(loaded_at) GROUP BY 1, 2 ORDER BY 1, 2
""",
                    bars=True,
                    stacked=True,
                    low=0,
                    fields=[Field("loaded", color="green"), Field("rejected", color="red")],
                    interval="1m",
                ),
                rows(
                    "Newest objects",
                    "The newest of the ledger, whatever the range.",
                    """
SELECT object_id, status, loaded_at AS "loaded", readings, rows, duplicates, quarantined, milliseconds, key
FROM ingest.objects ORDER BY object_id DESC LIMIT 50
""",
                    fields=[
                        Field("loaded", unit=units.TIME),
                        Field("milliseconds", title="time", unit=units.MILLISECONDS),
                        Field("quarantined", steps=[(1, "orange")], base="text", colored=True),
                    ],
                    none="the ledger is empty",
                ),
                rows(
                    "Rejected objects",
                    "Not redriven and not discarded. fleet quarantine list --kind object.",
                    """
SELECT object_id, claimed_at AS "rejected", reason, size_bytes AS "size", key
FROM ingest.objects WHERE status = 'rejected' AND resolution IS NULL ORDER BY claimed_at DESC LIMIT 50
""",
                    fields=[Field("rejected", unit=units.TIME), Field("size", unit=units.BYTES)],
                    width=24,
                    height=6,
                    none="no object waits",
                ),
            ],
        ),
        Section(
            "Quarantine",
            [
                rows(
                    "Waiting, by reason",
                    "What waits for an operator, and since when. fleet quarantine redrive --reason REASON.",
                    f"""
SELECT kind, reason, count(*) AS "waiting", count(DISTINCT device_id) AS "devices", min(at) AS "oldest", max(at) AS "newest"
{_WAITING} GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 50
""",
                    fields=[Field("oldest", unit=units.TIME), Field("newest", unit=units.TIME)],
                    none="nothing waits",
                ),
                rows(
                    "Waiting, the newest",
                    "The text itself is shown by fleet quarantine show only.",
                    f"""
SELECT kind, id, at AS "refused", reason, device_id, size_bytes AS "size", key, line
{_WAITING} ORDER BY at DESC LIMIT 50
""",
                    fields=[
                        Field("device_id", title="device", link=links.TO_DEVICE_ANYWHERE),
                        Field("refused", unit=units.TIME),
                        Field("size", unit=units.BYTES),
                    ],
                    none="nothing waits",
                ),
            ],
        ),
        Section(
            "By the clock",
            [
                rows(
                    "Objects announced again",
                    "S3 has them, the ledger does not; they leave this list when they are loaded.",
                    """
SELECT arrived_at AS "stored", announced_at AS "announced", times, bucket, key
FROM ingest.announced_again ORDER BY arrived_at LIMIT 50
""",
                    fields=[Field("stored", unit=units.TIME), Field("announced", unit=units.TIME)],
                    none="no announcement was lost",
                ),
                rows(
                    "Migrations",
                    "What was applied to this database, and when.",
                    """
SELECT to_char(version, 'FM0000') AS "version", name, applied_at AS "applied"
FROM ingest.migrations ORDER BY ingest.migrations.version DESC LIMIT 100
""",
                    fields=[Field("applied", unit=units.TIME)],
                    none="no migration",
                ),
            ],
        ),
    ],
)
