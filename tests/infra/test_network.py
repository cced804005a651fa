"""The Network stack: no way to the internet, who may talk to whom, and what the endpoints let through."""

import json
from typing import Any

import pytest

from infra.settings import load
from ops.errors import UserError
from tests.infra.templates import Synthesised, synthesised

IN_AWS = ("dev", "staging", "prod")
GROUPS = {
    "functions": "Functions that talk to the database",
    "database": "The database instance",
    "function endpoints": "Endpoints of services that functions call",
    "instance endpoints": "Endpoints of services that the instance calls",
}
NOBODY = "255.255.255.255/32"
"""CDK's rule for a group without any: without one, EC2 would let everything out."""


@pytest.fixture(params=IN_AWS)
def network(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param).of("network")


def group_name(template: Synthesised, reference: Any) -> str:
    logical_id = reference["Fn::GetAtt"][0]
    description = template.template["Resources"][logical_id]["Properties"]["GroupDescription"]
    return next(name for name, text in GROUPS.items() if text == description)


def endpoints(template: Synthesised) -> dict[str, dict[str, Any]]:
    """The endpoints by the last part of their service's name."""
    return {
        body["Properties"]["ServiceName"]["Fn::Join"][1][-1].strip("."): body["Properties"]
        for body in template.of_type("AWS::EC2::VPCEndpoint").values()
    }


def subnet_names(template: Synthesised, properties: dict[str, Any]) -> list[tuple[str, int]]:
    """Tier and zone of an endpoint's subnets."""
    subnets = [template.template["Resources"][subnet["Ref"]]["Properties"] for subnet in properties["SubnetIds"]]
    return [
        (
            next(tag["Value"] for tag in subnet["Tags"] if tag["Key"] == "aws-cdk:subnet-name"),
            subnet["AvailabilityZone"]["Fn::Select"][0],
        )
        for subnet in subnets
    ]


def test_nothing_leads_to_the_internet(network: Synthesised) -> None:
    for layer in network.stacks:
        for kind in (
            "AWS::EC2::InternetGateway",
            "AWS::EC2::EgressOnlyInternetGateway",
            "AWS::EC2::NatGateway",
            "AWS::EC2::EIP",
            "AWS::EC2::Route",
            "AWS::EC2::VPCGatewayAttachment",
        ):
            assert not network.of(layer).of_type(kind)
    subnets = network.of_type("AWS::EC2::Subnet").values()
    assert all(subnet["Properties"]["MapPublicIpOnLaunch"] is False for subnet in subnets)


def test_two_tiers_over_two_zones_that_only_the_deployment_names(network: Synthesised) -> None:
    subnets = [body["Properties"] for body in network.of_type("AWS::EC2::Subnet").values()]
    tiers = [next(tag["Value"] for tag in subnet["Tags"] if tag["Key"] == "aws-cdk:subnet-name") for subnet in subnets]
    zones = [subnet["AvailabilityZone"] for subnet in subnets]
    first, second = ({"Fn::Select": [zone, {"Fn::GetAZs": ""}]} for zone in (0, 1))
    assert tiers == ["Functions", "Functions", "Database", "Database"]
    assert zones == [first, second, first, second]
    assert len({subnet["CidrBlock"] for subnet in subnets}) == 4


def test_nothing_is_looked_up_even_where_account_and_region_are_given() -> None:
    given = synthesised("prod", account="111122223333", region="eu-west-1").of("network")
    left_open = synthesised("prod").of("network")
    zones = [body["Properties"]["AvailabilityZone"] for body in given.of_type("AWS::EC2::Subnet").values()]
    assert zones == [body["Properties"]["AvailabilityZone"] for body in left_open.of_type("AWS::EC2::Subnet").values()]


def test_the_two_zones_can_be_others_of_the_region() -> None:
    template = synthesised("prod", first_zone="1").of("network")
    zones = [body["Properties"]["AvailabilityZone"] for body in template.of_type("AWS::EC2::Subnet").values()]
    second, third = ({"Fn::Select": [zone, {"Fn::GetAZs": ""}]} for zone in (1, 2))
    assert zones == [second, third, second, third]


