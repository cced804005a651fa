"""The Network stack: where functions and a self-hosted database meet, with no way to the internet."""

from dataclasses import dataclass

from aws_cdk import aws_ec2 as ec2


@dataclass(frozen=True)
class FunctionNetwork:
    """Where a function that talks to the database stands."""

    vpc: ec2.IVpc
    subnets: ec2.SubnetSelection
    security_group: ec2.ISecurityGroup
