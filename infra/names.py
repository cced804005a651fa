"""The names of what is deployed: the runbook's own, with a suffix in every environment but prod and local."""

from dataclasses import dataclass

RAW_PREFIX = "year="
"""What the key of every raw object begins with; only these are loaded."""


@dataclass(frozen=True)
class Names:
    """Names in one environment. Bucket names also carry account and region, which the stack adds."""

    suffix: str
    """`""` or e.g. `"-dev"`."""

    @classmethod
    def of(cls, environment: str) -> "Names":
        """The names of an environment: prod and local carry none, every other its own suffix."""
        return cls("" if environment in {"prod", "local"} else f"-{environment}")

    def stack(self, layer: str) -> str:
        """Name of the CloudFormation stack of a layer, such as `iot-ingest` or `iot-ingest-dev`."""
        return f"iot-{layer}{self.suffix}"

    def layer(self, stack: str) -> str:
        """The layer that a stack of this name is: `stack` the other way round."""
        return stack.removeprefix("iot-").removesuffix(self.suffix)

    @property
    def rule(self) -> str:
        """The IoT rule. IoT allows only letters, digits and `_` in rule names, so the suffix is `_dev`."""
        return "TelemetryToFirehose" + self.suffix.replace("-", "_")

    @property
    def topic(self) -> str:
        """Topic to which a device appends its own name; environments in one account must not hear each other."""
        return f"iot/telemetry{self.suffix}"

    @property
    def basic_ingest_topic(self) -> str:
        """The same through Basic Ingest: straight to the rule, without the price of a broker message."""
        return f"$aws/rules/{self.rule}/{self.topic}"

    @property
    def status_rule(self) -> str:
        """The IoT rule that hands last wills to shadows."""
        return "DeviceStatusToShadow" + self.suffix.replace("-", "_")

    @property
    def status_topic(self) -> str:
        """Topic to which a device appends its own name, for its last will."""
        return f"iot/status{self.suffix}"

    @property
    def thing_type(self) -> str:
        """The thing type of every device."""
        return "IoTDevice" + self.suffix

    @property
    def device_policy(self) -> str:
        """The IoT policy attached to every device certificate."""
        return "IoTDevicePolicy" + self.suffix

    @property
    def stream(self) -> str:
        """The Firehose stream."""
        return "iot-telemetry-stream" + self.suffix

    def bucket(self, account: str, region: str) -> str:
        """The bucket of raw batches."""
        return f"iot-telemetry-bucket{self.suffix}-{account}-{region}"

    @property
    def loader(self) -> str:
        """The loader Lambda."""
        return "iot-telemetry-processor" + self.suffix

    @property
    def migrator(self) -> str:
        """The Lambda that brings the database's schema up to date."""
        return "iot-telemetry-migrator" + self.suffix

    @property
    def rule_errors_loader(self) -> str:
        """The Lambda that moves messages whose rule failed into quarantine."""
        return "iot-telemetry-rule-errors" + self.suffix

    @property
    def sweeper(self) -> str:
        """The Lambda that finds objects which were never loaded."""
        return "iot-telemetry-sweeper" + self.suffix

    @property
    def watch(self) -> str:
        """The Lambda that measures devices, losses and the database."""
        return "iot-telemetry-watch" + self.suffix

    @property
    def maintenance(self) -> str:
        """The Lambda that brings the rollups up to date and drops what has expired."""
        return "iot-telemetry-maintenance" + self.suffix

    @property
    def probe(self) -> str:
        """The Lambda that connects to AWS IoT as a device would."""
        return "iot-telemetry-probe" + self.suffix

    @property
    def rotation(self) -> str:
        """The Lambda that changes database passwords."""
        return "iot-database-rotation" + self.suffix

    @property
    def database_host(self) -> str:
        """Name of the self-hosted database within its network; its certificate is made out to it."""
        return f"timescaledb.iot{self.suffix}.internal"

    @property
    def database_service(self) -> str:
        """What the self-hosted instance calls itself in its metrics and logs."""
        return "iot-database" + self.suffix

    def backup_bucket(self, account: str, region: str) -> str:
        """The bucket of database backups and archived WAL."""
        return f"iot-backups{self.suffix}-{account}-{region}"

    def replica_bucket(self, account: str, region: str) -> str:
        """The bucket in another region that raw objects are copied to."""
        return f"iot-telemetry-replica{self.suffix}-{account}-{region}"

    @property
    def replica_key_alias(self) -> str:
        """Alias of the key in that region."""
        return "iot-data-replica" + self.suffix

    def access_log_bucket(self, account: str, region: str) -> str:
        """The bucket of the other buckets' access logs."""
        return f"iot-access-logs{self.suffix}-{account}-{region}"

    def packages_bucket(self, account: str, region: str) -> str:
        """The bucket from which the instance installs its software."""
        return f"iot-packages{self.suffix}-{account}-{region}"

    @property
    def object_queue(self) -> str:
        """The queue of S3 ObjectCreated events."""
        return "iot-telemetry-objects" + self.suffix

    @property
    def object_dead_letters(self) -> str:
        """Where events go that could not be loaded."""
        return "iot-telemetry-objects-dlq" + self.suffix

    @property
    def rule_error_queue(self) -> str:
        """Where the IoT rule puts a message whose action failed."""
        return "iot-telemetry-rule-errors" + self.suffix

    @property
    def rule_error_dead_letters(self) -> str:
        """Where rule errors go that could not be quarantined."""
        return "iot-telemetry-rule-errors-dlq" + self.suffix

    @property
    def stamp_secret(self) -> str:
        """The Secrets Manager secret with what only the rule writes into a line, and the loader knows."""
        return f"iot-telemetry{self.suffix}/stamp"

    def secret(self, role: str) -> str:
        """The Secrets Manager secret of a database role, such as `loader` or `admin`."""
        return f"iot-database{self.suffix}/{role}"