def test_security_groups_name_each_other_and_nothing_else(network: Synthesised) -> None:
    inbound = {
        (group_name(network, rule["SourceSecurityGroupId"]), group_name(network, rule["GroupId"]), rule["FromPort"])
        for rule in (body["Properties"] for body in network.of_type("AWS::EC2::SecurityGroupIngress").values())
    }
    outbound = {
        (
            group_name(network, rule["GroupId"]),
            group_name(network, rule["DestinationSecurityGroupId"]),
            rule["FromPort"],
        )
        for rule in (body["Properties"] for body in network.of_type("AWS::EC2::SecurityGroupEgress").values())
    }
    assert inbound == outbound
    assert inbound == {
        ("functions", "database", 5432),
        ("functions", "function endpoints", 443),
        ("database", "instance endpoints", 443),
    }
    for kind in ("AWS::EC2::SecurityGroupIngress", "AWS::EC2::SecurityGroupEgress"):
        for body in network.of_type(kind).values():
            assert body["Properties"]["FromPort"] == body["Properties"]["ToPort"]
            assert body["Properties"]["IpProtocol"] == "tcp"
            assert "CidrIp" not in body["Properties"]


def test_no_group_has_a_rule_of_its_own_but_the_way_to_s3(network: Synthesised) -> None:
    groups = network.everywhere("AWS::EC2::SecurityGroup")
    assert {body["Properties"]["GroupDescription"] for body in groups.values()} == set(GROUPS.values())
    for body in groups.values():
        assert "SecurityGroupIngress" not in body["Properties"]
        [rule] = body["Properties"]["SecurityGroupEgress"]
        if body["Properties"]["GroupDescription"] in {GROUPS["functions"], GROUPS["database"]}:
            # Every address, but the only route out of the VPC is S3's gateway endpoint.
            assert (rule["CidrIp"], rule["FromPort"], rule["ToPort"]) == ("0.0.0.0/0", 443, 443)
        else:
            assert rule["CidrIp"] == NOBODY


def test_with_s3s_prefix_list_no_group_is_open_to_any_address() -> None:
    network = synthesised("prod", s3_prefix_list="pl-63a5400a").of("network")
    rules = [
        rule
        for kind in ("AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupEgress")
        for body in network.of_type(kind).values()
        for rule in body["Properties"].get("SecurityGroupEgress", [body["Properties"]])
    ]
    assert {rule["CidrIp"] for rule in rules if "CidrIp" in rule} == {NOBODY}
    listed = [rule for rule in rules if "DestinationPrefixListId" in rule]
    assert [rule["DestinationPrefixListId"] for rule in listed] == ["pl-63a5400a"] * 2
    assert {rule["FromPort"] for rule in listed} == {443}


def test_the_default_group_is_emptied_by_a_function_that_may_do_only_that(network: Synthesised) -> None:
    [emptied] = network.of_type("Custom::VpcRestrictDefaultSG").values()
    [vpc] = network.of_type("AWS::EC2::VPC")
    assert emptied["Properties"]["DefaultSecurityGroupId"] == {"Fn::GetAtt": [vpc, "DefaultSecurityGroup"]}
    function = network.template["Resources"][emptied["Properties"]["ServiceToken"]["Fn::GetAtt"][0]]["Properties"]
    role = network.template["Resources"][function["Role"]["Fn::GetAtt"][0]]["Properties"]
    assert "ManagedPolicyArns" not in role
    [policy] = role["Policies"]
    [statement] = policy["PolicyDocument"]["Statement"]
    assert {action.partition(":")[2] for action in statement["Action"]} == {
        "AuthorizeSecurityGroupIngress",
        "AuthorizeSecurityGroupEgress",
        "RevokeSecurityGroupIngress",
        "RevokeSecurityGroupEgress",
    }
    [resource] = statement["Resource"]
    assert resource["Fn::Join"][1][-1] == {"Fn::GetAtt": [vpc, "DefaultSecurityGroup"]}


def test_endpoints_stand_where_their_callers_are(network: Synthesised) -> None:
    found = endpoints(network)
    zones = network.settings.endpoint_zones
    assert set(found) == {"s3", "secretsmanager", "sqs", "ssm", "ssmmessages", "monitoring", "logs"}
    for service in ("secretsmanager", "sqs"):
        assert subnet_names(network, found[service]) == [("Functions", zone) for zone in range(zones)]
    for service in ("ssm", "ssmmessages", "monitoring", "logs"):
        assert subnet_names(network, found[service]) == [("Database", 0)]
    for service, properties in found.items():
        if service != "s3":
            assert properties["VpcEndpointType"] == "Interface"
            assert properties["PrivateDnsEnabled"] is True


