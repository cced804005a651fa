"""The Network stack: where functions and a self-hosted database meet, with no way to the internet.

There is no NAT gateway and no internet gateway: what leaves goes through endpoints, and only to this account.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import ArnFormat, Aws, CfnResource, Fn, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.constructs.log_group import encrypted_log_group
from infra.constructs.retention import removal_policy
from infra.nag import OWN_POLICY, acknowledge
from infra.settings import Settings
from ops.errors import UserError

POSTGRESQL = ec2.Port.tcp(5432)
_HTTPS = ec2.Port.tcp(443)
_OWN_PRINCIPALS = {"StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID}}
"""Keeps credentials of another account from carrying data out through our endpoints."""


@dataclass(frozen=True)
class FunctionNetwork:
    """Where a function that talks to the database stands."""

    vpc: ec2.IVpc
    subnets: ec2.SubnetSelection
    security_group: ec2.ISecurityGroup


class NetworkStack(Stack):
    """A VPC over two zones with isolated subnets, its endpoints, and who in it may talk to whom."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: Settings, key: kms.IKey, **kwargs: Any
    ) -> None:
        super().__init__(scope, construct_id, **kwargs)
        self._settings = settings
        self.vpc = self._vpc()
        self.database_subnet = self.vpc.select_subnets(subnet_group_name="Database").subnets[0]
        """The database's: a volume lives in one zone, so the instance does too."""
        assert isinstance(self.database_subnet, ec2.Subnet)  # noqa: S101 - for the type checker: made here
        # The zone that the subnet has got, which stays the same when the region's list of zones changes.
        self.database_zone = self.database_subnet.subnet_availability_zone
        self._flow_log(key)

        function_group = self._security_group("Functions", "Functions that talk to the database")
        self.database_security_group = self._security_group("Database", "The database instance")
        function_endpoints = self._security_group("FunctionEndpoints", "Endpoints of services that functions call")
        instance_endpoints = self._security_group("InstanceEndpoints", "Endpoints of services that the instance calls")
        function_group.connections.allow_to(self.database_security_group, POSTGRESQL, "Functions to PostgreSQL")
        function_group.connections.allow_to(function_endpoints, _HTTPS, "Functions to AWS services")
        self.database_security_group.connections.allow_to(instance_endpoints, _HTTPS, "The instance to AWS services")
        for group in (function_group, self.database_security_group):
            group.add_egress_rule(self._s3_addresses(), _HTTPS, "S3 through its gateway endpoint")

        self.functions = FunctionNetwork(self.vpc, ec2.SubnetSelection(subnet_group_name="Functions"), function_group)
        self._s3_endpoint()
        self._function_endpoints(function_endpoints, instance_endpoints)
        self._instance_endpoints(instance_endpoints)

    @property
    def availability_zones(self) -> list[str]:
        """Two of the region's zones, as CloudFormation names them when it deploys.

        CDK's own answer would be a lookup in the account, which needs credentials, wherever account and region are given.
        """
        first = self._settings.first_zone
        return [Fn.select(zone, Fn.get_azs()) for zone in (first, first + 1)]

    def _vpc(self) -> ec2.Vpc:
        tiers = [
            ec2.SubnetConfiguration(name=name, subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, reserved=name == "Spare")
            # Room for a third tier, which could not be had later without renumbering these two.
            for name in ("Functions", "Database", "Spare")
        ]
        vpc = ec2.Vpc(
            self,
            "Vpc",
            vpc_name=self.stack_name,
            ip_addresses=ec2.IpAddresses.cidr(_private_range(self._settings.vpc_cidr)),
            max_azs=2,
            nat_gateways=0,
            create_internet_gateway=False,
            subnet_configuration=tiers,
            restrict_default_security_group=True,
        )
        self._trim_default_group_function()
        return vpc

    def _trim_default_group_function(self) -> None:
        """Leaves the function that empties the default security group with its four actions on that one group.

        A VPC comes with a group that lets everything out, and CloudFormation can add rules to a group that it did not
        make but cannot take any away, so that only a function can. CDK gives it AWSLambdaBasicExecutionRole as well, which
        may create and write any log group of the account; without it, CloudFormation still gets its error message.
        """
        role = self.node.find_child("Custom::VpcRestrictDefaultSGCustomResourceProvider").node.find_child("Role")
        assert isinstance(role, CfnResource)  # noqa: S101 - for the type checker
        role.add_property_deletion_override("ManagedPolicyArns")

    def _flow_log(self, key: kms.IKey) -> None:
        if not self._settings.flow_logs:
            reason = "Flow logs are kept in prod (the setting flow_logs); this network has no way to the internet."
            acknowledge(self.vpc, {"AwsSolutions-VPC7": reason, "NIST.800.53.R5-VPCFlowLogsEnabled": reason})
            return
        group = encrypted_log_group(
            self,
            "FlowLogs",
            settings=self._settings,
            name=f"/fleetledger/{self.stack_name}/flow",
            key=key,
            removal_policy=(removal_policy(self._settings)),
        )
        role = iam.Role(
            self,
            "FlowLogRole",
            assumed_by=iam.ServicePrincipal(
                "vpc-flow-logs.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
            ),
            description=f"How flow logs of {self.stack_name} are written",
        )
        self.vpc.add_flow_log("Flow", destination=ec2.FlowLogDestination.to_cloud_watch_logs(group, role))
        acknowledge(role, OWN_POLICY)

    def _security_group(self, construct_id: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(
            self, f"{construct_id}Group", vpc=self.vpc, description=description, allow_all_outbound=False
        )

    def _s3_addresses(self) -> ec2.IPeer:
        """S3's prefix list where the settings name it: its id differs per region, and no template can look it up.

        Else every address: the subnets' only route out of the VPC is to S3's endpoint, so it comes to the same.
        """
        if self._settings.s3_prefix_list:
            return ec2.Peer.prefix_list(self._settings.s3_prefix_list)
        return ec2.Peer.any_ipv4()

    def _s3_endpoint(self) -> None:
        """The buckets of this account: raw objects, backups, packages, and CDK's own with the instance's scripts.

        Of AWS's buckets it takes only the one in which the instance tells CloudFormation that it is ready
        (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/vpc-interface-endpoints.html). Those of Systems
        Manager serve patching, packages and updates of the agent, none of which is used here; Session Manager needs none
        (https://docs.aws.amazon.com/systems-manager/latest/userguide/ssm-agent-technical-details.html).
        """
        endpoint = self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="OwnBuckets",
                principals=[iam.StarPrincipal()],
                actions=["s3:*"],
                resources=["*"],
                conditions={
                    "StringEquals": {"aws:PrincipalAccount": Aws.ACCOUNT_ID, "aws:ResourceAccount": Aws.ACCOUNT_ID}
                },
            )
        )
        endpoint.add_to_policy(
            iam.PolicyStatement(
                sid="ReadySignal",
                principals=[iam.StarPrincipal()],
                actions=["s3:PutObject"],
                resources=[f"arn:{Aws.PARTITION}:s3:::cloudformation-waitcondition-{Aws.REGION}/*"],
            )
        )

    def _function_endpoints(self, function_group: ec2.ISecurityGroup, instance_group: ec2.ISecurityGroup) -> None:
        """What functions call: their secret, and the queues (loaders put off a message, the sweeper sends some)."""
        subnets = self.vpc.select_subnets(subnet_group_name="Functions").subnets[: self._settings.endpoint_zones]
        service = ec2.InterfaceVpcEndpointAwsService
        # The instance puts the certificate of its authority into the secrets.
        self._endpoint(
            "Secrets",
            service.SECRETS_MANAGER,
            subnets,
            [function_group, instance_group],
            ["secretsmanager:*"],
            self.format_arn(
                service="secretsmanager", resource="secret", resource_name="*", arn_format=ArnFormat.COLON_RESOURCE_NAME
            ),
        )
        self._endpoint(
            "Queues", service.SQS, subnets, [function_group], ["sqs:*"], self.format_arn(service="sqs", resource="*")
        )

    def _instance_endpoints(self, group: ec2.ISecurityGroup) -> None:
        """What the instance calls, in its own zone: Session Manager, its metrics and its log.

        No ec2messages: agents since 3.3.40.0 use ssmmessages instead
        (https://docs.aws.amazon.com/systems-manager/latest/userguide/systems-manager-setting-up-messageAPIs.html).
        """
        subnets = [self.database_subnet]
        service = ec2.InterfaceVpcEndpointAwsService
        self._endpoint("Ssm", service.SSM, subnets, [group], ["ssm:*"], "*")
        self._endpoint("Sessions", service.SSM_MESSAGES, subnets, [group], ["ssmmessages:*"], "*")
        self._endpoint("Metrics", service.CLOUDWATCH_MONITORING, subnets, [group], ["cloudwatch:PutMetricData"], "*")
        log_groups = self.format_arn(
            service="logs", resource="log-group", resource_name="*", arn_format=ArnFormat.COLON_RESOURCE_NAME
        )
        self._endpoint("Logs", service.CLOUDWATCH_LOGS, subnets, [group], ["logs:*"], log_groups)

    def _endpoint(
        self,
        construct_id: str,
        service: ec2.IInterfaceVpcEndpointService,
        subnets: Sequence[ec2.ISubnet],
        groups: Sequence[ec2.ISecurityGroup],
        actions: list[str],
        resource: str,
    ) -> None:
        """An endpoint under the service's own name, for principals of this account."""
        endpoint = self.vpc.add_interface_endpoint(
            f"{construct_id}Endpoint",
            service=service,
            subnets=ec2.SubnetSelection(subnets=list(subnets)),
            security_groups=list(groups),
            open=False,
            private_dns_enabled=True,
        )
        endpoint.add_to_policy(
            iam.PolicyStatement(
                principals=[iam.StarPrincipal()], actions=actions, resources=[resource], conditions=_OWN_PRINCIPALS
            )
        )


def _private_range(cidr: str) -> str:
    """The range as it was given. Raises UserError when it is none, or not a private one."""
    try:
        network = ipaddress.ip_network(cidr)
    except ValueError as error:
        raise UserError(f"vpc_cidr is {cidr!r}: {error}") from None
    if not network.is_private:
        raise UserError(f"vpc_cidr is {cidr!r}: give a private range, such as 10.42.0.0/16")
    return cidr
