"""A device's shadow and jobs, message by message: what is lost, doubled, late, broken or not for it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.names import Names
from simulator.devices.management import ANSWER_SECONDS, Management, Packet, Restart, Send, Subscribe, status_topic

THING = "device-00001"
JOBS = f"$aws/things/{THING}/jobs"
UPDATE = {"operation": "firmware_update", "version": "2.1.0"}


def device(**options: Any) -> Management:
    management = Management(THING, firmware="1.0.0", update_seconds=4.0, **options)
    management.connected()
    return management


def execution(document: Any = None, *, job_id: str = "job-1", version: int = 2) -> bytes:
    content = {"jobId": job_id, "versionNumber": version, "executionNumber": 7, "jobDocument": document or UPDATE}
    return json.dumps({"execution": content, "timestamp": 1}).encode()


def start(management: Management, document: Any = None, *, now: float = 0.0, **changed: Any) -> list[Packet]:
    return management.received(f"{JOBS}/start-next/accepted", execution(document, **changed), now)


def answer(management: Management, kind: str, now: float, job_id: str = "job-1", **document: Any) -> list[Packet]:
    return management.received(f"{JOBS}/{job_id}/update/{kind}", json.dumps(document).encode(), now)


def sent(packets: list[Packet]) -> dict[str, Any]:
    [packet] = packets
    assert isinstance(packet, Send)
    return {"topic": packet.topic.removeprefix("$aws/things/"), **json.loads(packet.payload)}


def accept(management: Management, packets: list[Packet], now: float) -> list[Packet]:
    return answer(management, "accepted", now, clientToken=sent(packets)["clientToken"])


def run(management: Management, now: float = 0.0) -> tuple[list[Packet], float]:
    """Ticks until the device reboots or has nothing to do; every report is accepted."""
    while management.due < 1_000:
        now = management.due
        packets = management.tick(now)
        if not packets or packets == [Restart()]:
            return packets, now
        accept(management, packets, now)
    return [], now


@pytest.mark.parametrize("environment", ["local", "dev", "staging", "prod"])
def test_the_will_goes_where_the_environments_rule_listens(environment: str) -> None:
    names = Names.of(environment)
    assert status_topic(names.topic) == status_topic(names.basic_ingest_topic) == names.status_topic
    topic, payload = Management(THING, firmware="1", status_topic=names.status_topic).will()
    assert topic == f"{names.status_topic}/{THING}"
    assert json.loads(payload) == {"state": {"reported": {"connected": False}}}
    assert status_topic("any/other") == "iot/status"


def test_answers_are_subscribed_to_before_anything_is_asked() -> None:
    packets = Management(THING, firmware="1.0.0").connected()
    kinds = [type(packet) for packet in packets]
    assert kinds == sorted(kinds, key=[Subscribe, Send].index)
    assert all(
        packet.topic.startswith(f"$aws/things/{THING}/") for packet in packets if not isinstance(packet, Restart)
    )


def test_an_update_reboots_once_and_says_so_afterwards() -> None:
    management = device()
    assert start(management) == []
    first = management.tick(management.due)
    assert sent(first) == {
        "topic": f"{THING}/jobs/job-1/update",
        "status": "IN_PROGRESS",
        "statusDetails": {"progress": "25", "step": "downloading"},
        "expectedVersion": 2,
        "executionNumber": 7,
        "clientToken": "2",
    }
    accept(management, first, management.due)
    packets, now = run(management)
    assert packets == [Restart()]
    assert management.firmware == "2.1.0"
    assert {"firmware": "2.1.0", "connected": True} in [
        json.loads(packet.payload).get("state", {}).get("reported")
        for packet in management.connected()
        if isinstance(packet, Send)
    ]
    done = start(management, version=6, now=now)
    assert (sent(done)["status"], sent(done)["expectedVersion"]) == ("SUCCEEDED", 6)
    accept(management, done, now)
    assert management.tick(1_000) == []


def test_an_answer_that_comes_twice_or_to_another_question_counts_once() -> None:
    management = device()
    start(management)
    report = management.tick(management.due)
    accept(management, report, 1)
    due = management.due
    accept(management, report, 2)
    answer(management, "accepted", 2, clientToken="99")
    assert management.due == due
    second = management.tick(due)
    assert (sent(second)["statusDetails"]["progress"], sent(second)["expectedVersion"]) == ("50", 3)
    due = management.due
    accept(management, report, 3)
    assert start(management) == [], "asked twice, for the job that it has"
    assert management.due == due
    assert management.tick(due) == second


def test_what_nobody_answers_is_sent_again_and_a_version_that_moved_is_followed() -> None:
    management = device()
    start(management)
    now = management.due
    report = management.tick(now)
    assert management.tick(now + ANSWER_SECONDS / 2) == []
    assert management.tick(now + ANSWER_SECONDS) == report
    again = answer(
        management,
        "rejected",
        now + 31,
        code="VersionMismatch",
        clientToken="2",
        executionState={"status": "IN_PROGRESS", "versionNumber": 3},
    )
    assert sent(again)["expectedVersion"] == 3
    assert answer(management, "rejected", now + 32, code="RequestThrottled", clientToken="3") == []
    assert management.tick(now + 32 + ANSWER_SECONDS) == again


@pytest.mark.parametrize(
    "code", ["TerminalStateReached", "ResourceNotFound", "InvalidStateTransition", "VersionMismatch"]
)
def test_a_job_that_is_over_is_dropped_and_the_next_is_asked_for(code: str) -> None:
    management = device()
    start(management)
    management.tick(management.due)
    assert sent(answer(management, "rejected", 2, code=code, clientToken="2"))["topic"] == f"{THING}/jobs/start-next"
    assert management.tick(1_000) == []


def test_an_update_survives_a_lost_connection_at_any_point() -> None:
    management = device()
    start(management)
    accept(management, management.tick(management.due), 1)
    management.tick(management.due)  # reported, and the answer is lost
    management.connected()
    assert management.tick(1_000) == [], "nothing before AWS has said how the job stands"
    assert start(management, version=4, now=50.0) == []
    assert sent(management.tick(management.due))["statusDetails"]["progress"] == "50"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"operation": "dance\x00" + "x" * 3_000}, "operation 'dance"),
        ({"operation": "firmware_update"}, "version None"),
        ({"operation": "firmware_update", "version": "2.1 beta"}, "version '2.1 beta'"),
        ({"operation": "firmware_update", "version": 3}, "version 3"),
        (["firmware_update"], "not a JSON object"),
    ],
)
def test_what_it_cannot_do_it_rejects_with_a_reason_also_the_second_time(document: Any, reason: str) -> None:
    management = device()
    for version in (2, 3):
        report = sent(start(management, document, version=version))
        assert (report["status"], report["expectedVersion"]) == ("REJECTED", version)
        text = report["statusDetails"]["reason"]
        assert reason in text
        assert text.isprintable()
        assert 0 < len(text) <= 1_024
        management.connected()
    assert management.firmware == "1.0.0"


@pytest.mark.parametrize(
    ("options", "document"), [({}, UPDATE | {"simulate": "fail"}), ({"updates_fail": True}, UPDATE)]
)
def test_an_update_that_is_to_fail_leaves_the_firmware(options: dict[str, Any], document: dict[str, str]) -> None:
    management = device(**options)
    start(management, document)
    statuses = []
    while management.due < 100:
        report = management.tick(management.due)
        statuses.append(sent(report)["status"])
        accept(management, report, management.due)
        if statuses[-1] == "FAILED":
            break
    assert statuses == ["IN_PROGRESS", "IN_PROGRESS", "FAILED"]
    assert management.firmware == "1.0.0"
    assert management.tick(1_000) == []


def test_a_job_that_an_operator_takes_back_gives_way_to_the_next() -> None:
    management = device()
    start(management)
    notified = management.received(f"{JOBS}/notify-next", execution(job_id="job-2"), 1)
    assert sent(notified)["topic"] == f"{THING}/jobs/start-next"
    start(management, job_id="job-2", now=1.0)
    assert sent(management.tick(management.due))["topic"] == f"{THING}/jobs/job-2/update"
    assert management.received(f"{JOBS}/notify-next", b'{"timestamp": 1}', 2) == []
    assert management.tick(1_000) == []


def test_a_late_will_is_contradicted_but_not_by_a_device_that_leaves() -> None:
    management = device()
    topic = f"$aws/things/{THING}/shadow/update/accepted"
    offline = b'{"state": {"reported": {"connected": false}}}'
    assert sent(management.received(topic, offline, 0))["state"]["reported"]["connected"] is True
    assert management.received(topic, offline.replace(b"false", b"true"), 0) == []
    assert sent(management.disconnecting())["state"]["reported"] == {"connected": False}
    assert management.received(topic, offline, 0) == []


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["execution", "executionState", "state", "reported", "jobId", "versionNumber", "jobDocument"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "start-next/accepted",
                    "start-next/rejected",
                    "notify-next",
                    "job-1/update/accepted",
                    "job-1/update/rejected",
                    "x",
                ]
            ),
            documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=8),
        ),
        max_size=6,
    )
)
def test_nothing_that_comes_breaks_it_and_what_is_for_others_is_left_alone(messages: list[tuple[str, bytes]]) -> None:
    management = device()
    start(management)
    for name, payload in messages:
        assert management.received(f"$aws/things/{THING}0/jobs/{name}", payload, 0) == []
        for packet in management.received(f"{JOBS}/{name}", payload, 0):
            assert isinstance(packet, Send)
            assert packet.topic.startswith(f"{JOBS}/")
