"""Every alarm of an environment, in the order in which data flows."""

from infra.alarms import arrival, loading, upkeep
from infra.alarms.metrics import Metrics
from infra.alarms.model import Alarm
from infra.alarms.rows import rows
from infra.settings import Settings

_OF_THE_PROBE = ("iot-unreachable", "probe-silent")
_OF_SILENCE = ("no-messages", "devices-offline", "device-offline")
"""They would be in alarm whenever nobody simulates devices, and keep the alarms quiet that are about faults."""


def catalogue(settings: Settings, *, database_instance_id: str | None) -> tuple[Alarm, ...]:
    """The alarms that an environment has; those of the instance need one of ours to be there.

    With `alarms="plain"` only those that rest on one metric.
    """
    metrics = Metrics(settings.names)
    own = settings.database == "self_hosted"
    alarms = (
        *arrival.broker(metrics),
        *arrival.rule(metrics),
        *arrival.firehose(settings, metrics),
        *loading.loader(settings, metrics),
        *rows(settings, metrics),
        *upkeep.database(metrics),
        *(upkeep.own_database(metrics) if own and settings.database_instance == "present" else ()),
        *(upkeep.instance(settings, metrics, database_instance_id) if database_instance_id else ()),
        *upkeep.schedules(settings, metrics),
        *upkeep.maintenance(metrics),
        *(upkeep.rotation(metrics) if settings.rotate_passwords_days else ()),
    )
    absent = set() if settings.probe_iot else set(_OF_THE_PROBE)
    absent |= set() if settings.devices_always_send else set(_OF_SILENCE)
    return tuple(alarm for alarm in alarms if alarm.key not in absent and (alarm.plain or settings.alarms == "full"))


def causes_of(alarm: Alarm, alarms: tuple[Alarm, ...]) -> tuple[Alarm, ...]:
    """The alarms that keep this one quiet, as far as this environment has them."""
    by = alarm.quiet.by if alarm.quiet else ()
    return tuple(cause for cause in alarms if cause.key in by)
