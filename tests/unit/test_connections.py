"""The connection budget against what is deployed: no function can hold more connections than the budget gives it."""

from typing import Any

import pytest

from infra.connections import LOADER_LOGINS, ConnectionBudget, connection_budget
from infra.settings import load
from tests.infra.templates import ENVIRONMENTS, Synthesised, synthesised

_SCHEDULED = {"sweeper", "watch", "maintenance", "migrator", "rotation"}
"""Names of functions without a limit on their concurrency: what invokes them has a schedule, or is the deployment."""
_OF_NO_DATABASE = {"STAMP_SECRET_ARN"}


@pytest.fixture(params=ENVIRONMENTS)
def template(request: pytest.FixtureRequest) -> Synthesised:
    return synthesised(request.param)


def with_secrets(template: Synthesised) -> dict[str, dict[str, Any]]:
    """The functions that log in to the database, by `layer/logical id`."""
    found = {}
    for identity, body in template.everywhere("AWS::Lambda::Function").items():
        variables = body["Properties"].get("Environment", {}).get("Variables", {})
        if any(name.endswith("SECRET_ARN") and name not in _OF_NO_DATABASE for name in variables):
            found[identity] = body["Properties"]
    return found


def max_concurrency(template: Synthesised, identity: str, function: dict[str, Any]) -> int | None:
    """How many of a function run at once, by its event sources or its reserved concurrency; None: without a limit."""
    layer, _, logical_id = identity.partition("/")
    limits = [
        mapping["Properties"]["ScalingConfig"]["MaximumConcurrency"]
        for mapping in template.of(layer).of_type("AWS::Lambda::EventSourceMapping").values()
        if mapping["Properties"]["FunctionName"] in ({"Ref": logical_id}, {"Fn::GetAtt": [logical_id, "Arn"]})
    ]
    reserved = function.get("ReservedConcurrentExecutions")
    if reserved is not None:
        return int(reserved)
    return sum(limits) if limits else None


def test_every_function_that_logs_in_is_in_the_budget_with_its_concurrency(template: Synthesised) -> None:
    budget = connection_budget(template.settings)
    scheduled = {getattr(template.settings.names, name) for name in _SCHEDULED}
    functions = with_secrets(template)
    assert len(functions) >= 3
    for identity, function in functions.items():
        name = function["FunctionName"]
        assert name in budget.clients, f"{name} logs in to the database, and the budget does not know it"
        limit = max_concurrency(template, identity, function)
        if limit is None:
            assert name in scheduled, f"{name} may run as often at once as it likes"
        else:
            # Twice: what the release before left behind is there for another 90 s.
            assert budget.clients[name] >= 2 * limit, name


def test_the_server_takes_all_clients_at_once_and_an_administrator_besides(template: Synthesised) -> None:
    budget = connection_budget(template.settings)
    assert budget.max_connections - budget.superuser_reserve >= sum(budget.clients.values()) * 1.2 - 1
    assert budget.superuser_reserve >= 3


def test_either_login_may_hold_all_connections_of_the_loader_and_leaves_those_of_others() -> None:
    budget = connection_budget(load("prod"))
    assert set(budget.limits) == {*LOADER_LOGINS, "grafana", "scada"}
    for limit in (budget.limits[login] for login in LOADER_LOGINS):
        assert limit == sum(budget.loader.values())
        assert limit < budget.max_connections - sum(budget.admin.values()) - sum(budget.people.values())


def test_consumers_have_their_share_and_no_more() -> None:
    budget = connection_budget(load("prod"))
    assert budget.consumers == {login: budget.limits[login] for login in ("grafana", "scada")}
    without = connection_budget(load("prod", {"scada_login": "false"}))
    assert budget.max_connections - without.max_connections == pytest.approx(1.2 * (budget.limits["scada"] + 1), abs=1)


def test_it_grows_with_the_loader() -> None:
    few, many = (connection_budget(load("prod", {"loader_max_concurrency": str(n)})) for n in (5, 50))
    assert many.max_connections - few.max_connections == round(45 * 2 * 1.2)


def test_no_client_is_counted_twice() -> None:
    budget = ConnectionBudget(loader={"a": 1}, admin={"b": 2}, people={"c": 3})
    assert budget.clients == {"a": 1, "b": 2, "c": 3}
    assert budget.max_connections == 6 + 1 + 3