def test_prod_alone_pays_for_endpoints_in_both_zones_and_for_flow_logs() -> None:
    assert {name: synthesised(name).settings.endpoint_zones for name in IN_AWS} == {"dev": 1, "staging": 1, "prod": 2}
    assert {name: synthesised(name).settings.flow_logs for name in IN_AWS} == {
        "dev": False,
        "staging": False,
        "prod": True,
    }


def test_callers_reach_their_endpoints_and_no_others(network: Synthesised) -> None:
    groups = {
        service: {group_name(network, group) for group in properties["SecurityGroupIds"]}
        for service, properties in endpoints(network).items()
        if service != "s3"
    }
    functions, instance = {"function endpoints"}, {"instance endpoints"}
    assert groups == {
        "secretsmanager": functions | instance,
        "sqs": functions,
        "ssm": instance,
        "ssmmessages": instance,
        "monitoring": instance,
        "logs": instance,
    }


def test_s3_is_reached_from_every_subnet_and_only_in_this_account(network: Synthesised) -> None:
    s3 = endpoints(network)["s3"]
    tables = {json.dumps({"Ref": table}) for table in network.of_type("AWS::EC2::RouteTable")}
    assert s3["VpcEndpointType"] == "Gateway"
    assert {json.dumps(table) for table in s3["RouteTableIds"]} == tables
    own, ready = s3["PolicyDocument"]["Statement"]
    account = {"Ref": "AWS::AccountId"}
    assert own["Condition"] == {"StringEquals": {"aws:PrincipalAccount": account, "aws:ResourceAccount": account}}
    assert ready["Action"] == "s3:PutObject"
    assert "cloudformation-waitcondition-" in json.dumps(ready["Resource"])
    assert "Condition" not in ready


def test_interface_endpoints_serve_principals_of_this_account_only(network: Synthesised) -> None:
    prefixes = {"monitoring": "cloudwatch"}
    for service, properties in endpoints(network).items():
        if service == "s3":
            continue
        [statement] = properties["PolicyDocument"]["Statement"]
        assert statement["Condition"] == {"StringEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}
        assert statement["Action"].startswith(f"{prefixes.get(service, service)}:")
        if service in {"secretsmanager", "sqs", "logs"}:
            assert {"Ref": "AWS::AccountId"} in statement["Resource"]["Fn::Join"][1]


def test_flow_logs_are_complete_encrypted_and_forgotten_in_time(network: Synthesised) -> None:
    settings = network.settings
    if not settings.flow_logs:
        assert not network.of_type("AWS::EC2::FlowLog")
        assert not network.of_type("AWS::Logs::LogGroup")
        return
    [flow] = network.of_type("AWS::EC2::FlowLog").values()
    [(name, group)] = network.of_type("AWS::Logs::LogGroup").items()
    assert flow["Properties"]["TrafficType"] == "ALL"
    assert flow["Properties"]["LogGroupName"] == {"Ref": name}
    assert group["Properties"]["RetentionInDays"] == settings.log_retention_days
    assert "iot-base" in json.dumps(group["Properties"]["KmsKeyId"])


def test_the_functions_that_talk_to_the_database_stand_in_the_network(network: Synthesised) -> None:
    for layer in ("ingest", "operations"):
        for body in network.of(layer).of_type("AWS::Lambda::Function").values():
            folder = body["Properties"]["Handler"]
            if not folder.startswith("lambdas.") or folder.startswith("lambdas.probe."):
                continue
            assert len(body["Properties"]["VpcConfig"]["SubnetIds"]) == 2
            [group] = body["Properties"]["VpcConfig"]["SecurityGroupIds"]
            assert "FunctionsGroup" in json.dumps(group)


@pytest.mark.parametrize("environment", ["local", "prod"])
def test_a_database_elsewhere_needs_no_network(environment: str) -> None:
    template = synthesised(environment, database="external")
    assert "network" not in template.stacks
    assert not template.everywhere("AWS::EC2::VPC")
    functions = template.everywhere("AWS::Lambda::Function").values()
    assert functions
    assert not any("VpcConfig" in body["Properties"] for body in functions)


@pytest.mark.parametrize(
    ("cidr", "why"),
    [("10.42.0.1/16", "has host bits set"), ("999.1.0.0/16", "does not appear"), ("8.8.0.0/16", "private range")],
)
def test_an_unusable_range_is_one_line(cidr: str, why: str) -> None:
    assert load("dev", {"vpc_cidr": cidr}).vpc_cidr == cidr
    with pytest.raises(UserError) as raised:
        synthesised("dev", vpc_cidr=cidr)
    assert "vpc_cidr is" in str(raised.value)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)
