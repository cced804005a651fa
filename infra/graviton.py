"""The Graviton types on which the database may run, and what each has of processors and memory."""

from dataclasses import dataclass

from ops.errors import UserError

_GIB = 1024


@dataclass(frozen=True)
class Size:
    """What an instance type has."""

    vcpus: int
    memory_mib: int


# https://docs.aws.amazon.com/ec2/latest/instancetypes/gp.html and .../mo.html. Burstable types under 2 GiB are left out:
# PostgreSQL, pgBackRest and the CloudWatch agent do not fit there.
_VCPUS = {
    "medium": 1,
    "large": 2,
    "xlarge": 4,
    "2xlarge": 8,
    "4xlarge": 16,
    "8xlarge": 32,
    "12xlarge": 48,
    "16xlarge": 64,
}
_GIB_PER_VCPU = {"m7g": 4, "m8g": 4, "r7g": 8, "r8g": 8}
_SIZES: dict[str, Size] = {
    "t4g.small": Size(2, 2 * _GIB),
    "t4g.medium": Size(2, 4 * _GIB),
    "t4g.large": Size(2, 8 * _GIB),
    "t4g.xlarge": Size(4, 16 * _GIB),
    "t4g.2xlarge": Size(8, 32 * _GIB),
} | {
    f"{family}.{size}": Size(vcpus, vcpus * gib * _GIB)
    for family, gib in _GIB_PER_VCPU.items()
    for size, vcpus in _VCPUS.items()
}


def size_of(instance_type: str) -> Size:
    """What `instance_type` has; the database's memory settings are reckoned from it.

    Raises UserError when the type is not one that is known here.
    """
    try:
        return _SIZES[instance_type]
    except KeyError:
        known = "t4g.small to t4g.2xlarge, and medium to 16xlarge of " + ", ".join(_GIB_PER_VCPU)
        raise UserError(f"database_instance_type is {instance_type!r}: it is one of {known}") from None
