"""Design choices compared in money, at the load of prod: the tables of docs/costs.md."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from infra.settings import Settings
from ops.cost.assumptions import DAYS_PER_MONTH, DEFAULT, HOURS_PER_MONTH, Assumptions
from ops.cost.bill import PIPELINE, Bill, Item, price
from ops.cost.deployed import Deployed, Template
from ops.cost.pipeline import Load, Pipeline, load_of, pipeline_of
from ops.cost.prices import PriceFile
from ops.cost.usage import readings_per_month, usage

_PER_MESSAGE = (1, 2, 5, 10, 15, 25, 45)
_BUFFER_SECONDS = (1, 3, 10, 60, 300)
_BUFFER_MIB = 128
"""In the comparison of intervals, so that size does not decide; Firehose's largest."""


@dataclass(frozen=True)
class Prod:
    """The environment that everything is compared with."""

    settings: Settings
    templates: Mapping[str, Template]
    prices: PriceFile

    @property
    def pipeline(self) -> Pipeline:
        """As deployed."""
        return pipeline_of(Deployed(self.templates))

    def bill(
        self, *, pipeline: Pipeline | None = None, assumptions: Assumptions = DEFAULT, per_message: int | None = None
    ) -> Bill:
        """The bill with something about it changed."""
        settings = self._settings(per_message)
        items = usage(settings, self.templates, assumptions, pipeline)
        return price(items, self.prices, readings_per_month(settings))

    def load(
        self, *, pipeline: Pipeline | None = None, assumptions: Assumptions = DEFAULT, per_message: int | None = None
    ) -> Load:
        """The load with something about it changed."""
        return load_of(self._settings(per_message), pipeline or self.pipeline, assumptions)

    def _settings(self, per_message: int | None) -> Settings:
        changed = {} if per_message is None else {"readings_per_message": per_message}
        return msgspec.structs.replace(self.settings, **changed)


def tables(prod: Prod) -> dict[str, str]:
    """Each table of docs/costs.md by its name there, as Markdown."""
    made: dict[str, Callable[[Prod], str]] = {
        "prod": services,
        "messages": messages,
        "buffering": buffering,
        "archive": archive,
        "graviton": graviton,
        "network": network,
        "database": database,
    }
    return {name: make(prod) for name, make in made.items()}


def services(prod: Prod) -> str:
    """The bill of prod by service."""
    bill = prod.bill()
    rows = [[service, _usd(bill.of(service)), _rate(bill, service)] for service in bill.services]
    rows.append([f"**{' + '.join(PIPELINE)}**", _usd(bill.pipeline_usd), _rate(bill, *PIPELINE)])
    rows.append(["**everything**", _usd(bill.usd), f"{bill.per_million(bill.usd):.4f}"])
    return _markdown(("service", "USD a month", "USD per million readings"), rows)


def messages(prod: Prod) -> str:
    """Broker topic or Basic Ingest, and how many readings share a message."""
    rows = []
    settings = prod.settings
    for per_message in _PER_MESSAGE:
        waits = (per_message - 1) * settings.devices / settings.readings_per_second
        row = [str(per_message), f"{prod.load(per_message=per_message).message_bytes:,}", f"{waits:.0f} s"]
        for basic_ingest in (False, True):
            bill = prod.bill(assumptions=replace(DEFAULT, basic_ingest=basic_ingest), per_message=per_message)
            row += [_rate(bill, "IoT Core", "Firehose"), _rate(bill, *PIPELINE)]
        rows.append(row)
    return _markdown(
        (
            "readings per message",
            "bytes",
            "oldest waits",
            "broker topic: IoT + Firehose",
            "whole pipeline",
            "Basic Ingest: IoT + Firehose",
            "whole pipeline",
        ),
        rows,
    )


def buffering(prod: Prod) -> str:
    """Firehose's interval: latency against objects."""
    rows = []
    for seconds in _BUFFER_SECONDS:
        pipeline = replace(prod.pipeline, buffer_interval_seconds=seconds, buffer_size_bytes=float(_BUFFER_MIB * 2**20))
        load, bill = prod.load(pipeline=pipeline), prod.bill(pipeline=pipeline)
        rows.append(
            [
                f"{seconds} s",
                f"{load.objects / DAYS_PER_MONTH:,.0f}",
                f"{load.object_bytes / 1024:,.0f} KiB",
                *(_rate(bill, service) for service in ("S3", "SQS", "Lambda")),
                _rate(bill, *PIPELINE),
            ]
        )
    headings = ("interval", "objects a day", "size", "S3", "SQS", "Lambda", "whole pipeline")
    return _markdown(headings, rows)


