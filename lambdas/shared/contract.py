"""The telemetry contract: which metrics there are, what is plausible, and what the bits of `quality` mean."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A measured quantity with a column of its own. Values outside `low`..`high` are kept and flagged.

    The table `metrics` says the same to whoever reads the database. Ranges of a device type, which that table may have
    beside these, do not reach the loader: what it flags must follow from S3 alone, or a rebuild would flag otherwise.
    """

    name: str
    unit: str
    low: float
    high: float
    description: str
    wrong_type: int
    out_of_range: int


METRICS = tuple(
    Metric(name, unit, low, high, description, 1 << position, 1 << (position + 4))
    for position, (name, unit, low, high, description) in enumerate(
        [
            # What an industrial sensor can report at all, not what is comfortable: a spike is still a reading.
            ("temperature", "degC", -60.0, 125.0, "air temperature"),
            ("humidity", "%", 0.0, 100.0, "relative humidity"),
            ("pressure", "hPa", 300.0, 1100.0, "air pressure where the device stands"),
            ("battery", "%", 0.0, 100.0, "charge of the battery"),
        ]
    )
)
NO_SEQ = 1 << 8
"""Quality bit of a reading without a usable `seq`; it is stored with seq 0."""

MAX_LINE_BYTES = 160 * 1024
"""IoT Core takes payloads of at most 128 KiB; the rest is what the rule adds and JSON escapes."""
