"""The settings of the local server: durable as in production, sized for a laptop, silent about values."""

from collections.abc import Mapping
from typing import Final

SETTINGS: Final[Mapping[str, str]] = {
    "ssl": "on",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_worker_processes": "16",  # TimescaleDB's scheduler takes one per database, and one per running job
    "jit": "off",  # its compiler is not installed
    "shared_preload_libraries": "timescaledb",
    "timescaledb.telemetry_level": "off",
    # GMT is built in; any other zone needs a zoneinfo that the host may lack.
    "timezone": "GMT",
    "log_timezone": "GMT",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Statements can hold passwords and readings: the log tells what failed, not with which values.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

# Sorting that is the same on every machine, whatever locales it has.
LOCALE_ARGUMENTS: Final = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")


def render(settings: Mapping[str, str]) -> str:
    """The text of a postgresql.conf.

    https://www.postgresql.org/docs/17/config-setting.html#CONFIG-SETTING-CONFIGURATION-FILE
    """
    return "".join(f"{name} = {quote(value)}\n" for name, value in settings.items())


def quote(value: str) -> str:
    """A value as postgresql.conf takes it: in single quotes, with quotes doubled and backslashes escaped."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
