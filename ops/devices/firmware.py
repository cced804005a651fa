"""Firmware updates: an IoT Job for devices, at a bounded rate, that stops by itself when too many fail.

What a device makes of it is in `simulator/devices/management.py`.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from certs.fanout import DEFAULT_CONCURRENCY, for_each_thing
from certs.registry import client_config, fault
from ops.aws import session_for
from ops.errors import UserError
from simulator.devices.management import OPERATION

MAX_TARGETS = 100
"""https://docs.aws.amazon.com/iot/latest/apireference/API_AssociateTargetsWithJob.html"""
TIMEOUT_MINUTES = 60
_FAILED_PERCENT = 20
_FAILED_AFTER = 5
"""Executions before the share that failed is looked at."""
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def job_id(version: str, now: datetime) -> str:
    """`firmware_update-2_1_0-20261121T131500Z`: AWS takes letters, digits, `_` and `-`, 64 at most."""
    return f"{OPERATION}-{re.sub('[^A-Za-z0-9_-]', '_', version)}-{now:%Y%m%dT%H%M%SZ}"


def start_update(environment: str, version: str, names: Sequence[str], *, per_minute: int) -> str:
    """Creates the job for those devices; returns its id.

    Raises UserError: a version that is none, no device or more than AWS takes, a device that is no thing, AWS refuses.
    """
    if not _VERSION.fullmatch(version):
        raise UserError(f"{version!r} is no firmware version: use up to 32 letters, digits, '.', '_' and '-'")
    if not names:
        raise UserError("there is no such device in service: fleet devices list shows those that there are")
    if len(names) > MAX_TARGETS:
        raise UserError(
            f"{len(names):,} devices: a job takes {MAX_TARGETS} at most; put them into a thing group, and give that to "
            "aws iot create-job (docs/devices.md)"
        )
    client: Any = session_for(environment).client("iot", config=client_config(DEFAULT_CONCURRENCY))

    def arn(name: str) -> str:
        try:
            return str(client.describe_thing(thingName=name)["thingArn"])
        except client.exceptions.ResourceNotFoundException:
            raise UserError(f"{name} is no thing of AWS IoT: fleet certs register makes one") from None

    arns = for_each_thing(sorted(names), arn, concurrency=DEFAULT_CONCURRENCY, progress=None)
    identifier = job_id(version, datetime.now(UTC))
    try:
        client.create_job(
            jobId=identifier,
            targets=sorted(arns.values()),
            document=json.dumps({"operation": OPERATION, "version": version}),
            description=f"Firmware {version} for {len(arns)} devices",
            jobExecutionsRolloutConfig={"maximumPerMinute": per_minute},
            timeoutConfig={"inProgressTimeoutInMinutes": TIMEOUT_MINUTES},
            abortConfig={
                "criteriaList": [
                    {
                        "failureType": "ALL",
                        "action": "CANCEL",
                        "thresholdPercentage": _FAILED_PERCENT,
                        "minNumberOfExecutedThings": _FAILED_AFTER,
                    }
                ]
            },
        )
    except (BotoCoreError, ClientError) as error:
        raise fault(error, f"job {identifier}") from None
    return identifier
