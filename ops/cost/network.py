"""The VPC: interface endpoints and NAT gateways by the hour and zone, traffic between zones, private names."""

from collections.abc import Iterator

from ops.cost.assumptions import GIB, HOURS_PER_MONTH, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed
from ops.cost.pipeline import Load, loader_of


def vpc_items(deployed: Deployed, load: Load, assumptions: Assumptions) -> Iterator[Item]:
    """https://aws.amazon.com/privatelink/pricing/ and https://aws.amazon.com/vpc/pricing/. Gateway endpoints are free."""
    endpoints = [e for e in deployed.of_type("AWS::EC2::VPCEndpoint") if e.at("VpcEndpointType") == "Interface"]
    zones = sum(len(endpoint.at("SubnetIds") or []) for endpoint in endpoints)
    what = f"{len(endpoints)} interface endpoints"
    yield Item("VPC", what, zones * HOURS_PER_MONTH, "vpc.usd_per_interface_endpoint_zone_hour")
    through = assumptions.endpoint_bytes_per_month / GIB if endpoints else 0.0
    yield Item("VPC", "through interface endpoints", through, "vpc.usd_per_gib_through_interface_endpoint")
    gateways = len(deployed.of_type("AWS::EC2::NatGateway"))
    yield Item("VPC", "NAT gateways", gateways * HOURS_PER_MONTH, "vpc.usd_per_nat_gateway_hour")
    addresses = len(deployed.of_type("AWS::EC2::EIP"))
    yield Item("VPC", "public addresses", addresses * HOURS_PER_MONTH, "vpc.usd_per_public_ipv4_address_hour")
    each_way = _bytes_between_zones(deployed, load, assumptions) * 2 / GIB
    yield Item(
        "VPC", "rows to the database's zone, both ways billed", each_way, "vpc.usd_per_gib_each_way_between_zones"
    )
    hosted_zones = len(deployed.of_type("AWS::Route53::HostedZone"))
    yield Item("Route 53", "private zones", hosted_zones, "route53.usd_per_hosted_zone_month")


def _bytes_between_zones(deployed: Deployed, load: Load, assumptions: Assumptions) -> float:
    """Of a loader that stands in several zones, all but one zone's share of the rows goes to another."""
    subnets = loader_of(deployed).at("VpcConfig", "SubnetIds") or []
    if len(subnets) < 2 or not deployed.of_type("AWS::EC2::Instance"):
        return 0.0
    return load.readings * assumptions.copy_bytes_per_row * (len(subnets) - 1) / len(subnets)
