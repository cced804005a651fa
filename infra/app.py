"""Puts the stacks of one environment together."""

from typing import Any

from aws_cdk import App, Environment, ReferenceStrength, Stack, Tags

from infra.base import BaseStack
from infra.database import DatabaseStack
from infra.deployer import DeployerStack
from infra.ingest import IngestStack
from infra.monitoring import MonitoringStack
from infra.network import NetworkStack
from infra.operations import OperationsStack
from infra.replica import ReplicaStack
from infra.settings import Settings


def build(app: App, settings: Settings) -> None:
    """Adds the stacks of an environment to `app`, ordered by how long their contents live."""
    names = settings.names
    shared: dict[str, Any] = {
        "settings": settings,
        "env": Environment(account=settings.account, region=settings.region),
        "termination_protection": settings.retain_data,
    }
    base = BaseStack(
        app,
        names.stack("base"),
        description="Fleetledger: the key under which data rests, and who reached for it",
        **shared,
    )
    network = (
        NetworkStack(
            app,
            names.stack("network"),
            key=base.key,
            description="Fleetledger: where functions and database meet, with no way to the internet",
            **shared,
        )
        if settings.database == "self_hosted"
        else None
    )
    database = DatabaseStack(
        app,
        names.stack("database"),
        network=network,
        key=base.key,
        access_logs=base.access_logs,
        description="Fleetledger: who the functions are to TimescaleDB",
        **shared,
    )
    replica = (
        ReplicaStack(
            app,
            names.stack("replica"),
            description="Fleetledger: a second copy of the raw objects",
            **shared | {"env": Environment(account=settings.account, region=settings.replica_region)},
        )
        if settings.replica_region
        else None
    )
    functions = network.functions if network else None
    ingest = IngestStack(
        app,
        names.stack("ingest"),
        admin_secret=database.admin_secret,
        loader_secret=database.loader_secret,
        consumer_secrets=database.consumer_secrets,
        network=functions,
        key=base.key,
        access_logs=base.access_logs,
        description="Fleetledger: device, rule, Firehose, S3, loader",
        **shared,
    )
    if replica:
        # S3 takes a replication only to a bucket that is there, and nothing in the templates refers to it.
        ingest.add_dependency(replica, "its bucket is where raw objects are copied to")
    OperationsStack(
        app,
        names.stack("operations"),
        bucket=ingest.bucket,
        object_queue=ingest.object_queue,
        loader_secret=database.loader_secret,
        network=functions,
        key=base.key,
        description="Fleetledger: scheduled work",
        **shared,
    )
    MonitoringStack(
        app,
        names.stack("monitoring"),
        key=base.key,
        database_instance_id=_weakly(database.server.instance.ref)
        if database.server and database.server.instance
        else None,
        description="Fleetledger: alarms, whom they tell, dashboard, budget",
        **shared,
    )
    if settings.github_repository:
        DeployerStack(
            app,
            names.stack("deployer"),
            description="Fleetledger: who may deploy this environment from GitHub",
            **shared,
        )
    Tags.of(app).add("project", "fleetledger")
    Tags.of(app).add("environment", settings.environment)


def _weakly(reference: str) -> str:
    """A reference that does not keep the other stack from replacing what it refers to."""
    return Stack.consume_reference(reference, ReferenceStrength.WEAK)
