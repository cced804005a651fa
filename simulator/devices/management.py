"""What a device does besides telemetry: its shadow, IoT Jobs that update its firmware, and its last will. No I/O.

A device says in its classic shadow which firmware it runs and that it is connected. Its last will says the opposite: a will
cannot go to a topic that AWS reserves, so it goes to `iot/status/<thing>`, from where the rule DeviceStatusToShadow
republishes it to the shadow.
https://docs.aws.amazon.com/iot/latest/developerguide/device-shadow-comms-app.html#thing-connection

Jobs follow AWS's MQTT API: the device asks for the next one, reports progress with the version of the execution that it
expects, so that what was sent twice counts once, and after the reboot finds its job in progress again and ends it.
https://docs.aws.amazon.com/iot/latest/developerguide/jobs-mqtt-api.html
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import orjson

UPDATE_SECONDS = 6.0
"""How long a simulated download and installation takes."""
ANSWER_SECONDS = 30.0
"""After so long without an answer a request is sent again."""

OPERATION = "firmware_update"
_STEPS = (("downloading", 25), ("downloading", 50), ("installing", 75), ("rebooting", 90))
_FAILS_AT = 2
"""Index of the step that a failing update does not come through."""
_BASIC_INGEST = re.compile(r"\$aws/rules/[^/]+/")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DETAIL_CHARACTERS = 1_024
"""https://docs.aws.amazon.com/iot/latest/apireference/API_iot-jobs-data_JobExecutionState.html"""
_TRANSIENT = frozenset({"RequestThrottled", "InternalError"})


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe at QoS 1."""

    topic: str


@dataclass(frozen=True, slots=True)
class Send:
    """Publish at QoS 1."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Restart:
    """The device reboots: its link stops and starts again."""


Packet = Subscribe | Send | Restart


def status_topic(telemetry_topic: str) -> str:
    """Where the last wills of devices go that publish below `telemetry_topic`: `iot/status-dev` for `iot/telemetry-dev`.

    The same for the topic's Basic Ingest form; `iot/status` for a topic that does not have our name.
    """
    topic = _BASIC_INGEST.sub("", telemetry_topic, count=1)
    prefix, telemetry, suffix = topic.partition("telemetry")
    return f"{prefix}status{suffix}" if telemetry else "iot/status"


@dataclass(slots=True)
class _Job:
    """The job execution in work, as AWS last had it."""

    job_id: str
    number: int | None
    version: int
    target: str
    """Firmware that it installs."""
    fails: bool
    due: float
    """When its next report is due."""
    steps_done: int = 0
    report: dict[str, Any] | None = None
    """What was reported and is not answered yet, less the version."""


