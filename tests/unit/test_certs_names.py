"""Thing names: AWS's rule, and the names of a fleet."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.names import thing_names, valid_thing_name
from ops.errors import UserError


@pytest.mark.parametrize("name", ["a", "device-00001", "A:b_c-9", "x" * 128])
def test_names_that_aws_accepts(name: str) -> None:
    assert valid_thing_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 129, "../ca", "a b", "a.pem", "device-00001\n", "gerät", "a/b", "#", "+"])
def test_names_that_aws_refuses(name: str) -> None:
    with pytest.raises(UserError, match="no thing name") as refusal:
        valid_thing_name(name)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 160


@given(st.text(max_size=140))
def test_a_name_is_valid_exactly_by_the_rule_of_aws(name: str) -> None:
    allowed = re.match(r"\A[a-zA-Z0-9:_-]{1,128}\Z", name) is not None
    try:
        valid_thing_name(name)
    except UserError:
        assert not allowed
    else:
        assert allowed


def test_the_names_of_a_fleet() -> None:
    assert thing_names(3) == ["device-00001", "device-00002", "device-00003"]
    assert thing_names(2, prefix="pump_", start=99_999) == ["pump_99999", "pump_100000"]
    assert thing_names(1, prefix="", start=0) == ["00000"]


@pytest.mark.parametrize(
    ("count", "prefix", "start", "line"),
    [
        (0, "device-", 1, "device count of 0"),
        (-1, "device-", 1, "device count of -1"),
        (1, "device-", -1, "cannot start at -1"),
        (1, "a/", 1, "no thing name"),
        (1, "x" * 124, 1, "no thing name"),
    ],
)
def test_a_fleet_without_names(count: int, prefix: str, start: int, line: str) -> None:
    with pytest.raises(UserError, match=line):
        thing_names(count, prefix, start)
