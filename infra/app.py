"""Puts the stacks of one environment together."""

from aws_cdk import App, Environment, Tags

from infra.database import DatabaseStack
from infra.ingest import IngestStack
from infra.key import KeyStack
from infra.operations import OperationsStack
from infra.settings import Settings


def build(app: App, settings: Settings) -> None:
    """Adds the stacks of an environment to `app`, ordered by how long their contents live."""
    names = settings.names
    environment = Environment(account=settings.account, region=settings.region)
    key = (
        KeyStack(
            app,
            names.stack("key"),
            settings=settings,
            env=environment,
            description="Fleetledger: the key under which data rests",
            termination_protection=settings.retain_data,
        ).key
        if settings.customer_managed_key
        else None
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
        key=key,
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
        key=key,
        env=environment,
        description="Fleetledger: scheduled work",
        termination_protection=settings.retain_data,
    )
    Tags.of(app).add("project", "fleetledger")
    Tags.of(app).add("environment", settings.environment)