def archive(prod: Prod) -> str:
    """S3 for a month's objects until they expire: left in Standard, or moved to Glacier whatever their size."""
    rows = []
    for seconds in _BUFFER_SECONDS:
        pipeline = replace(prod.pipeline, buffer_interval_seconds=seconds, buffer_size_bytes=float(_BUFFER_MIB * 2**20))
        life = pipeline.lifecycle
        kept = replace(pipeline, lifecycle=replace(life, archive_after_days=None))
        moved = replace(pipeline, lifecycle=replace(life, smallest_archived_bytes=0.0))
        by_default = replace(pipeline, lifecycle=replace(life, smallest_archived_bytes=128 * 1024 - 1.0))
        bills = [prod.bill(pipeline=each).of("S3") for each in (kept, moved, by_default)]
        size = prod.load(pipeline=pipeline).object_bytes
        rows.append([f"{seconds} s", f"{size / 1024:,.0f} KiB", *(_usd(usd) for usd in bills)])
    return _markdown(("interval", "size", "all in Standard", "all to Glacier", "S3's default: 128 KiB or more"), rows)


def graviton(prod: Prod) -> str:
    """The same duration and hours on either processor."""
    rows = []
    for architecture in ("arm64", "x86_64"):
        bill = prod.bill(pipeline=replace(prod.pipeline, loader_architecture=architecture))
        rows.append([f"loader, {architecture}", _usd(bill.of("Lambda"))])
    ours = prod.settings.database_instance_type
    intel = ours.replace("g.", "i.")
    for kind, name in ((ours, "Graviton"), (intel, "Intel")):
        hours = [Item("EC2", kind, HOURS_PER_MONTH, f"ec2.usd_per_hour_of_{kind}")]
        rows.append([f"database, {kind} ({name})", _usd(price(hours, prod.prices, 1e6).usd)])
    return _markdown(("what", "USD a month"), rows)


def network(prod: Prod) -> str:
    """Interface endpoints as deployed, or NAT gateways in their place."""
    deployed = Deployed(prod.templates)
    endpoints = [e for e in deployed.of_type("AWS::EC2::VPCEndpoint") if e.at("VpcEndpointType") == "Interface"]
    hour = "vpc.usd_per_interface_endpoint_zone_hour"
    deployed_zones = sum(len(endpoint.at("SubnetIds") or []) for endpoint in endpoints)
    rows = []
    for zones, what in (
        (deployed_zones, f"{len(endpoints)} interface endpoints as deployed ({deployed_zones} endpoint-zones)"),
        (len(endpoints), "the same, each in one zone"),
        (2 * len(endpoints), "the same, each in two zones"),
    ):
        used = [Item("VPC", "endpoints", zones * HOURS_PER_MONTH, hour)]
        rows.append([what, _usd(price(used, prod.prices, 1e6).usd)])
    for count in (1, 2):
        used = [
            Item("VPC", "gateways", count * HOURS_PER_MONTH, "vpc.usd_per_nat_gateway_hour"),
            Item("VPC", "addresses", count * HOURS_PER_MONTH, "vpc.usd_per_public_ipv4_address_hour"),
            Item("VPC", "traffic", 1.0, "vpc.usd_per_gib_through_nat_gateway"),
        ]
        what = f"{count} NAT gateway{'s' if count > 1 else ''}, 1 GiB a month through it"
        rows.append([what, _usd(price(used, prod.prices, 1e6).usd)])
    return _markdown(("what", "USD a month"), rows)


def database(prod: Prod) -> str:
    """What the self-hosted database costs; an external one's price is for the reader to put beside it."""
    bill = prod.bill()
    parts = ("EC2", "EBS", "Backups", "VPC", "Route 53")
    rows = [[part, _usd(bill.of(part))] for part in parts]
    rows.append(["**self-hosted**", f"**{_usd(bill.of(*parts))}**"])
    rows.append(["external", "your provider's price"])
    return _markdown(("part", "USD a month"), rows)


def _rate(bill: Bill, *services: str) -> str:
    return f"{bill.per_million(bill.of(*services)):.4f}"


def _usd(usd: float) -> str:
    return f"{usd:,.2f}"


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