@dataclass(slots=True)
class Management:
    """The management side of one device.

    Call `connected` whenever a connection is made, `received` for every message that comes over it, `tick` when `due` has
    come, and `disconnecting` before the link is stopped on purpose: each returns what is to be done, in order. While there is no
    connection call none of them: what was interrupted is taken up by the next `connected`. `now` is a time in seconds of
    any one clock that only rises.
    """

    thing_name: str
    firmware: str = field(kw_only=True)
    """What it runs; changes with an update."""
    status_topic: str = field(default="iot/status", kw_only=True)
    """Topic to which the device appends its name for its last will."""
    update_seconds: float = field(default=UPDATE_SECONDS, kw_only=True)
    updates_fail: bool = field(default=False, kw_only=True)
    """Whether every update fails, and not only those whose document says `"simulate": "fail"`."""
    due: float = field(default=inf, init=False)
    """When `tick` has something to do; inf while it has not."""
    _job: _Job | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)
    """Whether the next job was asked for, and no answer has come."""
    _leaving: bool = field(default=False, init=False)

    def will(self) -> tuple[str, bytes]:
        """Topic and payload of the last will; not to be retained, or it would outlive the device's return."""
        return f"{self.status_topic}/{self.thing_name}", _reported(connected=False)

    def connected(self) -> list[Packet]:
        """What a device says and asks once it is connected; answers are subscribed to before the questions are put."""
        self._leaving = False
        self.due = inf
        if self._job is not None:
            self._job.report = None
        jobs, shadow = self._things("jobs"), self._things("shadow")
        return [
            Subscribe(f"{shadow}/update/accepted"),
            Subscribe(f"{jobs}/notify-next"),
            Subscribe(f"{jobs}/start-next/accepted"),
            Subscribe(f"{jobs}/start-next/rejected"),
            Subscribe(f"{jobs}/+/update/accepted"),
            Subscribe(f"{jobs}/+/update/rejected"),
            self._say_connected(),
            self._ask(),
        ]

    def disconnecting(self) -> list[Packet]:
        """The last words of a device that goes in an orderly way, for which the broker publishes no will."""
        self._leaving = True
        self.due = inf
        return [Send(f"{self._things('shadow')}/update", _reported(connected=False))]

    def received(self, topic: str, payload: bytes, now: float) -> list[Packet]:
        """What a message calls for; nothing, when it is not for this device or cannot be read."""
        document = _object(payload)
        if document is None or self._leaving:
            return []
        packets: list[Packet] = []
        match topic.removeprefix(self._things("")).split("/"):
            case ["shadow", "update", "accepted"]:
                packets = self._shadow_updated(document)
            case ["jobs", "notify-next"]:
                packets = self._next_changed(document)
            case ["jobs", "start-next", "accepted"]:
                packets = self._started(document, now)
            case ["jobs", "start-next", "rejected"]:
                self.due = min(self.due, now + ANSWER_SECONDS)
            case ["jobs", job_id, "update", answer] if self._job is not None and job_id == self._job.job_id:
                answered = {"accepted": self._report_accepted, "rejected": self._report_rejected}
                packets = answered[answer](self._job, document, now) if answer in answered else []
        return packets

    def tick(self, now: float) -> list[Packet]:
        """The progress of a job that is due by now, or a request again that nobody answered."""
        if self.due > now:
            return []
        self.due = inf
        job = self._job
        if job is None:
            return [self._ask()] if self._asked else []
        if job.report is not None:
            return [self._report_again(job, now)]
        if job.due > now:
            self.due = job.due
            return []
        return self._proceed(job, now)

    # The shadow.

    def _shadow_updated(self, document: Mapping[str, Any]) -> list[Packet]:
        """The will of a former connection may arrive after this one was made, and must not have the last word."""
        reported = _member(_member(document, "state"), "reported")
        return [self._say_connected()] if reported.get("connected") is False else []

    def _say_connected(self) -> Send:
        return Send(f"{self._things('shadow')}/update", _reported(firmware=self.firmware, connected=True))

    # Jobs.

    def _ask(self) -> Send:
        self._asked = True
        return Send(f"{self._things('jobs')}/start-next", b"{}")

    def _next_changed(self, document: Mapping[str, Any]) -> list[Packet]:
        job_id = _member(document, "execution").get("jobId")
        if self._job is not None and job_id != self._job.job_id:
            self._forget()  # canceled, timed out or deleted
        return [self._ask()] if job_id is not None and self._job is None else []

    def _started(self, document: Mapping[str, Any], now: float) -> list[Packet]:
        self._asked = False
        execution = _member(document, "execution")
        job_id, version = execution.get("jobId"), execution.get("versionNumber")
        if not isinstance(job_id, str) or not isinstance(version, int):
            self._forget()  # there is none
            return []
        number, order = execution.get("executionNumber"), execution.get("jobDocument")
        job = self._job
        if job is None or (job.job_id, job.number) != (job_id, number):
            fails = self.updates_fail or _mapping(order).get("simulate") == "fail"
            job = self._job = _Job(job_id, number, version, str(_mapping(order).get("version")), fails, now)
        elif job.report is not None:
            return []  # the answer to a question that was put twice
        job.version = version
        reason = _unacceptable(order)
        if reason is not None:
            return [self._report(job, now, "REJECTED", reason=reason)]
        if job.target == self.firmware:
            return [self._report(job, now, "SUCCEEDED", progress="100", firmware=self.firmware)]
        job.due = now + self.update_seconds / len(_STEPS)
        self.due = job.due
        return []

    def _proceed(self, job: _Job, now: float) -> list[Packet]:
        if job.steps_done == len(_STEPS):
            self.firmware = job.target
            return [Restart()]
        step, progress = _STEPS[job.steps_done]
        if job.fails and job.steps_done == _FAILS_AT:
            reason = "the update was told to fail"
            return [self._report(job, now, "FAILED", progress=str(progress), step=step, reason=reason)]
        return [self._report(job, now, "IN_PROGRESS", progress=str(progress), step=step)]

    def _report(self, job: _Job, now: float, status: str, **details: str) -> Send:
        job.report = {
            "status": status,
            "statusDetails": {name: text[:_DETAIL_CHARACTERS] for name, text in details.items()},
        }
        return self._report_again(job, now)

    def _report_again(self, job: _Job, now: float) -> Send:
        self.due = now + ANSWER_SECONDS
        request = {**(job.report or {}), "expectedVersion": job.version, "clientToken": str(job.version)}
        if job.number is not None:
            request["executionNumber"] = job.number
        return Send(f"{self._things('jobs')}/{job.job_id}/update", orjson.dumps(request))

    def _report_accepted(self, job: _Job, document: Mapping[str, Any], now: float) -> list[Packet]:
        if job.report is None or document.get("clientToken") != str(job.version):
            return []  # the answer to an earlier report, delivered twice
        status = job.report["status"]
        job.report = None
        job.version += 1
        if status != "IN_PROGRESS":
            self._forget()  # and the next one is announced on notify-next
            return []
        job.steps_done += 1
        job.due = self.due = now + self.update_seconds / len(_STEPS)
        return []

    def _report_rejected(self, job: _Job, document: Mapping[str, Any], now: float) -> list[Packet]:
        if job.report is None or document.get("clientToken") not in {None, str(job.version)}:
            return []
        state = _member(document, "executionState")
        code, version = document.get("code"), state.get("versionNumber")
        if code in _TRANSIENT:
            self.due = now + ANSWER_SECONDS
            return []
        if code == "VersionMismatch" and state.get("status") == "IN_PROGRESS" and isinstance(version, int):
            job.version = version
            return [self._report_again(job, now)]
        self._forget()  # over, by whatever way: an operator may have canceled it
        return [self._ask()]

    def _forget(self) -> None:
        self._job = None
        self.due = inf

    def _things(self, service: str) -> str:
        return f"$aws/things/{self.thing_name}/{service}"


def _unacceptable(document: object) -> str | None:
    """Why a job's document is none that a device can carry out, or None; without control characters, which AWS refuses."""
    if not isinstance(document, dict):
        return "the job document is not a JSON object"
    operation, version = document.get("operation"), document.get("version")
    if operation != OPERATION:
        return f"operation {operation!r} is not known: a device knows {OPERATION}"
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return f"version {version!r} is no firmware version such as '2.1.0'"
    return None


def _reported(**state: object) -> bytes:
    return orjson.dumps({"state": {"reported": state}})


def _object(payload: bytes) -> Mapping[str, Any] | None:
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _member(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _mapping(document.get(name))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
