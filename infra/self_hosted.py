"""TimescaleDB on an instance of ours: what survives the instance, and the instance.

Volume, address, certificate, backups and secrets outlive it, so that replacing it (docs/database.md) loses nothing.
"""

import hashlib
import json

from aws_cdk import Aws, CfnOutput, CfnTag, CfnWaitCondition, CfnWaitConditionHandle, Duration, Fn, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from infra.connections import connection_budget
from infra.constructs.bucket import private_bucket
from infra.constructs.instance_role import instance_role
from infra.constructs.log_group import encrypted_log_group
from infra.constructs.retention import removal_policy
from infra.constructs.user_data import boot_script
from infra.graviton import size_of
from infra.nag import acknowledge
from infra.network import NetworkStack
from infra.settings import Settings
from ops.errors import UserError
from ops.paths import ROOT

DATABASE_NAME = "iot_analytics"
ADMIN_USER = "postgres"
_SCRIPTS = ROOT / "infra" / "instance"
_ROOT_VOLUME_GIB = 16
_KEEP_DELETED_DAYS = 7
"""How long a backup that was deleted or overwritten, by mistake or malice, can be had back."""
_READY_WITHIN = Duration.hours(3)
"""Minutes, as a rule, and a failure is told at once; but an instance with an empty volume first restores its backup."""
_NOT_REPLICATED = "Backups and packages can be made again from what is elsewhere: raw objects in S3, and the operator."


