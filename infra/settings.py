"""One frozen, validated settings object per environment: every difference between environments is a value here."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra.names import Names
from ops.errors import UserError

EnvironmentName = Literal["local", "dev", "staging", "prod"]
ENVIRONMENTS: tuple[EnvironmentName, ...] = ("local", "dev", "staging", "prod")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one environment. Ranges are those of the AWS service that each value goes to."""

    environment: EnvironmentName
    account: Annotated[str, Meta(pattern=r"^\d{12}$")] | None = None
    """AWS account id; None leaves the stacks deployable to whichever account the credentials name."""
    region: Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")] | None = None

    # Where the database is: on an instance of ours in a network of ours, or anywhere else that a secret names.
    database: Literal["self_hosted", "external"] = "self_hosted"
    vpc_cidr: Annotated[str, Meta(pattern=r"^\d{1,3}(\.\d{1,3}){3}/(1[6-9]|2[0-4])$")] = "10.42.0.0/16"
    first_zone: Annotated[int, Meta(ge=0, le=4)] = 0
    """Which of the region's zones, counted from 0, is the first of the two; the database stands in it. Not every zone has
    every instance type (docs/database.md). Settled by the first deployment: another zone needs other subnets."""
    endpoint_zones: Annotated[int, Meta(ge=1, le=2)] = 1
    """Zones in which interface endpoints stand; each costs by the hour, and one serves both zones while it lives."""
    s3_prefix_list: Annotated[str, Meta(pattern=r"^pl-[0-9a-f]+$")] | None = None
    """S3's managed prefix list in the region, for the security groups (docs/database.md says how to look it up)."""
    flow_logs: bool = False
    database_instance: Literal["present", "absent"] = "present"
    """`absent` takes the instance away and leaves its volume: the first half of replacing it (docs/database.md)."""
    database_instance_type: Annotated[str, Meta(pattern=r"^[a-z]+\d+g[a-z]*\.[0-9a-z]+$")] = "t4g.medium"
    """A Graviton type."""
    database_image_parameter: Annotated[
        str,
        Meta(pattern=r"^/aws/service/canonical/ubuntu/server/24\.04/stable/\d{8}(\.\d+)?/arm64/hvm/ebs-gp3/ami-id$"),
    ] = "/aws/service/canonical/ubuntu/server/24.04/stable/20261004/arm64/hvm/ebs-gp3/ami-id"
    """Canonical's public parameter of an Ubuntu 24.04 image, with a serial: `current` would change, and a changed image
    replaces the instance. https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/"""
    database_volume_gib: Annotated[int, Meta(ge=10, le=16_384)] = 50
    database_volume_iops: Annotated[int, Meta(ge=3000, le=16_000)] = 3000
    database_volume_mib_per_second: Annotated[int, Meta(ge=125, le=1000)] = 125
    backup_retention_days: Annotated[int, Meta(ge=1, le=365)] = 7
    rotate_passwords_days: Annotated[int, Meta(ge=1, le=365)] | None = 30
    """How often Secrets Manager has the loader's password changed; None: never (the emulator cannot)."""
    grafana_login: bool = True
    """A login of its own for Grafana and analysts, with a secret (docs/consumers.md); False: it may not log in."""
    scada_login: bool = True
    """The same for SCADA systems, which see the schema `scada` and nothing else."""
    access_log_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    replica_region: Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")] | None = None
    """Copy every raw object to a bucket in this region too; needs account and region to be given."""

    # Firehose buffering hints: https://docs.aws.amazon.com/firehose/latest/dev/buffering-hints.html
    buffer_interval_seconds: Annotated[int, Meta(ge=0, le=900)] = 60
    buffer_size_mib: Annotated[int, Meta(ge=1, le=128)] = 5

    # The raw objects: S3 is the source of truth, so archived rather than deleted while they may be replayed.
    archive_after_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    expire_after_days: Annotated[int, Meta(ge=2, le=3650)] = 365

    # The telemetry contract (design, "The telemetry contract").
    max_future_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 3600
    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 365
    """Of readings, and of their rollup by the minute."""

    # How the database keeps them; the migrator writes it there.
    rollup_retention_days: Annotated[int, Meta(ge=1, le=36_500)] = 1825
    """Of rollups by the hour, day and week."""
    chunk_hours: Annotated[int, Meta(ge=1, le=720)] = 24
    """Of readings in one chunk, for chunks made from now on; the chunk that is written to should fit into memory."""
    compress_after_days: Annotated[int, Meta(ge=1, le=3650)] = 7
    """On the Community edition of TimescaleDB; what comes later still finds its place, at a higher price."""

    loader_memory_mib: Annotated[int, Meta(ge=128, le=10_240)] = 512
    loader_timeout_seconds: Annotated[int, Meta(ge=10, le=900)] = 120
    loader_max_concurrency: Annotated[int, Meta(ge=2, le=1000)] = 5
    """Loaders at once, hence database connections of the loader; SQS event sources allow 2 to 1000."""
    loader_max_receives: Annotated[int, Meta(ge=1, le=1000)] = 20
    """Deliveries of one S3 event before it goes to the dead-letter queue: with the loader's waits, about four hours."""

    # The sweeper, which finds objects that were never loaded.
    sweep_interval_minutes: Annotated[int, Meta(ge=2, le=1440)] = 15
    sweep_lookback_hours: Annotated[int, Meta(ge=1, le=720)] = 24
    """How far back each run looks, by the hour in the key; once a day everything within the retention is looked at."""
    sweep_grace_minutes: Annotated[int, Meta(ge=1, le=1440)] = 15
    """Younger objects are on their way through the queue."""
    sweep_resend_hours: Annotated[int, Meta(ge=1, le=336)] = 6
    """How long an object that was announced again is left alone: longer than the queue's deliveries take."""

    # What watches, and whom it tells.
    alarms: Literal["full", "plain"] = "full"
    """`plain` leaves out composite alarms and metric math, which the emulator does not take."""
    devices_always_send: bool = True
    """False where devices come and go, such as simulated ones: that nothing arrives is then rest, and told to nobody."""
    offline_after_minutes: Annotated[int, Meta(ge=1, le=1440)] = 10
    """A device without a reading for so long counts as offline."""
    probe_iot: bool = True
    """Connect to AWS IoT Core every minute, to know that devices could (the emulator's endpoint is at no real address)."""
    pager_secret: Annotated[str, Meta(min_length=1)] | None = None
    """Secrets Manager secret whose member `url` is the pager's HTTPS endpoint (it carries a key), for P0 and P1."""
    alert_email: Annotated[str, Meta(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    """For P2 and P3, and for P0 and P1 too where there is no pager."""
    slack_workspace_id: Annotated[str, Meta(pattern=r"^T[0-9A-Z]+$")] | None = None
    slack_channel_id: Annotated[str, Meta(pattern=r"^C[0-9A-Z]+$")] | None = None
    """As `alert_email`, by Amazon Q Developer in chat applications; both or neither."""
    budget_dollars_per_month: Annotated[int, Meta(ge=1)] | None = None
    alarm_owner: Annotated[str, Meta(min_length=1)] = "IoT Platform Team"
    runbook_url: Annotated[str, Meta(pattern=r"^https://\S+$")] | None = None
    """Where docs/runbook.md is published, for the links in alarms; None: the path within the repository."""
    github_repository: Annotated[str, Meta(pattern=r"^[\w.-]+(@\d+)?/[\w.-]+(@\d+)?$")] | None = None
    """`owner/name` of the repository whose workflow may deploy this environment (OIDC, no stored keys)."""

    # The fleet that is expected; `fleet cost` reckons with it.
    devices: Annotated[int, Meta(ge=1)] = 1000
    readings_per_second: Annotated[int, Meta(ge=1)] = 1000
    readings_per_message: Annotated[int, Meta(ge=1, le=1000)] = 25
    reading_bytes: Annotated[int, Meta(ge=1)] = 105

    log_retention_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731] = 30
    retain_data: bool = True
    """Keep the bucket, secrets and logs when a stack is deleted, and protect the stacks from deletion."""
    migrate_on_deploy: bool = True
    """Run the migrator Lambda as part of the deployment; `local` migrates from `fleet up` instead."""
    hold_to_rules: bool = True
    """Fail the synthesis on findings of cdk-nag's rule packs."""
    lambda_platform: Literal["aws", "host"] = "aws"
    """Wheels for Lambda on Graviton, or for this machine's own Python, which is what the emulator runs."""

    @property
    def consumers(self) -> tuple[str, ...]:
        """The database logins of those who only read, each with a secret of that name."""
        return tuple(name for name, wanted in (("grafana", self.grafana_login), ("scada", self.scada_login)) if wanted)

    @property
    def names(self) -> Names:
        """The names of everything that is deployed in this environment."""
        return Names.of(self.environment)


_DIFFERENCES: dict[str, dict[str, Any]] = {
    "local": {
        "buffer_interval_seconds": 1,
        "buffer_size_mib": 1,
        "loader_timeout_seconds": 30,
        "sweep_interval_minutes": 5,
        "sweep_grace_minutes": 1,
        "log_retention_days": 1,
        "retain_data": False,
        "migrate_on_deploy": False,
        "lambda_platform": "host",
        "hold_to_rules": False,
        "database": "external",
        "rotate_passwords_days": None,
        "alarms": "plain",
        "probe_iot": False,
    },
    "dev": {
        "log_retention_days": 7,
        "retain_data": False,
        "expire_after_days": 90,
        "retention_days": 90,
        "devices_always_send": False,
        "devices": 50,
        "readings_per_second": 10,
        "budget_dollars_per_month": 150,
    },
    "staging": {
        "log_retention_days": 14,
        "database_instance_type": "m7g.large",
        "database_volume_gib": 100,
        "backup_retention_days": 14,
        "devices_always_send": False,
        "devices": 200,
        "readings_per_second": 100,
        "budget_dollars_per_month": 300,
    },
    "prod": {
        # Every 3 s: the runbook's 5 s from device to row leave the rest for Firehose and the loader.
        "buffer_interval_seconds": 3,
        "log_retention_days": 90,
        "loader_memory_mib": 1024,
        "endpoint_zones": 2,
        "flow_logs": True,
        "database_instance_type": "r7g.large",
        "database_volume_gib": 1000,
        "database_volume_iops": 6000,
        "database_volume_mib_per_second": 250,
        "backup_retention_days": 14,
        "budget_dollars_per_month": 700,
    },
}


def load(environment: str | None, overrides: Mapping[str, str] | None = None) -> Settings:
    """Settings of `environment`, with values from `cdk -c name=value` laid over them.

    Raises UserError with one line when the environment is unknown or a value is not usable.
    """
    choices = ", ".join(ENVIRONMENTS)
    if not environment:
        raise UserError(f"no environment given: add -c env=NAME, where NAME is one of {choices}")
    if environment not in ENVIRONMENTS:
        raise UserError(f"unknown environment {environment!r}: it is one of {choices}")
    values = {"environment": environment, **_DIFFERENCES[environment], **(overrides or {})}
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"settings of {environment!r}: {_explain(str(error), values)}") from None
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    """Raises UserError where values do not go together."""
    of = f"settings of {settings.environment!r}: "
    if settings.expire_after_days <= settings.archive_after_days:
        raise UserError(
            f"{of}expire_after_days is {settings.expire_after_days}; "
            f"it must be greater than archive_after_days ({settings.archive_after_days})"
        )
    if settings.rollup_retention_days < settings.retention_days:
        raise UserError(
            f"{of}rollup_retention_days is {settings.rollup_retention_days}; "
            f"it must not be less than retention_days ({settings.retention_days})"
        )
    if settings.replica_region and not (settings.account and settings.region):
        raise UserError(f"{of}replica_region is given: add account and region, so that the copy's place is known")
    if settings.replica_region and settings.replica_region == settings.region:
        raise UserError(f"{of}replica_region is {settings.replica_region!r}; it must be another than region")
    if bool(settings.slack_workspace_id) != bool(settings.slack_channel_id):
        raise UserError(f"{of}slack_workspace_id and slack_channel_id go together: give both or neither")


def _explain(message: str, values: Mapping[str, object]) -> str:
    """msgspec's `Expected ... - at `$.name`` with the name and the value in front."""
    expected, _, path = message.partition(" - at `$.")
    name = path.rstrip("`")
    if not name:
        return expected
    return f"{name} is {values.get(name)!r}; {expected[0].lower()}{expected[1:]}"
