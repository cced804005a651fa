"""Puts the stacks of one environment together."""

from aws_cdk import App, Environment, Tags

from infra.base import BaseStack
from infra.database import DatabaseStack
from infra.ingest import IngestStack
from infra.operations import OperationsStack
from infra.replica import ReplicaStack
from infra.settings import Settings


def build(app: App, settings: Settings) -> None:
    """Adds the stacks of an environment to `app`, ordered by how long their contents live."""
    names = settings.names
    environment = Environment(account=settings.account, region=settings.region)
    base = BaseStack(
        app,
        names.stack("base"),
        settings=settings,
        env=environment,
        description="Fleetledger: the key under which data rests, and who reached for it",
        termination_protection=settings.retain_data,
    )
    network = None
    database = DatabaseStack(
        app,
        names.stack("database"),
        settings=settings,
        env=environment,
        description="Fleetledger: who the functions are to TimescaleDB",
        termination_protection=settings.retain_data,
    )
    ingest = IngestStack(
        app,
        names.stack("ingest"),
        settings=settings,
        admin_secret=database.admin_secret,
        loader_secret=database.loader_secret,
        network=network,
        key=base.key,
        access_logs=base.access_logs,
        env=environment,
        description="Fleetledger: device, rule, Firehose, S3, loader",
        termination_protection=settings.retain_data,
    )
    OperationsStack(
        app,
        names.stack("operations"),
        settings=settings,
        bucket=ingest.bucket,
        object_queue=ingest.object_queue,
        loader_secret=database.loader_secret,
        network=network,
        key=base.key,
        env=environment,
        description="Fleetledger: scheduled work",
        termination_protection=settings.retain_data,
    )
    if settings.replica_region:
        ReplicaStack(
            app,
            names.stack("replica"),
            settings=settings,
            env=Environment(account=settings.account, region=settings.replica_region),
            description="Fleetledger: a second copy of the raw objects",
            termination_protection=settings.retain_data,
        )
    Tags.of(app).add("project", "fleetledger")
    Tags.of(app).add("environment", settings.environment)
