"""The stamp: which lines it lets in, that it is never shown, and when the secret is read again."""

import json
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from lambdas.processor.kept_stamps import KeptStamps, read_stamps
from lambdas.shared.stamp import Stamps, StampSecretError, decode_stamps

NEW, OLD = "N" * 16 + "e" * 16, "O" * 16 + "l" * 16


def test_the_current_and_earlier_stamps_are_admitted_and_nothing_else() -> None:
    stamps = decode_stamps(json.dumps({"stamp": NEW, "earlier": [OLD]}), "s")
    assert stamps.current == NEW
    assert stamps.admits(NEW)
    assert stamps.admits(OLD)
    refused: list[object] = [None, "", NEW[:-1], NEW + "e", NEW.lower(), 1, True, [NEW], {"stamp": NEW}, NEW.encode()]
    assert not any(stamps.admits(other) for other in refused)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"stamp": ""}',
        '{"stamp": null}',
        '{"stamp": "tooShort0123456789"}',
        json.dumps({"stamp": NEW[:-1] + "'"}),
        json.dumps({"stamp": NEW + "\n"}),
        json.dumps({"stamp": NEW, "earlier": [""]}),
        json.dumps({"stamp": NEW, "earlier": OLD}),
    ],
)
def test_a_secret_that_would_admit_what_can_be_guessed_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(StampSecretError, match="stamp secret the-secret cannot be used: ") as caught:
        decode_stamps(text, "the-secret")
    assert NEW[:8] not in str(caught.value)
    assert OLD[:8] not in str(caught.value)


def test_the_stamps_do_not_show() -> None:
    assert NEW not in repr(Stamps(NEW, OLD))
    assert NEW not in repr(Secret(NEW).kept()) + repr(Secret(NEW).kept().ready())


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f'{{"a":1,"stamp":"{NEW}"}}', '{"a":1}'),
        (f'{{"a": 1, "stamp" : "{OLD}", "b": 2}}', '{"a": 1, "b": 2}'),
        (f'{{"stamp":"{NEW}","a":1}}', '{"a":1}'),
        (f'{{"stamp": "{NEW}"}}', "{}"),
        ('{"a":1,"stamp":"somebody else\'s"}', '{"a":1,"stamp":"somebody else\'s"}'),
        (f'{{"a":1,"stamp":"{NEW}', '{"a":1,"stamp":"***'),
        (f"{NEW}{OLD}", "******"),
        (f'{{"a":1,"stamp":"{NEW[::-1]}"}}', '{"a":1,"stamp":"***"}'),
        (f'{{"a":1,"stamp":"{NEW[:20]}', '{"a":1,"stamp":"***'),
    ],
)
def test_a_line_is_shown_without_its_stamp(line: str, shown: str) -> None:
    assert Stamps(NEW, OLD).without(line.encode()) == shown.encode()


@given(
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.just("stamp")), max_size=4),
    st.integers(0, 4),
    st.sampled_from([NEW, OLD]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]),
)
def test_without_the_stamp_the_other_members_are_the_same(
    members: dict[str, Any], at: int, stamp: str, separators: tuple[str, str]
) -> None:
    pairs = list((members | {}).items())
    pairs = [pair for pair in pairs if pair[0] != "stamp"]
    pairs.insert(at, ("stamp", stamp))
    line = json.dumps(dict(pairs), separators=separators, ensure_ascii=False).encode("utf-8", "surrogatepass")
    shown = Stamps(NEW, OLD).without(line)
    assert stamp.encode() not in shown
    assert list(json.loads(shown.decode("utf-8", "surrogatepass")).items()) == [p for p in pairs if p[0] != "stamp"]


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_around_it_make_it_show(before: bytes, after: bytes) -> None:
    assert NEW.encode() not in Stamps(NEW, OLD).without(before + NEW.encode() + after)


class Secret:
    """A secret that can change, and how often it was read."""

    def __init__(self, *stamps: str) -> None:
        self.stamps = stamps
        self.reads = 0
        self.now = 1000.0
        self.error: Exception | None = None

    def read(self) -> Stamps:
        self.reads += 1
        if self.error:
            raise self.error
        return Stamps(*self.stamps)

    def kept(self) -> KeptStamps:
        return KeptStamps(self.read, lambda: self.now)


def test_the_secret_is_read_once_for_all_lines_that_are_the_rules() -> None:
    secret = Secret(NEW, OLD)
    kept = secret.kept().ready()
    assert all(kept.ready().admits(stamp) for stamp in (NEW, OLD) * 1000)
    assert kept.valid == {NEW, OLD}
    assert secret.reads == 1


def test_a_stamp_that_was_changed_is_known_within_a_minute_and_forgeries_cost_a_call_a_minute() -> None:
    secret = Secret(OLD)
    kept = secret.kept().ready()
    secret.stamps = (NEW, OLD)
    secret.now += 59
    assert not kept.admits(NEW)
    assert secret.reads == 1
    secret.now += 1
    assert kept.admits(NEW)
    assert kept.admits(OLD)
    assert secret.reads == 2
    assert not any(kept.admits("forged") for _ in range(1000))
    assert secret.reads == 2
    secret.now += 61
    assert not any(kept.admits("forged") for _ in range(1000))
    assert secret.reads == 3


def test_what_cannot_be_known_is_not_refused() -> None:
    """A line is in quarantine for good; a message that failed comes again."""
    secret = Secret(OLD)
    kept = secret.kept().ready()
    secret.now += 60
    secret.error = OSError("unreachable")
    with pytest.raises(OSError, match="unreachable"):
        kept.admits(NEW)
    assert kept.admits(OLD), "what is known still loads"
    secret.error, secret.stamps = None, (NEW, OLD)
    assert kept.admits(NEW)


def test_a_secret_that_cannot_be_read_lets_nothing_in() -> None:
    secret = Secret(OLD)
    secret.error = OSError("unreachable")
    kept = secret.kept()
    for _ in range(2):
        with pytest.raises(OSError, match="unreachable"):
            kept.ready()


def test_the_loader_reads_the_secret_that_its_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        secrets = boto3.client("secretsmanager")
        arn = secrets.create_secret(Name="s", SecretString=json.dumps({"stamp": NEW, "earlier": [OLD]}))["ARN"]
        monkeypatch.setenv("STAMP_SECRET_ARN", arn)
        assert read_stamps().valid == {NEW, OLD}
        secrets.put_secret_value(SecretId=arn, SecretString="{}")
        with pytest.raises(StampSecretError, match=arn):
            read_stamps()
