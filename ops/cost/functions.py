"""Lambda: who is invoked how often, and for how long. EventBridge's scheduled rules cost nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from infra.settings import Settings
from ops.cost.assumptions import DAYS_PER_MONTH, Assumptions
from ops.cost.bill import Item
from ops.cost.deployed import Deployed, Resource
from ops.cost.pipeline import Load, Pipeline, architecture, loader_of
from ops.cost.storage import swept_objects_per_month
from ops.errors import UserError

_RATE = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")
_MINUTES = {"minute": 1, "hour": 60, "day": 1440}


@dataclass(frozen=True)
class Invocations:
    """Of one function in a month."""

    function: Resource
    count: float
    milliseconds: float
    """Of each."""
    memory_mib: int
    architecture: str
    of_objects: bool = False
    """Whether it is the loader, invoked for each object rather than by the clock."""

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.at("FunctionName") or self.function.logical_id)


def invocations(
    settings: Settings, deployed: Deployed, pipeline: Pipeline, load: Load, assumptions: Assumptions
) -> list[Invocations]:
    """The loader, for each object, and every function with a schedule. The others run when something has failed."""
    loader = loader_of(deployed)
    found = [
        Invocations(
            loader,
            load.objects,
            loader_milliseconds(pipeline, load, assumptions),
            pipeline.loader_memory_mib,
            pipeline.loader_architecture,
            of_objects=True,
        )
    ]
    for function, count in _scheduled(deployed).values():
        milliseconds = assumptions.scheduled_milliseconds
        if str(function.at("FunctionName")) == settings.names.sweeper:
            swept = swept_objects_per_month(settings, load) / count
            milliseconds += swept / assumptions.swept_objects_per_second * 1000
        memory = int(function.at("MemorySize") or 128)
        found.append(Invocations(function, count, milliseconds, memory, architecture(function)))
    return found


def lambda_items(invoked: list[Invocations]) -> Iterator[Item]:
    """Requests, and duration times memory, by architecture."""
    for one in invoked:
        yield Item("Lambda", f"{one.name}: requests", one.count / 1e6, "lambda.usd_per_million_requests")
        gib_seconds = one.count * one.milliseconds / 1000 * one.memory_mib / 1024
        what = f"{one.name}: {one.milliseconds:.0f} ms of {one.memory_mib} MiB"
        yield Item("Lambda", what, gib_seconds / 1e6, f"lambda.usd_per_million_gib_seconds_{one.architecture}")


def loader_milliseconds(pipeline: Pipeline, load: Load, assumptions: Assumptions) -> float:
    """For one object; memory buys CPU up to the one vCPU that the loader uses."""
    vcpus = min(1.0, pipeline.loader_memory_mib / assumptions.mib_per_vcpu)
    per_second = assumptions.loader_readings_per_second * vcpus
    return assumptions.loader_milliseconds_per_object + load.object_readings / per_second * 1000


def _scheduled(deployed: Deployed) -> dict[str, tuple[Resource, float]]:
    """Each function with a schedule, and how often a month it runs, over all of its schedules."""
    found: dict[str, tuple[Resource, float]] = {}
    for rule in deployed.of_type("AWS::Events::Rule"):
        expression = rule.at("ScheduleExpression")
        if expression is None or rule.at("State") == "DISABLED":
            continue
        for target in rule.at("Targets") or []:
            function = deployed.target(target.get("Arn"), rule.stack)
            if function is not None and function.kind == "AWS::Lambda::Function":
                name = f"{function.stack}/{function.logical_id}"
                found[name] = (function, found.get(name, (function, 0.0))[1] + runs_per_month(expression))
    return found


def runs_per_month(expression: str) -> float:
    """Of a schedule: `rate(...)`, or a cron expression that names one time of the day, or of chosen days.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html
    """
    if match := _RATE.fullmatch(expression):
        return DAYS_PER_MONTH * 24 * 60 / (int(match[1]) * _MINUTES[match[2]])
    fields = expression.removeprefix("cron(").removesuffix(")").split()
    if len(fields) == 6 and fields[0].isdigit():
        per_day = 24 if fields[1] == "*" else len(fields[1].split(","))
        days = DAYS_PER_MONTH / 7 * len(fields[4].split(",")) if fields[4] not in {"*", "?"} else DAYS_PER_MONTH
        return per_day * (days if fields[2] in {"*", "?"} else len(fields[2].split(",")))
    raise UserError(
        f"schedule {expression!r} is not understood: `fleet cost` reckons rate(...) and cron at set minutes"
    )