class SelfHostedDatabase(Construct):
    """One Graviton instance, reached under a name of its own, with its data on a volume of its own."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: NetworkStack,
        key: kms.IKey,
        access_logs: s3.IBucket,
        admin_secret: secretsmanager.ISecret,
        loader_secret: secretsmanager.ISecret,
    ) -> None:
        super().__init__(scope, construct_id)
        self._settings, self._names, self._network, self._key = settings, settings.names, network, key
        self._removal = removal_policy(settings)
        self._admin_secret, self._loader_secret = admin_secret, loader_secret
        self.volume = self._data_volume()
        self._interface = self._address()
        self.backup_bucket = self._bucket("Backups", self._names.backup_bucket(Aws.ACCOUNT_ID, Aws.REGION), access_logs)
        self.packages_bucket = self._bucket(
            "Packages", self._names.packages_bucket(Aws.ACCOUNT_ID, Aws.REGION), access_logs
        )
        self.log_group = encrypted_log_group(
            self,
            "Log",
            settings=settings,
            name=f"/fleetledger/{self._names.database_service}",
            key=key,
            removal_policy=self._removal,
        )
        self.instance = self._instance() if settings.database_instance == "present" else None
        outputs = {"PackagesBucketName": self.packages_bucket.bucket_name, "DataVolumeId": self.volume.ref}
        for name, value in outputs.items():
            CfnOutput(Stack.of(self), name, value=value)

    def _data_volume(self) -> ec2.CfnVolume:
        settings = self._settings
        _check_volume(settings)
        volume = ec2.CfnVolume(
            self,
            "Data",
            availability_zone=self._network.database_zone,
            size=settings.database_volume_gib,
            volume_type="gp3",
            iops=settings.database_volume_iops,
            throughput=settings.database_volume_mib_per_second,
            encrypted=True,
            kms_key_id=self._key.key_arn,
            tags=[CfnTag(key="Name", value=f"{self._names.database_service}-data")],
        )
        volume.apply_removal_policy(self._removal if settings.retain_data else RemovalPolicy.SNAPSHOT)
        acknowledge(
            volume,
            {
                "NIST.800.53.R5-EC2EBSInBackupPlan": "pgBackRest backs up what is on it, continuously and consistently; "
                "a snapshot of a running database's disk is neither."
            },
        )
        return volume

    def _address(self) -> ec2.CfnNetworkInterface:
        """A network interface, and with it an address, that passes from one instance to the next; and its name."""
        network = self._network
        interface = ec2.CfnNetworkInterface(
            self,
            "Interface",
            subnet_id=network.database_subnet.subnet_id,
            group_set=[network.database_security_group.security_group_id],
            description=f"{self._names.database_service}: the database's address",
            tags=[CfnTag(key="Name", value=self._names.database_service)],
        )
        host, _, zone_name = self._names.database_host.partition(".")
        zone = route53.PrivateHostedZone(self, "Zone", zone_name=zone_name, vpc=network.vpc)
        route53.ARecord(
            self,
            "Name",
            zone=zone,
            record_name=host,
            target=route53.RecordTarget.from_ip_addresses(interface.attr_primary_private_ip_address),
            ttl=Duration.minutes(1),
        )
        return interface

    def _bucket(self, construct_id: str, name: str, access_logs: s3.IBucket) -> s3.Bucket:
        """Nothing current expires by age: pgBackRest knows what the newest backup still needs, S3 does not."""
        bucket = private_bucket(
            self,
            construct_id,
            name=name,
            key=self._key,
            access_logs=access_logs,
            access_logs_prefix=f"{construct_id.lower()}/",
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="ForgetDeleted",
                    noncurrent_version_expiration=Duration.days(_KEEP_DELETED_DAYS),
                    expired_object_delete_marker=True,
                )
            ],
            removal_policy=self._removal,
        )
        acknowledge(bucket, {"NIST.800.53.R5-S3BucketReplicationEnabled": _NOT_REPLICATED})
        return bucket

    def _instance(self) -> ec2.CfnInstance:
        settings, names = self._settings, self._names
        scripts = s3_assets.Asset(self, "Scripts", path=str(_SCRIPTS), exclude=["**/__pycache__", "README.md"])
        role = instance_role(
            self,
            "Role",
            description=f"What {names.database_service} may do",
            scripts=scripts,
            packages=self.packages_bucket,
            backups=self.backup_bucket,
            secrets=[self._admin_secret, self._loader_secret],
            log_group=self.log_group,
            key=self._key,
        )
        environment = self._environment(scripts)
        ready = self._ready_handle(environment)
        instance = ec2.CfnInstance(
            self,
            "Instance",
            # A dynamic reference to a parameter that never changes, unlike `current`: an image replaces the instance.
            image_id=f"{{{{resolve:ssm:{settings.database_image_parameter}}}}}",
            instance_type=settings.database_instance_type,
            iam_instance_profile=iam.InstanceProfile(self, "Profile", role=role).instance_profile_name,
            network_interfaces=[
                ec2.CfnInstance.NetworkInterfaceProperty(device_index="0", network_interface_id=self._interface.ref)
            ],
            metadata_options=ec2.CfnInstance.MetadataOptionsProperty(
                http_endpoint="enabled", http_tokens="required", http_put_response_hop_limit=1
            ),
            monitoring=True,
            ebs_optimized=True,
            block_device_mappings=[self._root_volume()],
            disable_api_termination=settings.retain_data,
            instance_initiated_shutdown_behavior="stop",
            user_data=Fn.base64(boot_script({**environment, "READY_URL": ready.ref}, _start_script())),
            tags=[CfnTag(key="Name", value=names.database_service)],
        )
        # It reads its scripts and secrets at once.
        instance.node.add_dependency(role)
        attachment = ec2.CfnVolumeAttachment(
            self, "Attachment", device="/dev/sdf", instance_id=instance.ref, volume_id=self.volume.ref
        )
        # The deployment goes on when the database answers, and fails when it does not.
        self.ready = CfnWaitCondition(
            self, f"{ready.node.id}Signal", handle=ready.ref, count=1, timeout=str(_READY_WITHIN.to_seconds())
        )
        self.ready.node.add_dependency(instance, attachment)
        self._recover(instance)
        CfnOutput(Stack.of(self), "InstanceId", value=instance.ref)
        self._acknowledge_instance(instance)
        return instance

    def _environment(self, scripts: s3_assets.Asset) -> dict[str, str]:
        """What the instance's scripts know; they read it from `/etc/fleetledger/instance.env`. No secrets."""
        settings, names = self._settings, self._names
        size = size_of(settings.database_instance_type)
        return {
            "AWS_REGION": Aws.REGION,
            "SCRIPTS_BUCKET": scripts.s3_bucket_name,
            "SCRIPTS_KEY": scripts.s3_object_key,
            "DATABASE_NAME": DATABASE_NAME,
            "DATABASE_HOST": names.database_host,
            "DATABASE_ADMIN_USER": ADMIN_USER,
            "ADMIN_SECRET_ARN": self._admin_secret.secret_arn,
            "LOADER_SECRET_ARN": self._loader_secret.secret_arn,
            "DATA_VOLUME_ID": self.volume.ref,
            "BACKUP_BUCKET": self.backup_bucket.bucket_name,
            "BACKUP_RETENTION_DAYS": str(settings.backup_retention_days),
            "BACKUP_KMS_KEY_ARN": self._key.key_arn,
            "PACKAGES_BUCKET": self.packages_bucket.bucket_name,
            "MEMORY_MIB": str(size.memory_mib),
            "VCPUS": str(size.vcpus),
            "MAX_CONNECTIONS": str(connection_budget(settings).max_connections),
            "VPC_CIDR": settings.vpc_cidr,
            "METRICS_SERVICE": names.database_service,
            "LOG_GROUP": self.log_group.log_group_name,
        }

    def _ready_handle(self, environment: dict[str, str]) -> CfnWaitConditionHandle:
        """Where this boot's outcome is sent. A handle takes its signals once, so whatever makes for a new boot has its own."""
        text = json.dumps(Stack.of(self).resolve(boot_script(environment, _start_script())), sort_keys=True)
        digest = hashlib.sha256((self._settings.database_instance_type + text).encode()).hexdigest()[:8]
        return CfnWaitConditionHandle(self, f"Ready{digest}")

    def _root_volume(self) -> ec2.CfnInstance.BlockDeviceMappingProperty:
        return ec2.CfnInstance.BlockDeviceMappingProperty(
            device_name="/dev/sda1",
            ebs=ec2.CfnInstance.EbsProperty(
                volume_size=_ROOT_VOLUME_GIB,
                volume_type="gp3",
                encrypted=True,
                kms_key_id=self._key.key_arn,
                delete_on_termination=True,
            ),
        )

    def _recover(self, instance: ec2.CfnInstance) -> None:
        """Moves the instance to other hardware when its own fails, with volume and address.

        EC2 does so by itself for these types unless the whole zone is in trouble; the alarm also shows that it did.
        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-recover.html
        """
        alarm = cloudwatch.Alarm(
            self,
            "Recover",
            alarm_name=f"{self._names.database_service}-recover",
            alarm_description=(
                "P1. The hardware under the database's instance failed; EC2 recovers the instance elsewhere by itself. "
                f"Owner: {self._settings.alarm_owner}. Runbook: docs/database.md."
            ),
            metric=cloudwatch.Metric(
                namespace="AWS/EC2",
                metric_name="StatusCheckFailed_System",
                dimensions_map={"InstanceId": instance.ref},
                period=Duration.minutes(1),
                statistic="Maximum",
            ),
            threshold=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=2,
            treat_missing_data=cloudwatch.TreatMissingData.MISSING,
        )
        alarm.add_alarm_action(cloudwatch_actions.Ec2Action(cloudwatch_actions.Ec2InstanceAction.RECOVER))

    def _acknowledge_instance(self, instance: ec2.CfnInstance) -> None:
        reasons = {
            "NIST.800.53.R5-EC2InstancesInVPC": "It stands in a subnet by its network interface, which outlives it; the "
            "rule looks at the instance's own SubnetId, which may not be given with one."
        }
        if not self._settings.retain_data:
            reasons["AwsSolutions-EC29"] = "This environment is made to be taken away; prod and staging are protected."
        acknowledge(instance, reasons)


def _start_script() -> str:
    return (_SCRIPTS / "start.sh").read_text()


def _check_volume(settings: Settings) -> None:
    """Raises UserError where gp3 could not be had so: https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html"""
    size, iops = settings.database_volume_gib, settings.database_volume_iops
    throughput = settings.database_volume_mib_per_second
    if iops > 500 * size:
        raise UserError(
            f"database_volume_iops is {iops}: gp3 gives at most 500 per GiB, so {500 * size} for {size} GiB"
        )
    if 4 * throughput > iops:
        raise UserError(
            f"database_volume_mib_per_second is {throughput}: gp3 gives at most one for 4 of {iops} database_volume_iops"
        )
